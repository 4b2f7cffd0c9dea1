"""The interface between a store and its storage, and the storage on a file system.

A key is text such as `commits/<feature>/<unit>.json`, relative to the store's root. Nothing is ever
replaced: a key is put once, and a part comes to be as a whole.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from store import atomic
from store.errors import ConfigError, DamagedStore, InputError
from store.storage import posix

_MAX_SMALL_BYTES = 1 << 30
_AT_ONCE = 16

T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Blob(Protocol):
    """Bytes that can be read at any place."""

    size: int

    def read_into(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill the views with the bytes from `offset` on; returns how many there were.

        Raises:
            OSError, StoreError: they cannot be read.
        """
        ...


@runtime_checkable
class Storage(Protocol):
    """Verbs raise `StoreError` where the storage refuses, `DamagedStore` where a key lacks."""

    name: str  # what `storage_at` takes, and messages say

    @property
    def local_path(self) -> Path | None:
        """The directory it is, which may be read and linked to; None for a bucket."""
        ...

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """All bytes under a key, at most `limit_bytes`."""
        ...

    def digests(self, key: str, *, deep: bool) -> tuple[int, str, str]:
        """Size, crc32c and, if `deep`, sha256 (else empty text) of what is under a key."""
        ...

    def blob(self, key: str, size: int) -> Blob:
        """The bytes under a key, which should be `size`, for reading ranges of them."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such a key now."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """Every key that begins with `prefix`, sorted; it ends with a slash."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Names directly below a prefix, of keys and of prefixes of keys, sorted."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create a key, whole and durable; False if it is there with other bytes."""
        ...

    def staging(self, name: str) -> AbstractContextManager[Path]:
        """A new directory to prepare something in; it goes with the context."""
        ...

    def publish(self, staged: Path, key: str) -> None:
        """Make what was staged appear below `key`, durable and all at once.

        Nobody takes it for a Zarr group before its `zarr.json` is there, which comes last.
        """
        ...

    def move(self, key: str, target: str) -> bool:
        """Give a key another name that is free; False if it is gone."""
        ...

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        ...


class PosixStorage:
    """A directory on a file system with hard links and atomic renames."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    @property
    def local_path(self) -> Path:
        """The directory it is, there or not yet."""
        return self.root

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """All bytes under a key, at most `limit_bytes`."""
        return posix.read_small(self.root / key, limit_bytes=limit_bytes)

    def digests(self, key: str, *, deep: bool) -> tuple[int, str, str]:
        """Size, crc32c and, if `deep`, sha256 of what is under a key."""
        path = self.root / key
        if not path.is_file():
            raise DamagedStore(f"{path} is missing or no plain file")
        try:
            return posix.file_digests(path, deep=deep)
        except OSError as error:
            raise DamagedStore(f"cannot read {path}: {error.strerror or error}") from error

    def blob(self, key: str, size: int) -> Blob:
        """The file of a key, for reading ranges of it."""
        return posix.OpenFile(self.root / key)

    def exists(self, key: str) -> bool:
        """Whether there is such a key now."""
        return (self.root / key).is_file()

    def keys(self, prefix: str) -> list[str]:
        """Every key that begins with `prefix`, sorted."""
        return [f"{prefix}{key}" for key in posix.keys_under(self.root / prefix)]

    def names(self, prefix: str) -> list[str]:
        """Files and directories directly below a prefix, sorted."""
        try:
            return sorted(path.name for path in (self.root / prefix).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise DamagedStore(f"cannot list {error.filename}: {error.strerror}") from error

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create a key, whole and durable; False if it is there with other bytes."""
        path, staging = posix.inside(self.root, key), posix.inside(self.root, "tmp")
        with posix.writing(path):
            posix.make_directory(path.parent)
        created = posix.put_if_absent(path, data, staging=staging)
        return created or posix.read_small(path, limit_bytes=_MAX_SMALL_BYTES) == data

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A new directory to prepare something in; it goes with the context."""
        staged = posix.inside(self.root, f"tmp/{name}")
        try:
            with posix.writing(staged):
                posix.make_directory(staged)
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def publish(self, staged: Path, key: str) -> None:
        """Make what was staged durable, and rename it into place."""
        target = posix.inside(self.root, key)
        with posix.writing(target):
            posix.make_directory(target.parent)
            posix.publish(staged, target)

    def move(self, key: str, target: str) -> bool:
        """Give a key another name that is free; False if it is gone."""
        source, destination = posix.inside(self.root, key), posix.inside(self.root, target)
        with posix.writing(destination):
            posix.make_directory(destination.parent)
            try:
                source.rename(destination)
            except FileNotFoundError:
                return False
            atomic.fsync(destination.parent)
            atomic.fsync(source.parent)
        return True

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        path = posix.inside(self.root, key)
        with posix.writing(path):
            path.unlink(missing_ok=True)


def at_once(storage: Storage, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The result for each item, in order; in a bucket many at once, for each waits for answers."""
    if storage.local_path is not None or len(items) < 2:
        return list(map(call, items))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(call, items))


def directory(storage: Storage) -> Path:
    """The directory a storage is.

    Raises:
        InputError: it is a bucket.
    """
    if (path := storage.local_path) is not None:
        return path
    raise InputError(
        f"{storage.name} is a bucket, and this needs a directory; copy it first: "
        f"store merge DIR {storage.name}"
    )


def storage_at(where: str | Path) -> Storage:
    """The storage a path or a URL like `s3://bucket/prefix` means.

    Raises:
        ConfigError: a URL of another kind, or the package for it is not installed.
    """
    scheme, is_url, _ = str(where).partition("://")
    if not is_url:
        return PosixStorage(Path(where))
    if scheme != "s3":
        raise ConfigError(f"{where}: no storage {scheme!r}; there are paths and s3://BUCKET/PREFIX")
    from store.storage.s3 import S3Storage

    return S3Storage(str(where))
