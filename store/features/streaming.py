"""More clips than fit in memory: as batches, each read in a few long strokes, and as dask arrays.

Shapes: V = clips, N = rows of all clips, D = embedding size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from store.errors import InputError
from store.features.clip_index import Locations
from store.features.packed import Packed, offsets_of

MEMORY_BYTES = 256 << 20
_BLOCK_BYTES = 64 << 20
_TIME_BYTES = 4

# Rows and times of clips, read in whatever process: location and name of the feature, the clips,
# how many rows they have, and whether to verify.
ReadBlock = Callable[[str, str, tuple[str, ...], int, bool], tuple[np.ndarray, np.ndarray]]


@runtime_checkable
class Readable(Protocol):
    """A feature, as far as it is needed here."""

    name: str
    dim: int
    dtype: np.dtype

    @property
    def location(self) -> str:
        """The path or URL that opens the feature's store."""
        ...

    def locate(self, clip_ids: Sequence[str]) -> Locations:
        """Part, first row, rows and status of these clips."""
        ...

    def packed(self, clip_ids: Sequence[str] | None = None, *, verify: bool = True) -> Packed:
        """Rows, masks and times of these clips."""
        ...


def batches(
    feature: Readable,
    clip_ids: Sequence[str],
    *,
    clips: int | None,
    memory_bytes: int,
    seed: int | None,
    verify: bool,
) -> Iterator[Packed]:
    """Clips in batches, each once: the work behind `Feature.batches`."""
    if clips is not None and clips < 1:
        raise InputError(f"clips={clips}: a batch has at least one clip")
    if memory_bytes < 1:
        raise InputError(f"memory_bytes={memory_bytes}: a block has at least one byte")
    located = feature.locate(clip_ids)
    order = np.lexsort((located.start, located.part))
    rng = None if seed is None else np.random.default_rng(seed)
    if rng is not None:  # parts in random order, each still read in one stroke
        cuts = np.flatnonzero(np.diff(located.part[order])) + 1
        groups = np.split(order, cuts)
        order = np.concatenate([groups[i] for i in rng.permutation(len(groups))])
    for members in cut(order, located.rows[order] * _row_bytes(feature), memory_bytes):
        block = feature.packed([clip_ids[i] for i in members.tolist()], verify=verify)
        if clips is None and rng is None:
            yield block
            continue
        indices = np.arange(len(block)) if rng is None else rng.permutation(len(block))
        step = clips or len(block)
        for first in range(0, len(indices), step):
            yield block.take(indices[first : first + step])


def _row_bytes(feature: Readable) -> int:
    return feature.dim * feature.dtype.itemsize + _TIME_BYTES


def cut(
    order: Int64[np.ndarray, "V"], sizes: Int64[np.ndarray, "V"], limit: int
) -> Iterator[Int64[np.ndarray, "_"]]:
    """`order` in stretches of at most `limit` bytes, or of one clip that is larger by itself."""
    first, ends = 0, np.cumsum(sizes)
    while first < len(order):
        taken = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, taken + limit, side="right")))
        yield order[first:last]
        first = last


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lazy:
    """Clips whose rows are read when dask asks for them; as `Packed`, with dask arrays."""

    clip_ids: tuple[str, ...]
    values: Any  # dask array [N, D] of float16
    offsets: Int64[np.ndarray, "V_plus_1"]
    time_ms: Any  # dask array [N] of int32


def lazy(
    feature: Readable, clip_ids: Sequence[str], read_block: ReadBlock, *, verify: bool
) -> Lazy:
    """These clips as dask arrays, whose workers call `read_block`."""
    import dask.array as da
    from dask import delayed

    rows = feature.locate(clip_ids).rows
    read = delayed(read_block, pure=True)
    values, times = [], []
    order = np.arange(len(clip_ids), dtype=np.int64)
    for members in cut(order, rows * _row_bytes(feature), _BLOCK_BYTES):
        if total := int(rows[members].sum()):
            wanted = tuple(clip_ids[i] for i in members.tolist())
            block = read(feature.location, feature.name, wanted, total, verify)
            values.append(da.from_delayed(block[0], (total, feature.dim), feature.dtype))
            times.append(da.from_delayed(block[1], (total,), np.int32))
    empty = np.empty((0, feature.dim), feature.dtype)
    return Lazy(
        clip_ids=tuple(clip_ids),
        values=da.concatenate(values) if values else da.from_array(empty),
        offsets=offsets_of(rows),
        time_ms=da.concatenate(times) if times else da.from_array(np.empty(0, np.int32)),
    )
