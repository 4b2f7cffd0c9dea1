"""Class and column names as names in a file system or an HDF5 group, and back."""

import re
from urllib.parse import unquote

from store.errors import InputError

MAX_NAME_BYTES = 240
_UNSAFE = re.compile(r'[/\\:*?"<>|%\x00-\x1f\x7f]|^\.|[. ]$')


def quoted(name: str) -> str:
    """`name` as one path component: nothing in it can leave a directory.

    Raises:
        InputError: it is empty or too long for a file name.
    """
    made = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", name)
    if not 1 <= len(made.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES:
        raise InputError(f"{name[:60]!r} cannot be a file name; at most {MAX_NAME_BYTES} bytes fit")
    return made


def unquoted(name: str) -> str:
    """The inverse of `quoted`; a name that `quoted` would not have made means itself."""
    try:
        decoded = unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name
    return decoded if decoded and quoted(decoded) == name else name
