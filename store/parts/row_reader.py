"""Rows straight out of uncompressed Zarr v3 arrays, bit for bit what zarr gives.

There rows are byte ranges of files (see `store.parts.shards`), and `preadv` puts them where they
belong: no temporary, no copy. Chunks may lie in any order; only the index of a shard says where. It
is read and checked once. In a bucket the same ranges are fetched many at a time.

Shapes: N = rows asked for, D = numbers in a row.
"""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
from jaxtyping import Shaped

from store.errors import DamagedStore
from store.parts.shards import CRC_BYTES, Grid
from store.progress import steps
from store.storage.posix import OpenFile
from store.storage.storage import Blob

CAN_READ = hasattr(os, "pread")  # not on Windows
_READ_BYTES = 2 << 20  # so little that it is still in the processor's cache when it is verified
_READ_VIEWS = 512  # below IOV_MAX
_GAP_BYTES = 8 << 10  # reading over a small gap costs less than another call
_WINDOW_BYTES = 64 << 20  # what may be announced to the kernel at once
_CAN_ANNOUNCE = hasattr(os, "RWF_NOWAIT") and hasattr(os, "posix_fadvise")
_KEPT_INDEXES = 1 << 14  # of 1 KiB each with 128 chunks
_REQUESTS = 16  # at once, of a bucket


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowArray:
    """One array: `open` gives its n-th file, `name` is what errors call it."""

    open: Callable[[int], Blob]
    grid: Grid
    name: str
    remote: bool = False  # each read waits for an answer: ask for many at once

    @classmethod
    def at(cls, path: Path, *, grid: Grid, name: str) -> "RowArray":
        """The array in a directory."""
        return cls(open=lambda file: OpenFile(path / "c" / str(file) / "0"), grid=grid, name=name)


class Span(NamedTuple):
    """Rows `start` to `stop` of an array, and the row of the destination they begin at."""

    source: RowArray
    start: int
    stop: int
    to: int


class _Segment(NamedTuple):
    """A span's rows in one chunk, which begins at `offset` of its file."""

    source: RowArray
    file: int
    offset: int
    chunk: int
    skip: int  # rows of the chunk before ours
    rows: int
    to: int

    def extent(self, *, whole: bool) -> tuple[int, int]:
        """First byte and size of our rows, or of the whole chunk."""
        grid = self.source.grid
        if whole:
            return self.offset, grid.chunk_bytes
        return self.offset + self.skip * grid.row_bytes, self.rows * grid.row_bytes

    def destination(self, target: memoryview) -> memoryview:
        size = self.source.grid.row_bytes
        return target[self.to * size : (self.to + self.rows) * size]


@dataclass(slots=True)
class _Read:
    """One range of one file and where its bytes go; then what to verify and what to copy."""

    source: RowArray
    file: int
    offset: int
    size: int
    views: list[memoryview]
    checks: list[tuple[int, list[memoryview], memoryview]]
    copies: list[tuple[memoryview, memoryview]]

    def joins(self, following: "_Read") -> bool:
        gap = following.offset - self.offset - self.size
        return (
            self.file == following.file
            and self.source is following.source
            and 0 <= gap <= _GAP_BYTES
            and self.size + gap + following.size <= _READ_BYTES
            and len(self.views) + len(following.views) < _READ_VIEWS
        )

    def join(self, following: "_Read") -> None:
        if gap := following.offset - self.offset - self.size:
            self.views.append(memoryview(bytearray(gap)))
        self.views += following.views
        self.size += gap + following.size
        self.checks += following.checks
        self.copies += following.copies


_Opened = Callable[[RowArray, int], Blob]


