"""Libraries that not everybody has: imported when they are asked for."""

from importlib import import_module
from typing import Any

from store.errors import ConfigError


def library(name: str, extra: str) -> Any:
    """An optional library, of the extra that installs it.

    Raises:
        ConfigError: it cannot be imported; says what to install.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name.partition('.')[0]} cannot be imported ({error}); install it with "
            f"`pip install 'microshot[{extra}]'`"
        ) from error
