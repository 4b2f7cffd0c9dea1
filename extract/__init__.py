"""Clips to features: decode once, encode with frozen networks, commit to a store.

Importing this package is cheap; torch comes with the first encoder.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extract.encoders import Encoder


def load_encoder(spec: str, device: str = "cpu", precision: str = "fp32") -> "Encoder":
    """The frozen network that SPEC names, ready to use.

    `precision="auto"` is bf16 on a GPU for encoders that keep their rows in it, and fp32 otherwise.

    Raises:
        UnknownPlugin, UnknownSetting: no such encoder or setting.
        WeightsError: no weights given, or weights that do not fit.
        MissingFile: the weights' file is not there.
        ConfigError: a setting, device or precision out of range.
    """
    from store import plugins
    from store.errors import ConfigError

    family = "extract.encoders"
    parsed = plugins.parse_spec(spec)
    offered = plugins.module(family, parsed.name).DESCRIPTION.precisions
    if precision == "auto":
        precision = "bf16" if device.startswith("cuda") and "bf16" in offered else "fp32"
    if precision == "bf16" and precision not in offered:
        raise ConfigError(
            f"{parsed.name} keeps its rows in {', '.join(offered)} only (in bf16 they would point "
            f"elsewhere by a cosine below .999); use precision=auto"
        )
    encoder: Encoder = plugins.build(family, parsed, device=device, precision=precision)
    return encoder