class RowReader:
    """Reads rows of many arrays with a bounded number of open files; threads may share one.

    `fill_missing` gives the fill value where a chunk was never written, as zarr does; otherwise
    that is damage.
    """

    def __init__(self, *, max_open: int = 128, fill_missing: bool = False) -> None:
        self._fill_missing = fill_missing
        self._open: _Opened = lru_cache(max_open)(_open)
        self._offsets = lru_cache(_KEPT_INDEXES)(partial(_read_offsets, self._open))

    def rows(
        self, source: RowArray, start: int, stop: int, *, verify: bool = False
    ) -> Shaped[np.ndarray, "N D"]:
        """Consecutive rows of one array; no memory is taken before all are found in its files.

        Raises:
            DamagedStore: see `read`.
        """
        spans = [Span(source, start, stop, 0)]
        return self.gather(
            spans, stop - start, dim=source.grid.dim, dtype=source.grid.dtype, verify=verify
        )

    def gather(
        self,
        spans: Iterable[Span],
        rows: int,
        *,
        dim: int,
        dtype: np.dtype,
        verify: bool = False,
    ) -> Shaped[np.ndarray, "N D"]:
        """Rows of many arrays as one, which the spans must fill; see `rows` and `read`."""
        segments = self._segments(spans)
        out = np.empty((rows, dim), dtype=dtype)
        self._run(segments, out, verify)
        return out

    def read(
        self, spans: Iterable[Span], out: Shaped[np.ndarray, "N D"], *, verify: bool = False
    ) -> None:
        """Put the rows of the spans into `out`.

        `verify` compares every chunk that is touched with its checksum, and so reads whole chunks.
        Without it only indexes are verified.

        Raises:
            DamagedStore: names the array and file; what `out` then holds is of no use.
        """
        self._run(self._segments(spans), out, verify)

    def _segments(self, spans: Iterable[Span]) -> list[_Segment]:
        segments = []
        for source, start, stop, to in spans:
            grid = source.grid
            assert 0 <= start <= stop <= grid.rows, (start, stop, grid.rows)
            while start < stop:
                chunk, skip = divmod(start, grid.chunk_rows)
                file, inner = divmod(chunk, grid.file_chunks)
                rows = min(stop - start, grid.chunk_rows - skip)
                offsets = self._offsets(source, file)
                offset = offsets[inner] if offsets else -1
                if offset < 0 and not self._fill_missing:
                    raise _damaged(source, file, f"has lost chunk {inner}")
                segments.append(_Segment(source, file, offset, chunk, skip, rows, to))
                start, to = start + rows, to + rows
        return segments

    def _run(self, segments: list[_Segment], out: Shaped[np.ndarray, "N D"], verify: bool) -> None:
        assert out.flags.c_contiguous
        stored = []
        for segment in segments:
            grid = segment.source.grid
            assert (out.shape[1], out.dtype) == (grid.dim, grid.dtype)
            assert 0 <= segment.to <= len(out) - segment.rows
            if segment.offset < 0:
                out[segment.to : segment.to + segment.rows] = grid.fill_value
            else:
                stored.append(segment)
        stored.sort(key=lambda p: (id(p.source), p.file, p.offset, p.skip))
        target = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        advance = steps("rows read", len(out))
        for window in _windows(stored, verify):
            for read in self._fetched(_joined(_reads(window, target, verify)), window, verify):
                _check(read)
                for whole, destination in read.copies:
                    destination[:] = whole
            advance(sum(segment.rows for segment in window))

    def _fetched(
        self, reads: Iterable[_Read], window: Sequence[_Segment], verify: bool
    ) -> Iterator[_Read]:
        """The reads of a window, done: one by one from the disk, many at once from a bucket."""
        if any(segment.source.remote for segment in window):
            yield from self._requests.map(self._execute, list(reads))
            return
        announced = False
        for read in reads:
            if not announced and not self._is_cached(read):
                self._announce(window, verify)
                announced = True
            yield self._execute(read)

    @cached_property
    def _requests(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_REQUESTS, thread_name_prefix="rows")

    def _is_cached(self, read: _Read) -> bool:
        """Whether the first byte can be had without the disk, as far as the system can tell."""
        if not _CAN_ANNOUNCE:
            return True
        try:
            file = self._open(read.source, read.file)
            assert isinstance(file, OpenFile)
            return os.preadv(file.descriptor, [bytearray(1)], read.offset, os.RWF_NOWAIT) == 1
        except OSError:  # it cannot, or the file system cannot tell
            return False

    def _announce(self, segments: Sequence[_Segment], verify: bool) -> None:
        """Let the kernel fetch all at once, which is as fast as many threads would be."""
        for segment in segments:
            offset, size = segment.extent(whole=verify)
            with suppress(OSError):  # a hint; reading reports what is wrong
                file = self._open(segment.source, segment.file)
                assert isinstance(file, OpenFile)
                os.posix_fadvise(file.descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def _execute(self, read: _Read) -> _Read:
        try:
            done = self._open(read.source, read.file).read_into(read.views, read.offset)
        except OSError as error:
            raise _unreadable(read.source, read.file, error) from error
        if done != read.size:
            raise _damaged(read.source, read.file, "has lost its end")
        return read


def _check(read: _Read) -> None:
    """Compare chunks with their checksums."""
    for inner, views, stored in read.checks:
        crc = 0
        for view in views:
            crc = google_crc32c.extend(crc, np.frombuffer(view, np.uint8))
        if crc != int.from_bytes(stored, "little"):
            raise _damaged(read.source, read.file, f"does not match the checksum of chunk {inner}")


def _windows(segments: Sequence[_Segment], verify: bool) -> Iterator[Sequence[_Segment]]:
    """Segments in file order, in groups of as many bytes as may be announced at once."""
    first, total = 0, 0
    for i, segment in enumerate(segments):
        size = segment.extent(whole=verify)[1]
        if total and total + size > _WINDOW_BYTES:
            yield segments[first:i]
            first, total = i, 0
        total += size
    yield segments[first:]


def _reads(segments: Sequence[_Segment], target: memoryview, verify: bool) -> Iterator[_Read]:
    """The reads that bring these segments, in file order."""
    if verify:
        for _, members in groupby(segments, key=lambda s: (id(s.source), s.chunk)):
            yield _whole_chunk(list(members), target)
        return
    for segment in segments:
        offset, size = segment.extent(whole=False)
        yield _Read(
            source=segment.source,
            file=segment.file,
            offset=offset,
            size=size,
            views=[segment.destination(target)],
            checks=[],
            copies=[],
        )


def _whole_chunk(segments: Sequence[_Segment], target: memoryview) -> _Read:
    """The read of one chunk: into place if all its rows are wanted once, else by way of a copy."""
    first, grid = segments[0], segments[0].source.grid
    offset, size = first.extent(whole=True)
    present = min(grid.chunk_rows, grid.rows - first.chunk * grid.chunk_rows)
    copies = []
    if len(segments) == 1 and first.rows == present:
        padding = memoryview(bytearray(grid.data_bytes - present * grid.row_bytes))
        data = [first.destination(target), *([padding] if len(padding) else [])]
    else:
        whole = memoryview(np.empty(grid.data_bytes, np.uint8))  # type: ignore[arg-type]
        data = [whole]
        for segment in segments:
            begin = segment.skip * grid.row_bytes
            copies.append(
                (whole[begin : begin + segment.rows * grid.row_bytes], segment.destination(target))
            )
    stored = [memoryview(bytearray(CRC_BYTES))] if grid.has_crc else []
    return _Read(
        source=first.source,
        file=first.file,
        offset=offset,
        size=size,
        views=[*data, *stored],
        checks=[(first.chunk % grid.file_chunks, data, crc) for crc in stored],
        copies=copies,
    )


def _joined(reads: Iterable[_Read]) -> Iterator[_Read]:
    """Neighbours as one read, up to a size."""
    current: _Read | None = None
    for read in reads:
        if current is not None and current.joins(read):
            current.join(read)
            continue
        if current is not None:
            yield current
        current = read
    if current is not None:
        yield current


def _open(source: RowArray, file: int) -> Blob:
    return source.open(file)


def _read_offsets(opened: _Opened, source: RowArray, file: int) -> array:
    """The offset of each chunk of a file, -1 where it was never written; nothing without a file."""
    grid = source.grid
    try:
        handle = opened(source, file)
        at = 0 if grid.index_first else max(0, handle.size - grid.index_bytes)
        size = min(grid.index_bytes, handle.size)
        index = bytearray(size)
        done = handle.read_into([memoryview(index)], at) if size else 0
        offsets = grid.chunk_offsets(bytes(index[:done]), file_bytes=handle.size)
    except FileNotFoundError:
        return array("q")
    except OSError as error:
        raise _unreadable(source, file, error) from error
    except ValueError as error:
        raise _damaged(source, file, str(error)) from error
    return array("q", offsets.tobytes())


def _unreadable(source: RowArray, file: int, error: OSError) -> DamagedStore:
    return _damaged(source, file, f"cannot be read ({error.strerror or error})")


def _damaged(source: RowArray, file: int, fault: str) -> DamagedStore:
    return DamagedStore(f"{source.name}/c/{file}/0 {fault}; run: store verify DIR")
