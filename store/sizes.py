"""Numbers of bytes as people write and read them."""

import re

from store.errors import ConfigError

_UNITS = ("", "k", "M", "G", "T")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kKMGT])(i?))?B?")


def size(count: int | float) -> str:
    """Bytes for people: 1.7 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def parse_size(text: str) -> int:
    """Bytes of `512MiB`, `2G`, `1.5 GB` or `4096`; units with an i count in 1,024.

    Raises:
        ConfigError: it is no such number, or less than a byte.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no size; write it like 512MiB, 2GB or 4096")
    number, unit, binary = match.groups()
    power = _UNITS.index((unit or "").replace("K", "k"))
    count = int(float(number) * (1024 if binary else 1000) ** power)
    if count < 1:
        raise ConfigError(f"{text!r} is less than a byte")
    return count
