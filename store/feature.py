"""One feature of a store: committing units and reading rows.

Shapes: n = clips committed, V = clips asked for, N = their rows, D = embedding size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float16, Int32, Int64, UInt8

from store import commit as protocol
from store import layout, stream
from store.commit import CommitRecord, Places
from store.errors import DamagedStore, InputError
from store.index import Found
from store.names import is_safe_name, unit_name
from store.packed import Packed, offsets_of
from store.part import Part, blocks
from store.rows import UnitRows
from store.spec import STORE_DTYPE, FeatureSpec
from store.status import Status
from store.stream import MEMORY_BYTES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Index:
    """Every committed clip once: in which part and where in it."""

    parts: tuple[Part, ...]
    clip_ids: list[str]
    position: Mapping[str, int]  # clip id -> place in all of these
    part: Int64[np.ndarray, "n"]
    place: Int64[np.ndarray, "n"]  # in the part
    start: Int64[np.ndarray, "n"]
    count: Int64[np.ndarray, "n"]
    status: UInt8[np.ndarray, "n"]


class Feature:
    """Rows of many clips under one identity.

    `clip_ids`, `status` and the reading methods see the units committed when first asked, and this
    object's own commits; `store[name]` gives a fresh view.
    """

    def __init__(self, places: Places, spec: FeatureSpec) -> None:
        self._places = places
        self._parts: dict[str, Part] = {}
        self._index: _Index | None = None
        self.spec = spec
        self.name = places.feature_id
        self.dim = spec.dim
        self.modality = spec.modality
        self.notes = spec.notes
        self.dtype = np.dtype(STORE_DTYPE)

    def __repr__(self) -> str:
        return f"Feature({self.name!r}, dim={self.dim}, modality={self.modality!r})"

    @property
    def clip_ids(self) -> list[str]:
        """Committed clips, by unit name and then by place in the unit."""
        return self._indexed().clip_ids

    @property
    def status(self) -> UInt8[np.ndarray, "n"]:
        """What became of each of `clip_ids`."""
        return self._indexed().status

    def status_of(self, clip_ids: Sequence[str]) -> UInt8[np.ndarray, "V"]:
        """What became of each of these clips; `Status.PENDING` where no unit holds one."""
        index = self._indexed()
        found = (index.position.get(clip_id) for clip_id in clip_ids)
        codes = [Status.PENDING if i is None else index.status[i] for i in found]
        return np.array(codes, dtype=np.uint8)

    def committed(self) -> dict[str, Status]:
        """What became of every committed clip, looked up anew: what a resumed run may skip."""
        self._index = None
        index = self._indexed()
        by_code = {int(status): status for status in Status}
        return {c: by_code[s] for c, s in zip(index.clip_ids, index.status.tolist(), strict=True)}

    def unit_name(self, clip_ids: Sequence[str], *, retry: int = 0) -> str:
        """The name under which exactly these clips, in this order, are one unit."""
        return unit_name(self.name, clip_ids, retry=retry)

    def has_unit(self, name: str) -> bool:
        """Whether a unit is committed now."""
        return is_safe_name(name) and self._places.record(name).exists()

    def tries(self, clip_ids: Sequence[str]) -> int:
        """In how many units the most tried of these clips is: the number of its next retry."""
        wanted = set(clip_ids)
        tried: dict[str, int] = dict.fromkeys(wanted, 0)
        for part in self._indexed().parts:
            for clip_id in wanted.intersection(part.clip_ids):
                tried[clip_id] += 1
        return max(tried.values(), default=0)

    def commit(
        self, rows: UnitRows, notes: Mapping[str, Any] | None = None, *, retry: int = 0
    ) -> bool:
        """Write and commit a unit; False if another attempt had won and this one is garbage.

        `notes` is provenance of this attempt, such as library versions and device. To try
        committed clips again, `retry` is `tries(clip_ids)`.

        Raises:
            ValueError: rows of another size.
            StoreError: the disk refused; nothing was committed.
        """
        if rows.values.shape[1] != self.dim:
            raise ValueError(
                f"rows have {rows.values.shape[1]} numbers; {self.name} has {self.dim}"
            )
        record = protocol.commit(self._places, rows, notes=notes or {}, retry=retry)
        self._index = None
        return record is not None

    @property
    def location(self) -> str:
        """What `store.open` takes to find this feature's store."""
        return str(self._places.root)

    def read(
        self, clip_ids: Sequence[str], *, verify: bool = True
    ) -> tuple[Float16[np.ndarray, "N D"], Int64[np.ndarray, "V_plus_1"]]:
        """Rows of those clips in that order, and where each begins; failed clips have none.

        Raises:
            InputError: a clip that is not committed.
            DamagedStore: names the unit and file.
        """
        index, wanted = self._locate(clip_ids)
        offsets = offsets_of(index.count[wanted])
        values = np.empty((offsets[-1], self.dim), dtype=self.dtype)
        step = layout.chunk_rows(self.dim)
        for part, members in _by_part(index, wanted):
            start = index.start[wanted[members]]
            stop = start + index.count[wanted[members]]
            spans = blocks(
                start.tolist(),
                stop.tolist(),
                chunk_rows=step,
                limit_rows=layout.shard_rows(self.dim),
            )
            for first, last, low, high in spans:
                block = part.rows(low, high)
                for i in range(first, last):
                    to = offsets[members[i]]
                    values[to : to + stop[i] - start[i]] = block[start[i] - low : stop[i] - low]
        return values, offsets

    def read_times(self, clip_ids: Sequence[str]) -> Int32[np.ndarray, "N"]:
        """Times of those clips' rows in milliseconds from each clip's beginning, as in `read`."""
        index, wanted = self._locate(clip_ids)
        offsets = offsets_of(index.count[wanted])
        times = np.empty(offsets[-1], dtype=np.int32)
        for part, members in _by_part(index, wanted):
            for member in members:
                start, count = index.start[wanted[member]], index.count[wanted[member]]
                times[offsets[member] : offsets[member + 1]] = part.row_time_ms[
                    start : start + count
                ]
        return times

    def locate(self, clip_ids: Sequence[str]) -> Found:
        """Number among `parts()`, first row, rows and status of these clips; see `Found`."""
        index = self._indexed()
        places = np.array([index.position.get(c, -1) for c in clip_ids], dtype=np.int64)
        there, found = places >= 0, places[places >= 0]
        part, start, rows = (np.full(len(places), fill, np.int64) for fill in (-1, 0, 0))
        status = np.full(len(places), Status.PENDING, np.uint8)
        part[there], start[there] = index.part[found], index.start[found]
        rows[there], status[there] = index.count[found], index.status[found]
        return Found(part, start, rows, status)

    def packed(self, clip_ids: Sequence[str] | None = None, *, verify: bool = True) -> Packed:
        """Rows, masks and times of these clips (all committed, if None) in one piece of memory.

        Clips that failed, have no such stream or are not committed have no rows. `.padded()` makes
        them equally long.

        Raises:
            DamagedStore: names the unit and file.
        """
        clip_ids = self.clip_ids if clip_ids is None else clip_ids
        rows = self.locate(clip_ids).rows
        known = [clip_id for clip_id, n in zip(clip_ids, rows.tolist(), strict=True) if n]
        return Packed(
            clip_ids=tuple(clip_ids),
            values=self.read(known, verify=verify)[0],
            offsets=offsets_of(rows),
            time_ms=self.read_times(known),
        )

    def batches(
        self,
        clip_ids: Sequence[str] | None = None,
        *,
        clips: int | None = None,
        memory_bytes: int = MEMORY_BYTES,
        seed: int | None = None,
        verify: bool = True,
    ) -> Iterator[Packed]:
        """Each of these clips (all committed, if None) once, in batches; for more than fits in RAM.

        Blocks of at most `memory_bytes` are read in the order of the disk and cut into batches of
        `clips`, if given; batches end where blocks end. With a `seed` the order is random: parts
        first, then the clips within a block. Only rows on their way through memory are held: one
        block and a copy of one batch.

        Raises:
            InputError: no clips to a batch, or no memory.
            DamagedStore: names the unit and file.
        """
        clip_ids = self.clip_ids if clip_ids is None else clip_ids
        return stream.batches(
            self, clip_ids, clips=clips, memory_bytes=memory_bytes, seed=seed, verify=verify
        )

    def dask(self, clip_ids: Sequence[str] | None = None, *, verify: bool = True) -> stream.Lazy:
        """These clips (all committed, if None) as dask arrays, read in blocks when computed."""
        clip_ids = self.clip_ids if clip_ids is None else clip_ids
        return stream.lazy(self, clip_ids, verify=verify)

    def scan(
        self, verify: bool = True
    ) -> Iterator[tuple[list[str], Float16[np.ndarray, "N D"], Int64[np.ndarray, "V_plus_1"]]]:
        """Every committed clip once, part by part: ids, rows, and where each clip's begin.

        `verify` compares each part's files with their checksums before yielding it.

        Raises:
            DamagedStore: names the unit and file.
        """
        index = self._indexed()
        bounds = np.searchsorted(index.part, np.arange(len(index.parts) + 1))
        for number, part in enumerate(index.parts):
            clip_ids = index.clip_ids[bounds[number] : bounds[number + 1]]
            if verify:
                part.verify()
            if clip_ids:
                yield clip_ids, *self.read(clip_ids)

    def parts(self) -> list[Part]:
        """The committed parts, by unit name."""
        return list(self._indexed().parts)

    def row_spans(
        self,
    ) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """Where the rows of each of `clip_ids` are: number among `parts()`, first row, rows."""
        index = self._indexed()
        return index.part, index.start, index.count

    def records(self) -> Iterator[CommitRecord]:
        """The commit records, by unit name."""
        for part in self._indexed().parts:
            yield part.record

    def part_attributes(self) -> Iterator[dict[str, Any]]:
        """Provenance of each part, by unit name."""
        for part in self._indexed().parts:
            yield part.attributes()

    def details(self, clip_ids: Sequence[str]) -> list[str]:
        """The decoder used, or what went wrong, for each of these clips.

        Raises:
            InputError: a clip that is not committed.
        """
        index, wanted = self._locate(clip_ids)
        return [index.parts[index.part[i]].details[index.place[i]] for i in wanted.tolist()]

    def _locate(self, clip_ids: Sequence[str]) -> tuple[_Index, Int64[np.ndarray, "V"]]:
        index = self._indexed()
        try:
            wanted = [index.position[clip_id] for clip_id in clip_ids]
        except KeyError:
            lost = [clip_id for clip_id in clip_ids if clip_id not in index.position]
            raise InputError(
                f"{self.name} has no clip {lost[0]!r} ({len(lost)} of {len(clip_ids)} asked for "
                f"are not committed, {len(index.clip_ids)} are)"
            ) from None
        return index, np.array(wanted, dtype=np.int64)

    def _indexed(self) -> _Index:
        if self._index is None:
            for unit in committed_units(self._places):
                if unit not in self._parts:
                    record = protocol.read_record(self._places, unit)
                    if record.dim != self.dim:
                        raise DamagedStore(f"{self.name}/{unit} has rows of {record.dim} numbers")
                    self._parts[unit] = Part(self._places, record)
            self._index = _build_index([self._parts[unit] for unit in sorted(self._parts)])
        return self._index


