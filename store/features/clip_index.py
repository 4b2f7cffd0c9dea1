"""Look-up of clips by key among 100 million: a sorted file, mapped, never trusted.

The file is a cache. Its name is the digest of the committed parts it was built from; another set
of parts is another file, and a damaged one is built again. It holds, in this order,

    records    32 bytes per clip, sorted by key, in blocks of 512
    fences     uint64 per block: the first half of its first key; kept in memory
    checksums  uint32 per block: crc32c of its records, compared when the block is first used
    names      of the parts that it was built from, one a line
    trailer    magic, number of records, bytes of names, digest, crc32c of all after the records

Building sorts runs of bounded size and merges them range by range, so memory does not grow with
the number of clips. Where a file of some of these parts is there, from before the last commits, it
is one of the runs, and only the other parts' tables are read.

Shapes: n = clips of a part, V = clips asked for.
"""

import mmap
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from secrets import token_hex
from typing import IO, NamedTuple

import google_crc32c
import numpy as np
from jaxtyping import Int64, UInt8, UInt16, UInt64

from store.errors import DamagedStore
from store.progress import in_steps
from store.status import Status
from store.storage import posix

_RECORD = np.dtype(
    [
        ("high", "<u8"),
        ("low", "<u8"),
        ("start", "<u8"),
        ("part", "<u4"),
        ("rows", "<u2"),
        ("status", "u1"),
        ("unused", "u1"),
    ]
)
Records = np.ndarray  # of that type, one axis; jaxtyping has no word for it
_BLOCK = 512
_BLOCK_BYTES = _BLOCK * _RECORD.itemsize
_RUN = 4 << 20  # records sorted at once: 128 MiB, and twice that while sorting
_SAMPLE = 1024
_KEYS = 1 << 14  # looked for at once
_TRAILER = struct.Struct("<8sQQ32sI")
_MAGIC = b"clipidx2"
_TEMPORARY_SECONDS = 24 * 3600


class PartTable(NamedTuple):
    """The clips of one part."""

    clip_key: UInt64[np.ndarray, "n 2"]
    row_start: Int64[np.ndarray, "n"] | UInt64[np.ndarray, "n"]
    row_count: Int64[np.ndarray, "n"] | UInt16[np.ndarray, "n"]
    status: UInt8[np.ndarray, "n"]


class Locations(NamedTuple):
    """Part, first row, rows and status by clip; -1 and `Status.PENDING` for one in no part."""

    part: Int64[np.ndarray, "V"]
    start: Int64[np.ndarray, "V"]
    rows: Int64[np.ndarray, "V"]
    status: UInt8[np.ndarray, "V"]


class _Damaged(Exception):  # noqa: N818
    """The file is not what was written; nobody outside needs to know."""


class MemoryIndex:
    """A look-up like `ClipIndex`, in memory and without a file."""

    def __init__(self, tables: Sequence[PartTable]) -> None:
        runs = _runs(enumerate(tables))
        self._records = _sorted(np.concatenate([np.empty(0, _RECORD), *runs]))

    def __len__(self) -> int:
        return len(self._records)

    def status_counts(self) -> Int64[np.ndarray, "256"]:
        """How many clips have each status."""
        return np.bincount(self._records["status"], minlength=256)

    def lookup(self, keys: UInt64[np.ndarray, "V 2"]) -> Locations:
        """Part, first row, rows and status of these clips."""
        begin = np.zeros(len(keys), dtype=np.int64)
        return _search(self._records, keys, begin, np.full_like(begin, len(self)))


