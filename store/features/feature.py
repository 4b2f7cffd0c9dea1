"""One feature of a store: committing units and reading rows.

Shapes: n = clips committed, V = clips asked for, N = their rows, D = embedding size.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float16, Int32, Int64, UInt8, UInt64

from store.errors import ConfigError, InputError, StoreError
from store.features import frames, streaming
from store.features.clip_index import Locations
from store.features.committed import Units
from store.features.identity import read_spec
from store.features.packed import Packed, offsets_of
from store.features.streaming import MEMORY_BYTES
from store.names import is_safe_name, unit_name
from store.parts import commit as protocol
from store.parts.commit import CommitRecord, FeatureKeys
from store.parts.part import Part
from store.parts.row_reader import CAN_READ, RowReader, Span
from store.parts.unit_rows import UnitRows
from store.spec import STORE_DTYPE, FeatureSpec
from store.status import Status
from store.storage.storage import storage_at

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

RACES_LOST = 8  # retries of the same clips that others may win before it is told


class Feature:
    """Rows of many clips under one identity.

    `clip_ids`, `status` and the reading methods see the units committed when first asked, and this
    object's own commits; `store[name]` gives a fresh view.
    """

    def __init__(self, keys: FeatureKeys, spec: FeatureSpec) -> None:
        self._keys = keys
        self._seen: Units | None = None
        self._stale = False
        self._reader = RowReader()
        self.spec = spec
        self.name = keys.feature_id
        self.dim = spec.dim
        self.modality = spec.modality
        self.notes = spec.notes
        self.dtype = np.dtype(STORE_DTYPE)

    def __repr__(self) -> str:
        return f"Feature({self.name!r}, dim={self.dim}, modality={self.modality!r})"

    @property
    def location(self) -> str:
        """The path or URL that opens this feature's store."""
        return self._keys.storage.name

    @property
    def local_path(self) -> Path | None:
        """The directory of this feature's store, if it is one."""
        return self._keys.storage.local_path

    @property
    def parts_digest(self) -> str:
        """sha256 over the names of the committed parts: what all the rows follow from."""
        return sha256("\n".join(self._units.records.parts).encode()).hexdigest()

    @property
    def clips(self) -> int:
        """Committed clips, each once."""
        return len(self._units.index)

    def status_counts(self) -> dict[Status, int]:
        """How many committed clips have each status; no name of a clip is read."""
        counts = self._units.index.status_counts()
        return {status: int(counts[status]) for status in Status if counts[status]}

    @property
    def part_names(self) -> list[str]:
        """Names of the committed parts, by unit name."""
        return self._units.records.parts

    @property
    def committed_clips(self) -> int:
        """Clips of all units together, a clip as often as it was tried."""
        return int(self._units.records.clips.sum())

    @property
    def clip_ids(self) -> list[str]:
        """Committed clips, by unit name and then by index in the unit."""
        return self._units.clips.ids

    @property
    def status(self) -> UInt8[np.ndarray, "n"]:
        """The status of each of `clip_ids`."""
        return self._units.clips.status

    def status_of(self, clip_ids: Sequence[str]) -> UInt8[np.ndarray, "V"]:
        """The status of each of these clips; `Status.PENDING` where no unit holds one."""
        return self.locate(clip_ids).status

    def status_of_keys(self, keys: UInt64[np.ndarray, "V 2"]) -> UInt8[np.ndarray, "V"]:
        """The status of the clips of these keys, looked up anew: what a resumed run goes by."""
        self._stale = True
        return self._units.lookup_keys(keys).status

    def committed(self) -> dict[str, Status]:
        """The status of every committed clip, looked up anew: those that a resumed run may skip."""
        self._stale = True
        clips, by_code = self._units.clips, {int(status): status for status in Status}
        return {c: by_code[s] for c, s in zip(clips.ids, clips.status.tolist(), strict=True)}

    def unit_name(self, clip_ids: Sequence[str], *, retry: int = 0) -> str:
        """The name under which exactly these clips, in this order, are one unit."""
        return unit_name(self.name, clip_ids, retry=retry)

    def has_unit(self, name: str) -> bool:
        """Whether a unit is committed now."""
        return is_safe_name(name) and self._keys.storage.exists(self._keys.record(name))

    def tries(self, clip_ids: Sequence[str]) -> int:
        """The number of units that hold the most tried of these clips: that of its next retry."""
        return self._units.tries(clip_ids)

    def tries_of_keys(self, keys: UInt64[np.ndarray, "V 2"]) -> Int64[np.ndarray, "V"]:
        """The number of units that hold each of the clips of these keys."""
        return self._units.tries_of_keys(keys)

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
        record = protocol.commit(self._keys, rows, notes=notes or {}, retry=retry)
        self._stale = True
        return record is not None

    def commit_lacking(self, rows: UnitRows, notes: Mapping[str, Any] | None = None) -> int:
        """Commit, as a retry, the clips that have rows in `rows` and none here; the number of them.

        For a unit whose commit another writer won: what is there stays, but rows beat none.

        Raises:
            StoreError: as `commit`; or others retried the same clips again and again.
        """
        for _ in range(RACES_LOST):
            self._stale = True
            present = self.locate(rows.clip_ids).rows
            lacking = np.flatnonzero((rows.row_count > 0) & (present == 0)).tolist()
            if not lacking:
                return 0
            chosen = rows.chosen(lacking)
            if self.commit(chosen, notes, retry=self.tries(chosen.clip_ids)):
                return len(lacking)
        raise StoreError(f"{self.name}: other writers try the same clips all the time; run again")

    def read(
        self, clip_ids: Sequence[str], *, verify: bool = True
    ) -> tuple[Float16[np.ndarray, "N D"], Int64[np.ndarray, "V_plus_1"]]:
        """Rows of those clips in that order, and where each begins; failed clips have none.

        `verify` compares every chunk that is touched with its checksum, and so reads whole chunks;
        without it, only the rows are read: some ten times as fast for a few clips here and there.

        Raises:
            InputError: a clip that is not committed.
            DamagedStore: names the unit and file.
        """
        units, located = self._find(clip_ids)
        offsets = offsets_of(located.rows)
        if not CAN_READ and not units.remote:
            return self._read_by_zarr(units, located, offsets), offsets
        spans = [
            Span(units.array(part), start, start + rows, to)
            for part, start, rows, to in zip(
                located.part.tolist(),
                located.start.tolist(),
                located.rows.tolist(),
                offsets[:-1].tolist(),
                strict=True,
            )
            if rows
        ]
        values = self._reader.gather(
            spans, int(offsets[-1]), dim=self.dim, dtype=self.dtype, verify=verify
        )
        return values, offsets

    def _read_by_zarr(
        self, units: Units, located: Locations, offsets: Int64[np.ndarray, "V_plus_1"]
    ) -> Float16[np.ndarray, "N D"]:
        """The rows by zarr: slower, for systems without `pread` and to compare with."""
        values = np.empty((offsets[-1], self.dim), dtype=self.dtype)
        for part, members in _by_part(located):
            whole = units.part(part)
            for i in members.tolist():
                start = int(located.start[i])
                rows = whole.rows_by_zarr(start, start + int(located.rows[i]))
                values[offsets[i] : offsets[i + 1]] = rows
        return values

    def read_times(self, clip_ids: Sequence[str]) -> Int32[np.ndarray, "N"]:
        """Times of those clips' rows in milliseconds from each clip's beginning, as in `read`."""
        units, located = self._find(clip_ids)
        offsets = offsets_of(located.rows)
        times = np.empty(offsets[-1], dtype=np.int32)
        for part, members in _by_part(located):
            all_times = units.part(part).row_time_ms
            for i in members.tolist():
                start = located.start[i]
                times[offsets[i] : offsets[i + 1]] = all_times[start : start + located.rows[i]]
        return times

    def locate(self, clip_ids: Sequence[str]) -> Locations:
        """Number of the part among `parts()`, first row, rows and status of these clips."""
        return self._units.lookup(clip_ids)

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
        return streaming.batches(
            self, clip_ids, clips=clips, memory_bytes=memory_bytes, seed=seed, verify=verify
        )

    def dask(self, clip_ids: Sequence[str] | None = None, *, verify: bool = True) -> streaming.Lazy:
        """These clips (all committed, if None) as dask arrays, read in blocks when computed."""
        clip_ids = self.clip_ids if clip_ids is None else clip_ids
        return streaming.lazy(self, clip_ids, _read_block, verify=verify)

    def to_pandas(
        self, clip_ids: Sequence[str] | None = None, *, rows: str = "each", verify: bool = True
    ) -> "pd.DataFrame":
        """These clips (all committed, if None) as a table: a column for each number.

        A line is a row of a clip, under its id and second; `rows="mean"` gives the mean of each
        clip's rows, in single precision, under its id. Clips without rows have no line.

        >>> fs["synthetic-visual"].to_pandas(rows="mean").shape
        (120, 8)

        Raises:
            ConfigError: pandas is not installed.
            DamagedStore: names the unit and file.
        """
        return frames.to_pandas(self.packed(clip_ids, verify=verify), rows=rows)

    def to_xarray(
        self,
        clip_ids: Sequence[str] | None = None,
        *,
        padded: bool = False,
        lazy: bool = False,
        verify: bool = True,
    ) -> "xr.Dataset":
        """These clips (all committed, if None) as an xarray dataset with the feature's identity.

        Rows stand one after the other, `row_size` a clip and `clip_of_row` a row, which is CF's
        contiguous ragged array; `padded`, every clip is as long as the longest, with a `mask`.
        `lazy` reads blocks with dask when they are computed.

        >>> fs["synthetic-visual"].to_xarray(padded=True).sizes["clip"]
        120

        Raises:
            ConfigError: xarray is not installed, or a padded dataset was to be lazy.
            DamagedStore: names the unit and file.
        """
        if padded and lazy:
            raise ConfigError("a padded dataset cannot be lazy; leave out one of the two")
        clips = self.dask(clip_ids, verify=verify) if lazy else self.packed(clip_ids, verify=verify)
        facts = {"modality": self.modality, "identity": json.dumps(self.spec.identity)}
        return frames.to_xarray(clips, padded=padded, name=self.name, attributes=facts)

    def scan(
        self, verify: bool = True
    ) -> Iterator[tuple[list[str], Float16[np.ndarray, "N D"], Int64[np.ndarray, "V_plus_1"]]]:
        """Every committed clip once, part by part: ids, rows, and where each clip's begin.

        Tables are always compared with the commit record; `verify` compares every chunk of rows
        with its checksum as well.

        Raises:
            DamagedStore: names the unit and file.
        """
        units = self._units
        for number in range(len(units)):
            current = units.current_clips(number)
            if not current.size:
                continue
            table = units.table(number)
            start = table.row_start[current].astype(np.int64)
            rows = table.row_count[current].astype(np.int64)
            values = self._whole(units, number, verify)
            offsets = offsets_of(rows)
            clip_ids = units.part(number).clip_ids
            if len(current) < len(clip_ids):  # another part speaks for the others
                values = values[np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], rows)]
                clip_ids = [clip_ids[i] for i in current.tolist()]
            yield clip_ids, values, offsets

    def _whole(self, units: Units, number: int, verify: bool) -> Float16[np.ndarray, "N D"]:
        """All rows of a part."""
        if not CAN_READ and not units.remote:
            return units.part(number).rows_by_zarr(0, int(units.records.rows[number]))
        rows = int(units.records.rows[number])
        return self._reader.rows(units.array(number), 0, rows, verify=verify)

    def parts(self) -> list[Part]:
        """The committed parts, by unit name."""
        units = self._units
        return [units.part(number) for number in range(len(units))]

    def row_spans(
        self,
    ) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """The rows of each of `clip_ids`: number of the part among `parts()`, first row, rows."""
        clips = self._units.clips
        return clips.part, clips.start, clips.rows

    def records(self) -> Iterator[CommitRecord]:
        """The commit records, by unit name."""
        yield from self._units.records

    def part_attributes(self) -> Iterator[dict[str, Any]]:
        """Provenance of each part, by unit name."""
        for part in self.parts():
            yield part.attributes()

    def details(self, clip_ids: Sequence[str]) -> list[str]:
        """The decoder used, or what went wrong, for each of these clips.

        Raises:
            InputError: a clip that is not committed.
        """
        units, located = self._find(clip_ids)
        details = [""] * len(clip_ids)
        for number in np.unique(located.part).tolist():
            part = units.part(number)
            by_clip = dict(zip(part.clip_ids, part.details, strict=True))
            for i in np.flatnonzero(located.part == number).tolist():
                details[i] = by_clip[clip_ids[i]]
        return details

    def _find(self, clip_ids: Sequence[str]) -> tuple[Units, Locations]:
        units = self._units
        located = units.lookup(clip_ids)
        if (lost := np.flatnonzero(located.part < 0)).size:
            raise InputError(
                f"{self.name} has no clip {clip_ids[lost[0]]!r} ({lost.size} of {len(clip_ids)} "
                f"asked for are not committed, {len(units.index)} are)"
            )
        return units, located

    @property
    def _units(self) -> Units:
        if self._seen is None or self._stale:
            self._seen, self._stale = Units(self._keys, self.dim, self._seen), False
        return self._seen


def _by_part(located: Locations) -> Iterator[tuple[int, Int64[np.ndarray, "_"]]]:
    """The clips with rows, grouped by part and in file order: (part, indices into `located`)."""
    order = np.lexsort((located.start, located.part))
    order = order[located.rows[order] > 0]
    for members in np.split(order, np.flatnonzero(np.diff(located.part[order])) + 1):
        if members.size:
            yield int(located.part[members[0]]), members


def _read_block(
    location: str, name: str, clip_ids: tuple[str, ...], rows: int, verify: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and times, in whatever process: a path and a name are all that travels."""
    block = _opened(location, name).packed(clip_ids, verify=verify)
    if len(block.values) != rows:  # committed after this process had opened the store, perhaps
        _opened.cache_clear()
        block = _opened(location, name).packed(clip_ids, verify=verify)
    if len(block.values) != rows:
        raise StoreError(f"{name} has changed since this array was made; make it again")
    return block.values, block.time_ms


@lru_cache(4)
def _opened(location: str, name: str) -> Feature:
    keys = FeatureKeys(storage=storage_at(location), feature_id=name)
    return Feature(keys, read_spec(keys))
