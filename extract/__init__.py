"""Clips to features: decode once, encode with frozen networks, commit to a store.

Importing this package is cheap; torch comes with the first encoder.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extract.encoders import Encoder


def load_encoder(spec: str, device: str = "cpu", precision: str = "fp32") -> "Encoder":
    """The frozen network that SPEC names, ready to use.

    Raises:
        UnknownPlugin, UnknownSetting: no such encoder or setting.
        WeightsError: no weights given, or weights that do not fit.
        MissingFile: the weights' file is not there.
        ConfigError: a setting, device or precision out of range.
    """
    from store import plugins

    encoder: Encoder = plugins.build("extract.encoders", spec, device=device, precision=precision)
    return encoder
