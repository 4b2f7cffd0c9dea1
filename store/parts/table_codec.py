"""A table of a part from the bytes of its only chunk: checksum, zstd, and then numbers or text.

Bit for bit what zarr gives (the suite compares them), without starting it: a store of many units is
opened some ten times as fast. Nothing is inflated that announces more than the table can hold.
"""

import struct
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np

from store.names import MAX_CLIP_ID_BYTES
from store.parts import layout

_CRC_BYTES = 4
_TEXTS = ("clip_id", "detail")
_COUNT = struct.Struct("<I")


@lru_cache(1024)
def shape(name: str, *, clips: int, rows: int) -> tuple[int, ...]:
    """The shape of a table of a part."""
    lengths = {"row": rows, "clip": clips, "half": 2, "byte": 32}
    return tuple(lengths[dimension] for dimension in layout.dimensions(name))


@lru_cache
def dtype(name: str) -> np.dtype:
    """The type that `decode` gives: text as objects."""
    return np.dtype(object if name in _TEXTS else layout.dtype(name))


def limit_bytes(name: str, *, clips: int, rows: int) -> int:
    """More than the chunk can take, however badly it compresses."""
    high = _inflated(name, clips, rows)[1]
    return high + high // 128 + 512


def decode(name: str, data: bytes, *, clips: int, rows: int) -> np.ndarray:
    """The table.

    Raises:
        ValueError, RuntimeError: these are not the bytes of such a table.
    """
    body, stored = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if google_crc32c.value(body) != int.from_bytes(stored, "little"):
        raise ValueError("it does not match its checksum")
    low, high = _inflated(name, clips, rows)
    if not low <= (size := _announced_bytes(body[:18])) <= high:
        raise ValueError(f"it announces {size} bytes where {high} belong")
    inflated = _decompress(body)
    if len(inflated) != size:
        raise ValueError(f"it holds {len(inflated)} bytes where {size} belong")
    if name in _TEXTS:
        return _texts(inflated, clips)
    kind = dtype(name).newbyteorder("<")
    return np.frombuffer(inflated, kind).reshape(shape(name, clips=clips, rows=rows)).copy()


@lru_cache(1024)
def _inflated(name: str, clips: int, rows: int) -> tuple[int, int]:
    """The least and the most bytes of the table before compression."""
    if name in _TEXTS:
        return _COUNT.size * (1 + clips), _COUNT.size + clips * (_COUNT.size + MAX_CLIP_ID_BYTES)
    exact = int(np.prod(shape(name, clips=clips, rows=rows))) * dtype(name).itemsize
    return exact, exact


def _texts(data: bytes, clips: int) -> np.ndarray:
    """Texts, each after its length, all after their number. Source: Zarr codec `vlen-utf8`."""
    (count,) = _COUNT.unpack_from(data)
    if count != clips:
        raise ValueError(f"it holds {count} texts where {clips} belong")
    texts, at = np.empty(clips, dtype=object), _COUNT.size
    try:
        for i in range(clips):
            (length,) = _COUNT.unpack_from(data, at)
            at += _COUNT.size + length
            texts[i] = data[at - length : at].decode()
    except struct.error as error:
        raise ValueError("its texts end too early") from error
    if at != len(data):
        raise ValueError("its texts do not fill it")
    return texts


def _announced_bytes(head: bytes) -> int:
    """The size a zstd frame announces, -1 if it announces none. Source: RFC 8878, 3.1.1.1."""
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return -1
    flags, single = head[4] >> 6, head[4] >> 5 & 1
    width = (1 if single else 0, 2, 4, 8)[flags]
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[head[4] & 3]
    field = head[start : start + width]
    return int.from_bytes(field, "little") + (256 if width == 2 else 0) if width else -1


def _decompress(data: bytes) -> bytes:
    decompress: Any = _codec()
    try:
        return bytes(decompress(data))
    except RuntimeError as error:
        if "memory" in str(error):  # as zstd says; it says nothing of the bytes
            raise MemoryError(str(error)) from error
        raise


@lru_cache(1)
def _codec() -> Any:
    from numcodecs.zstd import decompress  # what zarr itself uses; it loads slowly

    return decompress