def committed_units(places: Places) -> list[str]:
    """Names of the units that have a commit record, sorted."""
    names = (path.name for path in places.commits.glob("u-*.json"))
    return sorted(name.removesuffix(".json") for name in names)


def _build_index(parts: Sequence[Part]) -> _Index:
    """Which part speaks for each clip: one with rows before one without, then the smallest name."""
    chosen: dict[str, tuple[bool, int, int]] = {}  # clip id -> (no rows, part, place)
    for number, part in enumerate(parts):
        without_rows = (part.row_count == 0).tolist()
        for place, clip_id in enumerate(part.clip_ids):
            candidate = (without_rows[place], number, place)
            chosen[clip_id] = min(candidate, chosen.get(clip_id, candidate))
    ordered = sorted((number, place, clip_id) for clip_id, (_, number, place) in chosen.items())
    numbers = np.array([number for number, _, _ in ordered], dtype=np.int64)
    first = np.cumsum([0, *(len(part.clip_ids) for part in parts)])
    within = np.array([place for _, place, _ in ordered], dtype=np.int64)
    joined = first[numbers] + within
    clip_ids = [clip_id for _, _, clip_id in ordered]
    return _Index(
        parts=tuple(parts),
        clip_ids=clip_ids,
        position={clip_id: i for i, clip_id in enumerate(clip_ids)},
        part=numbers,
        place=within,
        start=_joined([part.row_start for part in parts], np.int64)[joined],
        count=_joined([part.row_count for part in parts], np.int64)[joined],
        status=_joined([part.status for part in parts], np.uint8)[joined],
    )


def _joined(arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays])


def _by_part(
    index: _Index, wanted: Int64[np.ndarray, "V"]
) -> Iterator[tuple[Part, Int64[np.ndarray, "_"]]]:
    """The clips with rows, grouped by part and in file order: (part, places in `wanted`)."""
    order = np.lexsort((index.start[wanted], index.part[wanted]))
    order = order[index.count[wanted[order]] > 0]
    cuts = np.flatnonzero(np.diff(index.part[wanted[order]])) + 1
    for members in np.split(order, cuts):
        if members.size:
            yield index.parts[index.part[wanted[members[0]]]], members
