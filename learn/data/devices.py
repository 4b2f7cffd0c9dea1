"""The device that `--device` names, and ways onto it that wait for nothing."""

import torch
from torch import Tensor

from learn.data.device_names import NAMES, check_device
from store.errors import ConfigError

CPU = torch.device("cpu")


def chosen(name: str) -> torch.device:
    """The torch device of that name; `auto` is a GPU if there is one.

    Raises:
        ConfigError: no such device here; nothing runs elsewhere silently.
    """
    check_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"no device {name!r}; there are {', '.join(NAMES)}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("`device` cuda, but torch finds no GPU; use `device` cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"no device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` on the device. What comes from memory is on its way when this returns: a copy that waits
    for its end waits for all work that the device was given before."""
    return x.to(device, non_blocking=x.device.type == "cpu")
