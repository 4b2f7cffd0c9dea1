"""File primitives of the store: durable, atomic, and refusing to replace anything.

Everything the commit protocol asks of a file system is in this module, so another kind of storage
has one place to come in.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from secrets import token_hex

import google_crc32c

from store import atomic
from store.errors import DamagedStore, StoreError

_BLOCK_BYTES = 1 << 20
_NO_LINKS = {
    errno.EPERM,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EXDEV,
    errno.EMLINK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file of a part as it was when written."""

    key: str  # path inside the part
    size: int
    crc32c: str  # 8 hex
    sha256: str

    @classmethod
    def of(cls, key: str, data: bytes) -> "FileRecord":
        """Measure what is to become a file."""
        digest = sha256(data).hexdigest()
        return cls(key=key, size=len(data), crc32c=crc32c_hex(data), sha256=digest)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system error into ours.

    Raises:
        StoreError: names the file and the reason, such as a full disk.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; nothing was committed"
        ) from error


def crc32c_hex(data: bytes) -> str:
    """The checksum as 8 hex digits."""
    return f"{google_crc32c.value(data):08x}"


def file_digests(path: Path, *, deep: bool = True) -> tuple[int, str, str]:
    """Size, crc32c and, if `deep`, sha256 of a file (else empty text)."""
    size, crc, sha = 0, 0, sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            size += len(block)
            crc = google_crc32c.extend(crc, block)
            if deep:
                sha.update(block)
    return size, f"{crc:08x}", sha.hexdigest() if deep else ""


def file_record(root: Path, key: str) -> FileRecord:
    """Measure one staged file."""
    size, crc32c, digest = file_digests(root / key)
    return FileRecord(key=key, size=size, crc32c=crc32c, sha256=digest)


def keys_under(root: Path) -> list[str]:
    """Every file below `root`, as sorted keys."""
    return sorted(
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
    )


def read_small(path: Path, *, limit_bytes: int) -> bytes:
    """A whole file that must not be large.

    Raises:
        DamagedStore: it is missing, unreadable or larger than the limit.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # of a FIFO as well
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise DamagedStore(f"{path} is missing or no plain file")
            data = file.read(min(facts.st_size, limit_bytes) + 1)
            while len(data) <= limit_bytes and (more := file.read(limit_bytes + 1 - len(data))):
                data += more
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedStore(f"{path} is missing or no plain file") from None
    except OSError as error:
        raise DamagedStore(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > limit_bytes:
        raise DamagedStore(f"{path} is larger than {limit_bytes} bytes; it is not ours")
    return data


class OpenFile:
    """A regular file open for reading anywhere in it, closed when nobody uses it any more.

    Raises:
        OSError: it cannot be opened, or is something else.
    """

    __slots__ = ("descriptor", "size")

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        # Without O_NONBLOCK, opening a pipe that someone put here would wait for ever.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        facts = os.fstat(self.descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError("it is no regular file")
        self.size = facts.st_size

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def read_into(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill the views with the bytes from `offset` on; returns how many there were."""
        views, done = list(views), 0
        while views:
            if hasattr(os, "preadv"):
                count = os.preadv(self.descriptor, views, offset + done)
            else:
                block = os.pread(self.descriptor, len(views[0]), offset + done)
                count = len(block)
                views[0][:count] = block
            if not count:
                break
            done += count
            while views and count >= len(views[0]):
                count -= len(views.pop(0))
            if count:
                views[0] = views[0][count:]
        return done


def inside(root: Path, key: str) -> Path:
    """The path of a key that is to be changed, on which no link leads out of the store.

    Raises:
        DamagedStore: a directory on the way, or what the key names, is a symbolic link.
    """
    path = root
    for name in PurePosixPath(key).parts:
        path /= name
        if path.is_symlink():
            raise _is_link(path)
    return path


@contextmanager
def opened(root: Path, key: str) -> Iterator[int]:
    """A descriptor of a directory of the store, held against anyone who swaps in a link.

    Raises:
        DamagedStore: a link or a file is on the way.
        FileNotFoundError: there is none.
    """
    path = root
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in PurePosixPath(key).parts:
            path /= name
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            try:
                inner = os.open(name, flags, dir_fd=descriptor)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise _is_link(path) from error
                raise
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _is_link(path: Path) -> DamagedStore:
    return DamagedStore(
        f"{path} is a link or a file where a directory of the store should be; nothing is "
        "written, moved or removed through it. Put the directory itself in its place"
    )


def make_directory(path: Path) -> None:
    """Create a directory and its parents, each durable in its parent."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with suppress(FileExistsError):
            folder.mkdir()
        atomic.fsync(folder.parent)


def put_if_absent(path: Path, data: bytes, *, staging: Path) -> bool:
    """Create `path` with `data`, whole and durable, unless it exists; False if it did.

    Raises:
        StoreError: the disk refused, or the file system has no hard links. Only where the message
            says so `path` is there although it was not flushed.
    """
    temporary = staging / f"put-{token_hex(8)}"
    try:
        with writing(path):
            make_directory(staging)  # copying a store may lose empty directories
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            created = link(temporary, path)
        try:
            atomic.fsync(path.parent)
        except OSError as error:  # who sees it relies on it: too late to take it back
            raise StoreError(
                f"{path} is written, but may not outlive a power cut: {error.strerror or error}; "
                "check the disk, then: store verify DIR"
            ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return created


def publish(staged: Path, target: Path) -> None:
    """Make a staged directory durable and rename it into place.

    Raises:
        OSError: the disk refused, or `target` is there with files in it.
    """
    atomic.fsync_tree(staged)
    staged.rename(target)
    atomic.fsync(target.parent)


def link(source: Path, target: Path) -> bool:
    """Give a file a second name unless that is taken; False if it was.

    Raises:
        StoreError: the file system has no hard links.
        OSError: any other refusal.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise StoreError(
                f"{target.parent} has no hard links ({error.strerror}), which commits need; "
                "keep the store on a local or other POSIX file system"
            ) from error
        raise
    return True