class ClipIndex:
    """The part that speaks for each clip, and the rows that the clip has in it.

    One with rows before one without, then the smallest part name. `load` gives the table of a part
    and is only called if the index must be built.
    """

    def __init__(
        self, root: Path, key: str, parts: Iterable[str], load: Callable[[str], PartTable]
    ) -> None:
        self.parts = tuple(sorted(parts))  # `Locations.part` counts these
        self._digest = _digest(self.parts)
        self._root, self._key = root, key
        self._path = root / key / f"{self._digest.hex()[:32]}.idx"
        self._load = load
        self._file: _IndexFile | None = None

    def __len__(self) -> int:
        return len(self._opened())

    def lookup(self, keys: UInt64[np.ndarray, "V 2"]) -> Locations:
        """Part, first row, rows and status of these clips.

        Raises:
            StoreError: from `load`, if the index had to be built.
        """
        try:
            return self._opened().lookup(keys, len(self.parts))
        except _Damaged:
            self._file = self._build()
            return self._file.lookup(keys, len(self.parts))

    def status_counts(self) -> Int64[np.ndarray, "256"]:
        """How many clips have each status.

        Raises:
            StoreError: from `load`, if the index had to be built.
        """
        try:
            return self._opened().status_counts()
        except _Damaged:
            self._file = self._build()
            return self._file.status_counts()

    def _opened(self) -> "_IndexFile":
        if self._file is None:
            try:
                self._file = _IndexFile(self._path, self._digest)
            except (_Damaged, OSError):
                self._file = self._build()
        return self._file

    def _build(self) -> "_IndexFile":
        try:
            posix.inside(self._root, self._key)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            opened = self._kept()
        except (OSError, DamagedStore):  # a store we may only read, a full disk, a link
            return self._private()
        _sweep(self._path)
        return opened

    def _kept(self) -> "_IndexFile":
        """An index in its place, for whoever comes next as well."""
        staging = self._path.with_name(f"tmp-{token_hex(8)}")
        try:
            self._write(staging)
            opened = _IndexFile(staging, self._digest)
            staging.replace(self._path)
        finally:
            with suppress(OSError):
                staging.unlink()
        return opened

    def _write(self, path: Path) -> None:
        try:
            self._write_from(path, self._earlier())
        except _Damaged:  # what was there before
            self._write_from(path, None)

    def _write_from(self, path: Path, earlier: "_IndexFile | None") -> None:
        known = frozenset() if earlier is None else frozenset(earlier.parts)
        new = [(number, part) for number, part in enumerate(self.parts) if part not in known]
        tables = ((number, self._load(part)) for number, part in new)
        what = f"look-up of {self._key.rpartition('/')[2]}"
        build(path, in_steps(what, tables, len(new)), self.parts, earlier)

    def _earlier(self) -> "_IndexFile | None":
        """The index of the most of these parts, and of no others, if one is there."""
        here, best = frozenset(self.parts), None
        for path in (self._root / self._key).glob("*.idx"):
            with suppress(_Damaged, OSError):
                file = _IndexFile(path, None)
                named = _digest(file.parts).hex().startswith(path.stem)
                if named and here.issuperset(file.parts):
                    best = max(best or file, file, key=lambda found: len(found.parts))
        return best

    def _private(self) -> "_IndexFile":
        """An index for this process alone."""
        with tempfile.TemporaryDirectory() as private, posix.writing(Path(private)):
            path = Path(private, self._path.name)
            self._write(path)
            return _IndexFile(path, self._digest)


