"""The committed units of a feature, and the part that speaks for each clip.

A snapshot: records are read once, tables when somebody asks. Where there are many clips the look-up
lies in a file under index/ (see `store.features.clip_index`), so that opening reads no tables at
all.

Shapes: n = clips committed, V = clips asked for.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from store.errors import DamagedStore
from store.features.clip_index import ClipIndex, Locations, MemoryIndex, PartTable
from store.features.records import Records
from store.names import clip_keys
from store.parts.commit import FeatureKeys
from store.parts.part import Part
from store.parts.row_reader import RowArray
from store.progress import in_steps
from store.storage.storage import at_once

INDEX_CLIPS = 1 << 18  # from here on a look-up file pays
INDEX_PARTS = 1 << 11


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clips:
    """Every committed clip once, ordered by part and by index in it."""

    ids: list[str]
    part: Int64[np.ndarray, "n"]
    start: Int64[np.ndarray, "n"]
    rows: Int64[np.ndarray, "n"]
    status: UInt8[np.ndarray, "n"]


class Units:
    """The units committed when this was made; `earlier` spares reading what it has read already.

    Raises:
        DamagedStore: from every member, naming the unit.
    """

    def __init__(self, keys: FeatureKeys, dim: int, earlier: "Units | None" = None) -> None:
        self._keys = keys
        self.records: Records = Records(keys, dim, earlier.records if earlier else None)
        self._arrays: dict[str, RowArray] = earlier._arrays if earlier else {}
        self._tables: dict[str, PartTable] = earlier._tables if earlier else {}
        self._counted: set[str] = earlier._counted if earlier else set()
        self._tried: Counter[bytes] = earlier._tried if earlier else Counter()

    def part(self, number: int) -> Part:
        """A part that has read nothing yet, so that what it reads goes with it."""
        return Part(self._keys, self.records[number])

    def array(self, number: int) -> RowArray:
        """The rows of a part, always the same object."""
        name = self.records.parts[number]
        if name not in self._arrays:
            self._arrays[name] = self.part(number).values
        return self._arrays[name]

    def lookup(self, clip_ids: Sequence[str]) -> Locations:
        """Part, first row, rows and status of these clips."""
        return self.lookup_keys(clip_keys(clip_ids))

    def lookup_keys(self, keys: UInt64[np.ndarray, "V 2"]) -> Locations:
        """Part, first row, rows and status of the clips of these keys."""
        located = self.index.lookup(keys)
        present = located.part >= 0
        stop = located.start[present] + located.rows[present]
        if (located.start < 0).any() or (stop > self.records.rows[located.part[present]]).any():
            raise DamagedStore(
                f"{self._keys.feature_id}: its look-up file points outside its parts; delete "
                f"the directory index/ of the store"
            )
        return located

    def current_clips(self, number: int) -> Int64[np.ndarray, "_"]:
        """Indices of the clips for which a part speaks: all, where no clip was tried twice."""
        if self._once:
            return np.arange(self.records.clips[number])
        return np.flatnonzero(self.index.lookup(self.table(number).clip_key).part == number)

    @cached_property
    def _once(self) -> bool:
        """Whether every clip is in one part only."""
        return len(self.index) == int(self.records.clips.sum())

    @cached_property
    def clips(self) -> Clips:
        """All committed clips, names included: for stores of which this fits in memory."""
        tables = [self._table(number) for number in range(len(self.records))]
        sizes = [len(table.status) for table in tables]
        part = np.repeat(np.arange(len(tables)), sizes)
        keys = _joined([table.clip_key for table in tables], np.empty((0, 2), np.uint64))
        is_current = self.index.lookup(keys).part == part
        ids: list[str] = []
        split = np.split(is_current, np.cumsum(sizes)[:-1])
        for number, current in enumerate(in_steps("names of clips, units", split, len(split))):
            names = self.part(number).clip_ids if tables else []
            ids += names if current.all() else [names[i] for i in np.flatnonzero(current).tolist()]
        whole = np.empty(0, np.int64)
        return Clips(
            ids=ids,
            part=part[is_current].astype(np.int64),
            start=_joined([table.row_start for table in tables], whole)[is_current],
            rows=_joined([table.row_count for table in tables], whole)[is_current],
            status=_joined([table.status for table in tables], np.empty(0, np.uint8))[is_current],
        )

    def tries(self, clip_ids: Sequence[str]) -> int:
        """The number of units that the most tried of these clips is in: of a few clips."""
        for number, part in enumerate(self.records.parts):
            if part not in self._counted:
                self._counted.add(part)
                self._tried.update(map(bytes, self.part(number).clip_keys))
        return max((self._tried[bytes(key)] for key in clip_keys(clip_ids)), default=0)

    def tries_of_keys(self, keys: UInt64[np.ndarray, "V 2"]) -> Int64[np.ndarray, "V"]:
        """The number of units that each of these clips is in: of many, in one pass over all parts
        that keeps nothing of them."""
        nothing = np.zeros(len(keys), np.int64)
        among = MemoryIndex(
            [PartTable(keys, np.arange(len(keys)), nothing, nothing.astype(np.uint8))]
        )
        counts = nothing.copy()
        for number in in_steps("tries", range(len(self)), len(self)) if len(keys) else ():
            found = among.lookup(self.part(number).clip_keys)
            counts[found.start[found.part >= 0]] += 1  # a clip is in a unit once
        return counts[among.lookup(keys).start]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def remote(self) -> bool:
        """Whether the parts are in a bucket."""
        return self._keys.storage.local_path is None

    @cached_property
    def index(self) -> ClipIndex | MemoryIndex:
        """The look-up from a clip to the part that speaks for it."""
        root = self._keys.storage.local_path
        clips = int(self.records.clips.sum())
        large = clips >= INDEX_CLIPS or len(self.records) >= INDEX_PARTS
        if root is None or not large:
            numbers = range(len(self.records))
            return MemoryIndex(at_once(self._keys.storage, self._table, numbers))
        number = {part: i for i, part in enumerate(self.records.parts)}
        key = f"index/{self._keys.feature_id}"
        return ClipIndex(root, key, number, lambda name: _read_table(self.part(number[name])))

    def table(self, number: int) -> PartTable:
        """Keys, rows and statuses of a part; kept only where the look-up is in memory as well."""
        return self._tables.get(self.records.parts[number]) or _read_table(self.part(number))

    def _table(self, number: int) -> PartTable:
        name = self.records.parts[number]
        if name not in self._tables:
            self._tables[name] = _read_table(self.part(number))
        return self._tables[name]


def _read_table(part: Part) -> PartTable:
    return PartTable(part.clip_keys, part.row_start, part.row_count, part.status)


def _joined(arrays: Sequence[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate([empty, *arrays])
