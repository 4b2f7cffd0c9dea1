"""HDF5 files written so that a full disk is an error and not the end of the process.

HDF5 has no way back from a write that failed: it reports the error, and dies when it closes the
file. So it is never told. Behind `created` a write that the disk refused is kept in memory (some
megabytes: nothing is appended after it), HDF5 closes in peace, and the error is raised then. So is
Ctrl-C, which would otherwise strike inside of a write.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


@contextmanager
def created(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new HDF5 file, and a function that raises what the disk said since; call it often.

    Raises:
        OSError: the disk refused a write; also when the file is closed.
    """
    with path.open("xb+", buffering=0) as raw:
        disk = Disk(raw.fileno())
        with _uninterrupted(disk):
            try:
                with h5py.File(disk, "w") as file:
                    yield file, disk.check
            finally:
                disk.check()


@contextmanager
def _uninterrupted(disk: "Disk") -> Iterator[None]:
    """Let Ctrl-C be one more thing that `check` raises."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: disk.fail(KeyboardInterrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Disk:
    """A file for HDF5 whose writes never fail; `check` raises what they should have said."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0
        self._end = 0
        self._error: BaseException | None = None
        self._kept: list[tuple[int, bytes]] = []  # of what the disk refused, in order

    def check(self) -> None:
        """Raise the first error of the disk, if there was one."""
        if self._error is not None:
            raise self._error

    def fail(self, error: BaseException) -> None:
        """Write no more, and raise this when asked."""
        self._error = self._error or error

    # h5py hands over buffers of Cython, which are of no type that can be named

    def write(self, data: Any) -> int:
        """Write bytes where the file stands."""
        block = bytes(data)
        try:
            done = 0
            while self._error is None and done < len(block):
                done += os.pwrite(self._descriptor, block[done:], self._at + done)
        except OSError as error:
            self.fail(error)
        if self._error is not None:
            self._kept.append((self._at, block))
        self._at += len(block)
        self._end = max(self._end, self._at)
        return len(block)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from where the file stands, with zeros beyond its end."""
        target = memoryview(buffer).cast("B")
        found = os.pread(self._descriptor, len(target), self._at)
        target[: len(found)] = found
        target[len(found) :] = bytes(len(target) - len(found))
        for start, block in self._kept:
            low, high = max(start, self._at), min(start + len(block), self._at + len(target))
            if low < high:
                target[low - self._at : high - self._at] = block[low - start : high - start]
        self._at += len(target)
        return len(target)

    def read(self, size: int) -> bytes:
        """Bytes from where the file stands, with zeros beyond its end."""
        buffer = bytearray(size)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Stand somewhere else."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        """Where the file stands."""
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Cut the file, or lengthen it."""
        self._end = self._at if size is None else size
        try:
            if self._error is None:
                os.ftruncate(self._descriptor, self._end)
        except OSError as error:
            self.fail(error)
        return self._end

    def flush(self) -> None:
        """Nothing: what is written is with the system."""
