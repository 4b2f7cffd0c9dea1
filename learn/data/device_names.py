"""Names of devices, told apart without torch; `learn/data/devices.py` finds what they name."""

from store.errors import ConfigError

NAMES = ("auto", "cpu", "cuda")


def check_device(name: str) -> None:
    """Refuse a device that there is none of; whether this machine has it is found out later.

    Raises:
        ConfigError: names those there are.
    """
    if name.partition(":")[0] not in NAMES:
        raise ConfigError(f"no device {name!r}; there are {', '.join(NAMES)}")
