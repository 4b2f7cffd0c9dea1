"""A file that one process at a time holds; the system lets go of it with the process."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What file systems without locks say; there nobody is kept out.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock file, made if need be; no wait.

    Where the system or the file system knows no locks, nobody is kept out.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the disk refused.
    """
    with path.open("ab") as file:
        try:
            import fcntl
        except ImportError:
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
