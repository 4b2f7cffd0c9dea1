"""Clips to features: decode once, encode with frozen networks, commit to a store.

Importing this package is cheap; torch comes with the first encoder.
"""

from typing import TYPE_CHECKING

__all__ = ["load_encoder"]

if TYPE_CHECKING:
    from extract.encoders import Encoder
    from extract.weights.by_name import Fetching


def load_encoder(
    spec: str,
    device: str = "cpu",
    precision: str = "fp32",
    *,
    fetching: "Fetching | None" = None,
) -> "Encoder":
    """The frozen network that SPEC names, ready to use.

    `precision="auto"` is bf16 on a GPU for encoders that keep their rows in it, and fp32 otherwise.
    Weights that are named, or left to us, are fetched if need be, as `fetching` allows.

    >>> encoder = extract.load_encoder("logmel")
    >>> encoder(torch.zeros(2, 16_000)).shape
    torch.Size([2, 448])

    Raises:
        UnknownPlugin, UnknownSetting: no such encoder or setting.
        WeightsError: weights that do not fit, are not here and cannot or may not be fetched.
        MissingFile: the weights' file is not there.
        ConfigError: a setting, device or precision out of range.
    """
    from extract.weights import by_name
    from extract.weights.choice import check_precision
    from store import plugins

    family = "extract.encoders"
    parsed = by_name.resolved(plugins.parse_spec(spec, family), fetching or by_name.Fetching())
    offered = plugins.module(family, parsed.name).DESCRIPTION.precisions
    if precision == "auto":
        precision = "bf16" if device.startswith("cuda") and "bf16" in offered else "fp32"
    check_precision(parsed.name, precision, offered)
    encoder: Encoder = plugins.build(family, parsed, device=device, precision=precision)
    return encoder


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
