"""Commit records of a feature in one file, so that thousands need not be opened to be known.

A single record is the proof that a unit is there, and stays it. A segment is a cache of what single
records said: an entry counts only while the record's file is the one that was read (the same file,
size and times), and a segment that is missing, torn or damaged is as none. It holds, in this order,

    header     magic, number of records, size of a row
    entries    of each record, sorted by unit: its file, part, clips, rows, where its bytes lie
    checksum   crc32c of all before it
    bytes      the records as they lie in their own files, each with a checksum in its entry

It is replaced whole by a rename.
"""

import mmap
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import google_crc32c
import numpy as np

from store.errors import DamagedStore
from store.parts.commit import MAX_ROWS, CommitRecord
from store.parts.unit_rows import MAX_UNIT_CLIPS
from store.storage import posix

_HEADER = struct.Struct("<8sQQ")
_MAGIC = b"commits1"
_ENTRY = np.dtype(
    [
        ("unit", "S22"),
        ("attempt", "S12"),
        ("version", "<u8", 4),
        ("clips", "<u8"),
        ("rows", "<u8"),
        ("begin", "<u8"),
        ("length", "<u4"),
        ("crc32c", "<u4"),
    ]
)

Version = tuple[int, int, int, int]  # of a file: inode, size, time of its content and of its name


class Damaged(Exception):  # noqa: N818
    """The file is not what was written; nobody outside needs to know."""


class Summary(NamedTuple):
    """What of a record is known without reading it."""

    part: str
    clips: int
    rows: int


class Segment:
    """A segment that is there, mapped.

    Raises:
        Damaged: it is not what was written.
        OSError: it is not there.
    """

    def __init__(self, path: Path, feature_id: str, dim: int) -> None:
        self._feature_id = feature_id
        self._dim = dim
        file = posix.OpenFile(path)
        size = file.size
        if size < _HEADER.size + 4:
            raise Damaged
        self._map = mmap.mmap(file.descriptor, size, access=mmap.ACCESS_READ)
        magic, count, stored_dim = _HEADER.unpack_from(self._map)
        end = _HEADER.size + count * _ENTRY.itemsize
        if magic != _MAGIC or stored_dim != dim or size < end + 4:
            raise Damaged
        crc = int.from_bytes(self._map[end : end + 4], "little")
        if google_crc32c.value(self._map[:end]) != crc:
            raise Damaged
        entries = np.frombuffer(self._map, _ENTRY, count, _HEADER.size)
        self._bytes_begin = end + 4
        stops = entries["begin"] + entries["length"]
        if count and int(stops.max()) > size - self._bytes_begin:
            raise Damaged
        if (entries["clips"] > MAX_UNIT_CLIPS).any() or (entries["rows"] > MAX_ROWS).any():
            raise Damaged
        try:
            self.units: list[str] = np.char.decode(entries["unit"], "ascii").tolist()
            attempts = np.char.decode(entries["attempt"], "ascii").tolist()
        except UnicodeDecodeError as error:
            raise Damaged from error
        self.versions: list[Version] = list(map(tuple, entries["version"].tolist()))
        self.summaries = [
            Summary(f"{unit}-{attempt}", clips, rows)
            for unit, attempt, clips, rows in zip(
                self.units,
                attempts,
                entries["clips"].tolist(),
                entries["rows"].tolist(),
                strict=True,
            )
        ]
        self._entries = entries

    def data(self, number: int) -> bytes:
        """The bytes of a record.

        Raises:
            Damaged: they are not what was written.
        """
        entry = self._entries[number]
        begin = self._bytes_begin + int(entry["begin"])
        data = self._map[begin : begin + int(entry["length"])]
        if google_crc32c.value(data) != int(entry["crc32c"]):
            raise Damaged
        return data

    def record(self, number: int) -> CommitRecord:
        """A record, checked as one that is read from its own file.

        Raises:
            Damaged: it is not what was written.
        """
        unit, summary = self.units[number], self.summaries[number]
        try:
            record = CommitRecord.from_bytes(
                self.data(number), feature_id=self._feature_id, unit=unit
            )
        except DamagedStore as error:
            raise Damaged from error
        if (record.part, record.clips, record.rows, record.dim) != (*summary, self._dim):
            raise Damaged
        return record


def write_segment(
    path: Path, dim: int, records: Mapping[str, tuple[Version, Summary, bytes]]
) -> None:
    """Put a segment of these records, by unit, in the place of what is there.

    Raises:
        OSError: the disk refused; what was there stays.
    """
    entries = np.zeros(len(records), _ENTRY)
    begin = 0
    for entry, (unit, (version, summary, data)) in zip(
        entries, sorted(records.items()), strict=True
    ):
        attempt = summary.part.rpartition("-")[2]
        entry["unit"], entry["attempt"], entry["version"] = unit, attempt, version
        entry["clips"], entry["rows"] = summary.clips, summary.rows
        entry["begin"], entry["length"] = begin, len(data)
        entry["crc32c"] = google_crc32c.value(data)
        begin += len(data)
    head = _HEADER.pack(_MAGIC, len(records), dim) + entries.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f"tmp-{token_hex(8)}")
    try:
        with staging.open("wb") as file:
            file.write(head + google_crc32c.value(head).to_bytes(4, "little"))
            for _, (_, _, data) in sorted(records.items()):
                file.write(data)
        staging.replace(path)
    finally:
        with suppress(OSError):
            staging.unlink()
