"""What a store asks of the place it lies in: six verbs, on a file system or in a bucket.

A key is text such as `commits/<feature>/<unit>.json`, relative to the store's root. Nothing is ever
replaced: a key is put once, and a part comes to be as a whole.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex
from typing import Protocol, runtime_checkable

from store import files
from store.errors import ConfigError

_MAX_SMALL_BYTES = 1 << 30


@runtime_checkable
class Storage(Protocol):
    """Verbs raise `StoreError` where the storage refuses, `DamagedStore` where a key lacks."""

    name: str  # for messages

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """All bytes under a key, if they are not more than that."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such a key now."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Every key that begins so, sorted; `prefix` ends with a slash."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create a key, whole and durable; False if it is there with other bytes."""
        ...

    def publish(self, key: str, parts: Iterable[tuple[str, bytes]]) -> None:
        """Make a Zarr group of these files appear below `key`, durable and all at once.

        Nobody takes it for a group before its `zarr.json` is there, which comes last.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        ...


class PosixStorage:
    """A directory on a file system with hard links and atomic renames."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        return files.read_small(self.root / key, limit_bytes=limit_bytes)

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def list(self, prefix: str) -> list[str]:
        return [f"{prefix}{key}" for key in files.keys_under(self.root / prefix)]

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self.root / key
        with files.writing(path):
            files.make_directory(path.parent)
        created = files.put_if_absent(path, data, staging=self.root / "tmp")
        return created or files.read_small(path, limit_bytes=_MAX_SMALL_BYTES) == data

    def publish(self, key: str, parts: Iterable[tuple[str, bytes]]) -> None:
        target = self.root / key
        staged = self.root / "tmp" / f"publish-{token_hex(8)}"
        try:
            with files.writing(target):
                for name, data in parts:
                    files.make_directory((staged / name).parent)
                    (staged / name).write_bytes(data)
                files.make_directory(target.parent)
                files.publish(staged, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def delete(self, key: str) -> None:
        with files.writing(self.root / key):
            (self.root / key).unlink(missing_ok=True)


def storage_at(where: str | Path) -> Storage:
    """The storage a path or a URL like `s3://bucket/prefix` means.

    Raises:
        ConfigError: a URL of another kind, or the package for it is not installed.
    """
    scheme, found, _ = str(where).partition("://")
    if not found:
        return PosixStorage(Path(where))
    if scheme != "s3":
        raise ConfigError(f"{where}: no storage {scheme!r}; there are paths and s3://BUCKET/PREFIX")
    from store.s3 import S3Storage

    return S3Storage(str(where))