class _IndexFile:
    """One index file, mapped.

    Raises:
        _Damaged: it is not an index of that digest (of any, if None), or not what was written.
    """

    def __init__(self, path: Path, digest: bytes | None) -> None:
        file = posix.OpenFile(path)
        if file.size < _TRAILER.size:
            raise _Damaged
        self._map = mmap.mmap(file.descriptor, file.size, access=mmap.ACCESS_READ)
        magic, records, names, digest_read, crc = _TRAILER.unpack(self._map[-_TRAILER.size :])
        blocks = -(-records // _BLOCK)
        if file.size != records * _RECORD.itemsize + 12 * blocks + names + _TRAILER.size:
            raise _Damaged
        tail = self._map[records * _RECORD.itemsize :]
        if magic != _MAGIC or google_crc32c.value(tail[:-4]) != crc:
            raise _Damaged
        self._names = tail[12 * blocks : 12 * blocks + names]
        if digest_read != (digest or sha256(self._names).digest()):
            raise _Damaged
        self._records = np.frombuffer(self._map, _RECORD, records)
        self._fences = np.frombuffer(tail, "<u8", blocks)
        self._checksums = np.frombuffer(tail, "<u4", blocks, 8 * blocks)
        self._verified = np.zeros(blocks, dtype=bool)

    def __len__(self) -> int:
        return len(self._records)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that it was built from, in the order of their numbers."""
        try:
            return tuple(self._names.decode("ascii").split("\n")) if self._names else ()
        except UnicodeDecodeError as error:
            raise _Damaged from error

    def runs(self) -> Iterator[Records]:
        """All records, some blocks at a time, compared with their checksums."""
        step = max(1, _RUN // _BLOCK)
        for first in range(0, len(self._fences), step):
            last = min(first + step, len(self._fences))
            self._verify(np.array([first]), np.array([last]))
            yield self._records[first * _BLOCK : last * _BLOCK].copy()

    def lookup(self, keys: UInt64[np.ndarray, "V 2"], parts: int) -> Locations:
        high = np.ascontiguousarray(keys[:, 0])
        # Halves of keys may be equal, so the first block with such a half counts, and the last.
        first = np.maximum(np.searchsorted(self._fences, high) - 1, 0)
        last = np.searchsorted(self._fences, high, side="right")
        self._verify(first, last)
        begin, end = first * _BLOCK, np.minimum(last * _BLOCK, len(self))
        located = _search(self._records, keys, begin, end)
        if (located.part >= parts).any():
            raise _Damaged
        return located

    def status_counts(self) -> Int64[np.ndarray, "256"]:
        counts = np.zeros(256, np.int64)
        for block in range(len(self._fences)):
            self._verify(np.array([block]), np.array([block + 1]))
            records = self._records[block * _BLOCK : (block + 1) * _BLOCK]
            counts += np.bincount(records["status"], minlength=256)
        return counts

    def _verify(self, first: Int64[np.ndarray, "V"], last: Int64[np.ndarray, "V"]) -> None:
        """Compare the blocks from first to last with their checksums, each once."""
        steps = last - first
        blocks = np.repeat(first - np.cumsum(steps) + steps, steps) + np.arange(steps.sum())
        fresh = np.unique(blocks[~self._verified[blocks]]).tolist()
        for block in fresh:  # all at once from the disk, if they are not cached
            with suppress(OSError, ValueError, AttributeError):
                self._map.madvise(mmap.MADV_WILLNEED, block * _BLOCK_BYTES, _BLOCK_BYTES)
        for block in fresh:
            records = self._records[block * _BLOCK : (block + 1) * _BLOCK]
            if google_crc32c.value(records.view(np.uint8)) != self._checksums[block]:
                raise _Damaged
            self._verified[block] = True


def _search(
    records: Records,
    keys: UInt64[np.ndarray, "V 2"],
    begin: Int64[np.ndarray, "V"],
    end: Int64[np.ndarray, "V"],
) -> Locations:
    """The records of these keys among sorted ones, each looked for between its `begin` and `end`.

    Some keys at a time, in their order: they share what they look at, so that it is in the
    processor's cache, and a key costs about the same among a million records as among few.
    """
    located = _nowhere(len(keys))
    order = np.argsort(keys[:, 0])
    for first in range(0, len(order) if len(records) else 0, _KEYS):
        some = order[first : first + _KEYS]
        found = _search_all(records, keys[some], begin[some], end[some])
        for whole, part in zip(located, found, strict=True):
            whole[some] = part
    return located


def _nowhere(clips: int) -> Locations:
    nothing = np.zeros(clips, np.int64)
    pending = np.full(clips, Status.PENDING, np.uint8)
    return Locations(nothing - 1, nothing, nothing.copy(), pending)


def _search_all(
    records: Records,
    keys: UInt64[np.ndarray, "V 2"],
    begin: Int64[np.ndarray, "V"],
    end: Int64[np.ndarray, "V"],
) -> Locations:
    """Binary search for all keys at once, among one record or more."""
    high, low = np.ascontiguousarray(keys.T)
    highs, lows = records["high"], records["low"]
    at, stop = begin, end
    while (open_ := at < stop).any():
        middle = (at + stop) >> 1
        probe = np.minimum(middle, len(records) - 1)
        at_high = highs[probe]
        before = (at_high < high) | ((at_high == high) & (lows[probe] < low))
        at = np.where(open_ & before, middle + 1, at)
        stop = np.where(open_ & ~before, middle, stop)
    record = records[np.minimum(at, len(records) - 1)]
    present = (at < end) & (record["high"] == high) & (record["low"] == low)
    return Locations(
        *(
            np.where(present, record[name].astype(default.dtype), default)
            for name, default in _nowhere(len(keys))._asdict().items()
        )
    )


def build(
    path: Path,
    tables: Iterable[tuple[int, PartTable]],
    parts: Sequence[str],
    earlier: _IndexFile | None = None,
) -> None:
    """Write the index of these parts from their tables with their numbers, and from an earlier
    index of some of them, whose tables are then not given.

    Raises:
        OSError: the disk refused.
        _Damaged: the earlier index is not what was written.
    """
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        ends = [0]
        if earlier is not None:
            number = {part: i for i, part in enumerate(parts)}
            renumbered = np.array([number[part] for part in earlier.parts], np.uint32)
            for records in earlier.runs():
                if (records["part"] >= len(renumbered)).any():
                    raise _Damaged
                records["part"] = renumbered[records["part"]]
                spool.write(records.tobytes())
            ends.append(spool.tell() // _RECORD.itemsize)
        for run in _runs(tables):
            spool.write(_sorted(run).tobytes())
            ends.append(spool.tell() // _RECORD.itemsize)
        spool.flush()
        with path.open("wb") as file:
            _write(file, _merged(spool, ends), parts)


def _digest(parts: Sequence[str]) -> bytes:
    return sha256("\n".join(parts).encode()).digest()


def _runs(tables: Iterable[tuple[int, PartTable]]) -> Iterator[Records]:
    """Records of the parts in groups that are not much larger than a run."""
    waiting, total = [], 0
    for number, table in tables:
        records = np.zeros(len(table.status), dtype=_RECORD)
        records["high"], records["low"] = table.clip_key.T
        records["start"], records["rows"] = table.row_start, table.row_count
        records["part"], records["status"] = number, table.status
        waiting.append(records)
        total += len(records)
        if total >= _RUN:
            yield np.concatenate(waiting)
            waiting, total = [], 0
    if total:
        yield np.concatenate(waiting)


def _merged(spool: IO[bytes], ends: Sequence[int]) -> Iterator[Records]:
    """All records of the sorted runs in order, each clip once, in groups of about a run."""
    if ends[-1] == 0:
        return
    if len(ends) == 2:  # one run, in which nothing is left to be sorted
        spool.seek(0)
        for _ in range(0, ends[-1], _RUN):
            yield np.fromfile(spool, _RECORD, _RUN)
        return
    mapped = mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ)
    highs = np.frombuffer(mapped, _RECORD)["high"]
    runs = [highs[begin:end] for begin, end in pairwise(ends)]
    sample = np.sort(np.concatenate([run[::_SAMPLE] for run in runs]))
    groups = -(-ends[-1] // _RUN)
    edges = sample[(np.arange(1, groups) * len(sample)) // groups]
    cuts = np.array([[0, *np.searchsorted(run, edges), len(run)] for run in runs])
    for group in range(groups):
        stretches = []
        for run, cut in enumerate(cuts):
            spool.seek((ends[run] + int(cut[group])) * _RECORD.itemsize)
            stretches.append(np.fromfile(spool, _RECORD, int(cut[group + 1] - cut[group])))
        yield _sorted(np.concatenate(stretches))


def _sorted(records: Records) -> Records:
    """Records by key; of several with one key only that which speaks for the clip."""
    high = np.ascontiguousarray(records["high"])
    order = np.argsort(high)
    tied = np.zeros(len(order) + 1, dtype=bool)
    tied[1:-1] = np.diff(high[order]) == 0
    group = np.flatnonzero(tied[1:] | tied[:-1])  # few: the rest of the order is settled
    members = order[group]
    rivals = records[members]
    without_rows = ~np.isin(rivals["status"], (Status.OK, Status.PARTIAL))
    ranking = (rivals["start"], rivals["part"], without_rows, rivals["low"], rivals["high"])
    order[group] = members[np.lexsort(ranking)]
    kept = records[order]
    again = np.zeros(len(kept), dtype=bool)
    again[1:] = (kept["high"][1:] == kept["high"][:-1]) & (kept["low"][1:] == kept["low"][:-1])
    return kept[~again] if again.any() else kept


def _write(file: IO[bytes], groups: Iterable[Records], parts: Sequence[str]) -> None:
    total, fences, checksums = 0, [], []
    rest = np.empty(0, dtype=_RECORD)

    def put(records: Records) -> None:
        file.write(records.tobytes())
        fences.append(records["high"][::_BLOCK].astype("<u8"))
        raw = records.view(np.uint8)
        for at in range(0, len(raw), _BLOCK_BYTES):
            checksums.append(google_crc32c.value(raw[at : at + _BLOCK_BYTES]))

    for group in groups:
        total += len(group)
        joined = np.concatenate([rest, group])
        whole = len(joined) // _BLOCK * _BLOCK
        put(joined[:whole])
        rest = joined[whole:]
    put(rest)
    tail = b"".join(part.tobytes() for part in fences) + np.array(checksums, "<u4").tobytes()
    names = "\n".join(parts).encode()
    tail += names + _TRAILER.pack(_MAGIC, total, len(names), _digest(parts), 0)[:-4]
    file.write(tail + google_crc32c.value(tail).to_bytes(4, "little"))


def _sweep(current: Path) -> None:
    """Remove indexes of other commit sets, and what builders that died left long ago."""
    for path in current.parent.iterdir():
        with suppress(OSError):
            abandoned = time.time() - path.stat().st_mtime > _TEMPORARY_SECONDS
            stale = path.suffix == ".idx" and path != current
            if stale or (path.name.startswith("tmp-") and abandoned):
                path.unlink()
