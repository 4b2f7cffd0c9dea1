"""Files and directories that appear whole or not at all.

What is to become `path` is written under a name beside it, `.<name>-<random>.unfinished`, and
renamed when it is complete. If anything goes wrong before, `path` is as it was and that name is
gone; after a kill it is left, and nobody reads it. `durable` flushes the bytes before the rename
and the directory after it, so that a power cut cannot leave an empty file under the final name.

    atomic.write_json(run_dir / "done.json", facts, durable=True)
    with atomic.directory(output) as staged:
        (staged / "result.json").write_text(text)

Errors of the operating system are left to the caller, who knows what was being written.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

_KEPT_OF_NAME = 56  # characters of up to four bytes: with what is added, 255 bytes hold them


@contextmanager
def staged(path: Path, *, replace: bool = True, durable: bool = False) -> Iterator[Path]:
    """A free name beside `path`, for a file or a directory that becomes `path` in the end.

    A directory never replaces one with files in it.

    Raises:
        FileExistsError: `path` is there, and not to be replaced.
        OSError: the disk refused.
    """
    if not replace:
        _refuse_existing(path)
    target = path.absolute()
    temporary = target.with_name(f".{path.name[:_KEPT_OF_NAME]}-{token_hex(6)}.unfinished")
    try:
        yield temporary
        if durable:
            fsync_tree(temporary)
        if not replace:
            _refuse_existing(path)
        temporary.replace(target)
        if durable:
            fsync(target.parent)
    finally:
        _remove(temporary)


@contextmanager
def directory(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A new directory to fill, which becomes `path`; the directories above it are made.

    Raises:
        OSError: `path` is there with files in it, or the disk refused.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path, durable=durable) as temporary:
        temporary.mkdir()
        yield temporary


def write_bytes(path: Path, data: bytes, *, replace: bool = True, durable: bool = False) -> None:
    """Make a file of these bytes.

    Raises:
        FileExistsError: `path` is there, and not to be replaced.
        OSError: the disk refused.
    """
    with staged(path, replace=replace, durable=durable) as temporary, temporary.open("xb") as file:
        file.write(data)


def write_text(path: Path, text: str, *, replace: bool = True, durable: bool = False) -> None:
    """Make a file of this text, in UTF-8 and with its line ends as they are."""
    write_bytes(path, text.encode(), replace=replace, durable=durable)


def write_json(
    path: Path, value: Any, *, indent: int | None = 1, replace: bool = True, durable: bool = False
) -> None:
    """Make a file of this value as JSON, with a line end."""
    text = json.dumps(value, indent=indent) + "\n"
    write_text(path, text, replace=replace, durable=durable)


def fsync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(path: Path) -> None:
    """Flush a file, or everything in a directory and then the directory itself."""
    if not path.is_dir():
        fsync(path)
        return
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            fsync(Path(folder, name))
        fsync(Path(folder))


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _remove(path: Path) -> None:
    """Remove what is left under a staged name, which after the rename is nothing."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()
