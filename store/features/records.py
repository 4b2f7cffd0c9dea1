"""The commit records of a feature: their names from a listing, the rest when somebody asks.

Records are read one by one, many at once in a bucket. In a directory those that were read before
come from a segment (`store.features.segment`); whoever had to open many writes another.

Shapes: U = units.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import overload

import numpy as np
from jaxtyping import Int64

from store.errors import DamagedStore
from store.features.segment import Damaged, Segment, Summary, Version, write_segment
from store.parts.commit import MAX_RECORD_BYTES, CommitRecord, FeatureKeys
from store.progress import in_steps
from store.storage import posix
from store.storage.storage import at_once, directory

SEGMENT_RECORDS = 512  # that had to be opened: from here on a segment pays
_HELD = 256  # records that are kept once they are read

_InSegment = tuple[Segment, int]


class Records(Sequence[CommitRecord]):
    """The records of the units committed when this was made, by unit name; `earlier` spares reading
    what it has read.

    Raises:
        DamagedStore: names the unit.
    """

    def __init__(self, keys: FeatureKeys, dim: int, earlier: "Records | None" = None) -> None:
        self._keys, self._dim = keys, dim
        root = keys.storage.local_path
        self._path = None if root is None else root / "index" / keys.feature_id / "records.seg"
        self.units = keys.units()
        known = {} if earlier is None else earlier._source
        self._source: dict[str, CommitRecord | _InSegment] = {
            unit: known[unit] for unit in self.units if unit in known
        }
        # Of the files that were read: those that stand there now may be others of the same name.
        self._versions: dict[str, Version] = {} if earlier is None else dict(earlier._versions)
        self._held: dict[str, CommitRecord] = {}
        self._read_rest()
        summaries = [self._summary(unit) for unit in self.units]
        self.parts = [summary.part for summary in summaries]
        self.clips: Int64[np.ndarray, "U"] = np.array([s.clips for s in summaries], np.int64)
        self.rows: Int64[np.ndarray, "U"] = np.array([s.rows for s in summaries], np.int64)

    def __len__(self) -> int:
        return len(self.units)

    @overload
    def __getitem__(self, number: int) -> CommitRecord: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[CommitRecord]: ...
    def __getitem__(self, number: int | slice) -> CommitRecord | Sequence[CommitRecord]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        unit = self.units[number]
        source = self._source[unit]
        if isinstance(source, CommitRecord):
            return source
        if unit not in self._held:
            if len(self._held) >= _HELD:
                self._held.clear()
            try:
                self._held[unit] = source[0].record(source[1])
            except Damaged:  # the proof is elsewhere, and may differ from what was believed
                record = self._read(unit)[1]
                if (record.part, record.clips, record.rows) != self._summary(unit):
                    raise DamagedStore(
                        f"{self._keys.feature_id}: its segment of records is not what was "
                        "written; delete the directory index/ of the store"
                    ) from None
                self._held[unit] = record
        return self._held[unit]

    def __iter__(self) -> Iterator[CommitRecord]:
        return (self[number] for number in range(len(self)))

    def _summary(self, unit: str) -> Summary:
        source = self._source[unit]
        if isinstance(source, CommitRecord):
            return Summary(source.part, source.clips, source.rows)
        return source[0].summaries[source[1]]

    def _read_rest(self) -> None:
        """Find what is not known yet, in a segment or one by one."""
        lacking = [unit for unit in self.units if unit not in self._source]
        versions: dict[str, Version] = {}
        if self._path is not None and len(lacking) >= SEGMENT_RECORDS:
            versions = self._keys.record_versions()
            with suppress(Damaged, OSError):
                segment = Segment(self._path, self._keys.feature_id, self._dim)
                for number, unit in enumerate(segment.units):
                    version = segment.versions[number]
                    if versions.get(unit) == version and unit not in self._source:
                        self._source[unit], self._versions[unit] = (segment, number), version
            lacking = [unit for unit in lacking if unit not in self._source]
        read = at_once(self._keys.storage, self._read, lacking)
        fresh = {}
        found = in_steps("commit records", zip(lacking, read, strict=True), len(lacking))
        for unit, (data, record) in found:
            self._source[unit] = record
            fresh[unit] = data
            self._versions.pop(unit, None)
            if unit in versions:
                self._versions[unit] = versions[unit]
        if self._path is not None and len(fresh) >= SEGMENT_RECORDS:
            with suppress(OSError, DamagedStore):  # a store we may only read, a full disk, a link
                self._compact(fresh)
        self._source = {unit: self._source[unit] for unit in self.units}

    def _compact(self, fresh: dict[str, bytes]) -> None:
        """Write a segment of all records: of those whose file is still the one that was read."""
        assert self._path is not None
        posix.inside(directory(self._keys.storage), f"index/{self._keys.feature_id}")
        now = self._keys.record_versions()
        records: dict[str, tuple[Version, Summary, bytes]] = {}
        for unit, source in self._source.items():
            if unit in now and now[unit] == self._versions.get(unit):
                with suppress(Damaged):
                    data = fresh[unit] if unit in fresh else _bytes_of(source)
                    records[unit] = (now[unit], self._summary(unit), data)
        write_segment(self._path, self._dim, records)

    def _read(self, unit: str) -> tuple[bytes, CommitRecord]:
        data = self._keys.storage.get(self._keys.record(unit), limit_bytes=MAX_RECORD_BYTES)
        record = CommitRecord.from_bytes(data, feature_id=self._keys.feature_id, unit=unit)
        if record.dim != self._dim:
            raise DamagedStore(f"{self._keys.feature_id}/{unit} has rows of {record.dim} numbers")
        return data, record


def _bytes_of(source: CommitRecord | _InSegment) -> bytes:
    return source.to_bytes() if isinstance(source, CommitRecord) else source[0].data(source[1])
