"""The heap of a process: what is freed is kept for the next batch, or the next clip.

Every layer of a network asks for tens of megabytes, and so do the frames of a clip. glibc gives
blocks of that size back to the system as soon as they are free, and the next one comes as pages
that the system has to find and to empty first: of a batch of MobileNetV2 some 120,000, for which it
takes nearly half of its time.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt
MOST_BYTES = (1 << 31) - 1  # the most that can be said
USUAL_BYTES = 32 << 20  # where the threshold of a process that frees large blocks gets by itself


@contextmanager
def kept(device: str) -> Iterator[None]:
    """Keep what is freed, if the device is a processor; at the end it goes back to the system."""
    if not device.startswith("cpu"):
        yield
        return
    keep(MOST_BYTES, MOST_BYTES)
    try:
        yield
    finally:
        keep(USUAL_BYTES, 2 * USUAL_BYTES)
        if (libc := _glibc()) is not None:
            libc.malloc_trim(0)


def keep(block_bytes: int, free_bytes: int) -> None:
    """From now on, keep freed blocks of up to so many bytes, while no more than `free_bytes` are
    free at the end of the heap. Nothing, where the library is not glibc.
    """
    if (libc := _glibc()) is not None:
        libc.mallopt(_MMAP_THRESHOLD, block_bytes)
        libc.mallopt(_TRIM_THRESHOLD, free_bytes)


def _glibc() -> Any:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
