"""The heap of a process that computes on a processor: what is freed is kept for the next batch.

Every layer of a network asks for tens of megabytes. glibc gives blocks of that size back to the
system as soon as they are free, and the next one comes as pages that the system has to find and to
empty first: of a batch of MobileNetV2 some 120,000, for which it takes nearly half of its time.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt
MOST_BYTES = (1 << 31) - 1  # the most that can be said: larger blocks go back as before
USUAL_BYTES = 32 << 20  # where the threshold of a process that frees large blocks gets by itself


@contextmanager
def kept(device: str) -> Iterator[None]:
    """Keep what is freed, if the device is a processor and the library is glibc; at the end it goes
    back to the system.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not device.startswith("cpu") or not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    assert libc is not None
    libc.mallopt(_MMAP_THRESHOLD, MOST_BYTES)
    libc.mallopt(_TRIM_THRESHOLD, MOST_BYTES)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, USUAL_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 2 * USUAL_BYTES)
        libc.malloc_trim(0)
