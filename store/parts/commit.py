"""The commit protocol: a unit is there wholly or not at all.

1. The part is encoded under tmp/, every file is hashed and made durable.
2. It is renamed into parts/, under a name no other attempt has.
3. commits/<feature>/<unit>.json is created if absent. That is the only commit point: what no
   record names does not exist for readers, and whoever comes second has written garbage.
4. The writer sees that its part is still there: one that slept for a day between 2 and 3 may have
   lost it to the collector, and then takes the record back before anybody was told of it.
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from store.errors import ConfigError, DamagedStore, StoreError
from store.names import clip_keys, unit_name
from store.parts import layout
from store.parts.unit_rows import MAX_UNIT_CLIPS, UnitRows
from store.spec import MAX_SPEC_BYTES, canonical_json, normalised
from store.status import STORED, Status
from store.storage import posix as files
from store.storage.storage import Storage, directory

MAX_RECORD_BYTES = 4 << 20
MAX_ROWS = 1 << 40  # of a unit
_HEX = {"crc32c": re.compile(r"[0-9a-f]{8}"), "sha256": re.compile(r"[0-9a-f]{64}")}
PART_NAME = re.compile(r"(u-[0-9a-f]{20})-([0-9a-f]{12})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRecord:
    """The proof that a unit is there, and what each of its files was when written."""

    feature_id: str
    unit: str
    part: str
    nonce: str  # tells the writer whether a record that is already there is its own
    retry: int
    clips: int
    rows: int
    dim: int
    status: Mapping[str, int]  # clips by kind
    files: tuple[files.FileRecord, ...]
    written: str

    def to_bytes(self) -> bytes:
        """The record as it lies on disk, with its own checksum."""
        body = {"format": layout.FORMAT, **asdict(self)}
        return canonical_json({**body, "crc32c": files.crc32c_hex(canonical_json(body))})

    @classmethod
    def from_bytes(cls, data: bytes, *, feature_id: str, unit: str) -> "CommitRecord":
        """Read a record, trusting nothing.

        Raises:
            DamagedStore: not the bytes that were written, or not a record of this unit.
        """
        where = f"commit record {feature_id}/{unit}"
        try:
            document, sound = _parsed(data)
        except MemoryError:  # says nothing of the bytes
            raise
        except Exception as error:  # whatever a hostile file makes the parser say
            raise DamagedStore(f"{where} cannot be read ({type(error).__name__})") from error
        if not sound:
            raise DamagedStore(f"{where} does not match its own checksum")
        if document.pop("format", None) != layout.FORMAT:
            raise DamagedStore(f"{where} is not of format {layout.FORMAT}")
        try:
            listed = tuple(files.FileRecord(**entry) for entry in document.pop("files"))
            record = cls(files=listed, **document)
            fault = record._fault(feature_id, unit)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise DamagedStore(f"{where} lacks or mistypes a field ({error})") from error
        if fault:
            raise DamagedStore(f"{where}: {fault}")
        return record

    def _fault(self, feature_id: str, unit: str) -> str | None:
        """The first thing a record of this unit could not say, or None."""
        numbers = {"retry": 1 << 20, "clips": MAX_UNIT_CLIPS, "rows": MAX_ROWS, "dim": 1 << 18}
        for name, limit in numbers.items():
            if not _is_count(getattr(self, name), limit):
                return f"{name}={getattr(self, name)!r} is not a number in 0..{limit}"
        if (self.feature_id, self.unit) != (feature_id, unit):
            return f"it speaks of {self.feature_id!r}/{self.unit!r}"
        named = PART_NAME.fullmatch(self.part)
        if named is None or named[1] != unit:
            return f"{self.part!r} is no part of this unit"
        if not set(self.status) <= {status.kind for status in STORED}:
            return "it counts a status that does not exist"
        counted = self.status.values()
        if not all(_is_count(n, self.clips) for n in counted) or sum(counted) != self.clips:
            return f"its status counts do not sum to {self.clips} clips"
        if not (self.clips and self.dim):
            return "it has no clips or no size"
        if self.rows > 65535 * self.clips:
            return f"{self.rows} rows are too many for {self.clips} clips"
        return self._file_fault()

    def _file_fault(self) -> str | None:
        if -(-self.rows // layout.shard_rows(self.dim)) > len(self.files):
            return "it lists too few files"
        wanted = layout.part_files(clips=self.clips, rows=self.rows, dim=self.dim)
        if [file.key for file in self.files] != sorted(wanted):
            return "it does not list exactly the files of such a part"
        for file in self.files:
            if not _is_count(file.size, 1 << 40) or wanted[file.key] not in (None, file.size):
                return f"{file.key} cannot have {file.size!r} bytes"
            if not all(pattern.fullmatch(getattr(file, name)) for name, pattern in _HEX.items()):
                return f"{file.key} has no proper checksums"
        return None


def _parsed(data: bytes) -> tuple[dict[str, Any], bool]:
    """The object that a record is, without its checksum, and whether it is as it was written.

    A record has no fractions, so Python's own spelling is the canonical one; and its checksum is
    over the bytes that are left when those that say it are taken out.
    """
    document = json.loads(data, parse_float=_refuse, parse_constant=_refuse)
    spelt = json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")
    stored = document.pop("crc32c")
    said = f'"crc32c":{json.dumps(stored)},'.encode()  # its key is the second one, before `dim`
    return document, spelt == data and files.crc32c_hex(data.replace(said, b"", 1)) == stored


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no whole number")


def _is_count(value: Any, limit: int) -> bool:
    return type(value) is int and 0 <= value <= limit


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKeys:
    """The keys under which one feature lies."""

    storage: Storage
    feature_id: str

    @property
    def feature(self) -> str:
        """The group that holds all of it."""
        return f"data.zarr/{self.feature_id}"

    @property
    def parts(self) -> str:
        """The group that its parts are in."""
        return f"{self.feature}/parts"

    @property
    def commits(self) -> str:
        """The folder of its commit records."""
        return f"commits/{self.feature_id}"

    def record(self, unit: str) -> str:
        """The commit record of a unit."""
        return f"{self.commits}/{unit}.json"

    def record_versions(self) -> dict[str, tuple[int, int, int, int]]:
        """By unit, what tells a record's file from any other: inode, size, times of its content and
        of its name. Of a store that is a directory."""
        found = {}
        with suppress(OSError), os.scandir(directory(self.storage) / self.commits) as entries:
            for entry in entries:
                if entry.name.startswith("u-") and entry.name.endswith(".json"):
                    facts = entry.stat(follow_symlinks=False)
                    found[entry.name[:-5]] = (
                        facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns,
                    )  # fmt: skip
        return found

    def units(self) -> list[str]:
        """Names of the units that have a commit record, sorted."""
        names = self.storage.names(f"{self.commits}/")
        return [n.removesuffix(".json") for n in names if n.startswith("u-") and n[-5:] == ".json"]


def read_record(keys: FeatureKeys, unit: str) -> CommitRecord:
    """The commit record of a unit.

    Raises:
        DamagedStore: it is missing or not what was written.
    """
    data = keys.storage.get(keys.record(unit), limit_bytes=MAX_RECORD_BYTES)
    return CommitRecord.from_bytes(data, feature_id=keys.feature_id, unit=unit)


def commit(
    keys: FeatureKeys, rows: UnitRows, *, notes: Mapping[str, Any], retry: int = 0
) -> CommitRecord | None:
    """Write a part and commit it; None if another attempt had won.

    Raises:
        ConfigError: notes that are no JSON data, or too many.
        StoreError: the disk refused. Nothing was committed, unless the message says so.
    """
    unit = unit_name(keys.feature_id, rows.clip_ids, retry=retry)
    storage = keys.storage
    if storage.exists(keys.record(unit)):
        return None
    attempt = token_hex(6)
    part = f"{unit}-{attempt}"
    written = datetime.now(UTC).isoformat(timespec="seconds")
    notes = normalised(notes, "attempt notes")
    if (size := len(canonical_json(notes))) > MAX_SPEC_BYTES:
        raise ConfigError(f"attempt notes take {size} bytes; at most {MAX_SPEC_BYTES} fit")
    attributes = {
        "format": layout.FORMAT,
        "feature_id": keys.feature_id,
        "unit": unit,
        "attempt": attempt,
        "n_clips": len(rows.clip_ids),
        "n_rows": len(rows.values),
        "written": written,
        "writer": {**_versions(), **notes},
    }
    with storage.staging(part) as staged:
        with files.writing(staged):
            _stage(staged, rows, attributes)
            listed = tuple(files.file_record(staged, key) for key in files.keys_under(staged))
        storage.publish(staged, f"{keys.parts}/{part}")
    record = CommitRecord(
        feature_id=keys.feature_id,
        unit=unit,
        part=part,
        nonce=token_hex(16),
        retry=retry,
        clips=len(rows.clip_ids),
        rows=len(rows.values),
        dim=rows.values.shape[1],
        status={
            Status(int(s)).kind: int(n)
            for s, n in zip(*np.unique(rows.status, return_counts=True), strict=True)
        },
        files=listed,
        written=written,
    )
    if fault := record._fault(keys.feature_id, unit):  # a collector that spares nothing young
        raise StoreError(
            f"{part} was changed while it was being written ({fault}); run again, and let `store "
            "gc` spare what is younger than a unit takes"
        )
    return record if put_record(storage, record) else None


def put_record(storage: Storage, record: CommitRecord) -> bool:
    """Commit a part that is in its place; False if another attempt had won.

    Raises:
        StoreError: the storage refused, or the part is no longer there.
    """
    key = f"commits/{record.feature_id}/{record.unit}.json"
    # The same bytes, nonce included, are ours: an answer was lost (NFS and S3 do that).
    if not storage.put_if_absent(key, record.to_bytes()):
        return False
    if not storage.exists(f"data.zarr/{record.feature_id}/parts/{record.part}/zarr.json"):
        storage.delete(key)
        raise StoreError(f"{record.part} was collected as garbage before its commit; run again")
    return True


def _stage(staged: Path, rows: UnitRows, attributes: Mapping[str, Any]) -> None:
    """Encode the arrays of a part."""
    import zarr

    clips, total, dim = len(rows.clip_ids), *rows.values.shape
    content = {
        "values": rows.values,
        "row_time_ms": rows.row_time_ms,
        "row_start": rows.row_start,
        "row_count": rows.row_count,
        "status": rows.status,
        "clip_key": clip_keys(rows.clip_ids),
        "clip_id": np.array(rows.clip_ids, dtype=object),
        "media_sha256": rows.media_sha256,
        "detail": np.array(rows.detail, dtype=object),
    }
    (staged / "zarr.json").write_bytes(layout.group_json(attributes))
    for name in layout.ARRAYS:
        (staged / name).mkdir()
        metadata = layout.array_metadata(name, clips=clips, rows=total, dim=dim)
        (staged / name / "zarr.json").write_bytes(json.dumps(metadata, indent=1).encode())
        array = zarr.open_array(str(staged / name), mode="r+", zarr_format=3)
        if name != "values":  # its fill value never occurs; padding of its shards stays unwritten
            array = array.with_config({"write_empty_chunks": True})
        if content[name].shape[0]:
            array[...] = content[name]  # whole shards in one call: partial writes may lose data


def _versions() -> dict[str, str]:
    """The libraries whose version may matter to who reads the rows later."""
    versions = {}
    for name in ("microshot", "numpy", "zarr"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions
