"""Where a training may run, by name."""

from store.errors import ConfigError

DEVICES = ("cpu", "cuda")


def check_device(name: str) -> None:
    """Refuse a device that there is none of; whether this machine has it is found out later.

    Raises:
        ConfigError: names those there are.
    """
    if name.partition(":")[0] not in DEVICES:
        raise ConfigError(f"no device {name!r}; there are {' and '.join(DEVICES)}")
