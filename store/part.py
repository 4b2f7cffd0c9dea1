"""Reading one committed part with zarr, after checking that it is what its record says.

Shapes: n = clips of the part, R = its rows, D = embedding size, K = rows asked for.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float16, Int32, Int64, UInt8, UInt64

from store import files, layout
from store.commit import CommitRecord, Places
from store.errors import DamagedStore
from store.names import MAX_CLIP_ID_BYTES
from store.status import STORED


class Part:
    """The arrays of one committed part; each is read on first use and checked.

    Raises:
        DamagedStore: from every member, naming feature, unit and file.
    """

    def __init__(self, places: Places, record: CommitRecord) -> None:
        self.record = record
        self.path = places.parts / record.part
        self._name = f"{record.feature_id}/{record.unit}"

    @cached_property
    def clip_ids(self) -> list[str]:
        return self._read("clip_id").tolist()

    @cached_property
    def clip_keys(self) -> UInt64[np.ndarray, "n 2"]:
        return self._read("clip_key")

    @cached_property
    def details(self) -> list[str]:
        return self._read("detail").tolist()

    @cached_property
    def media_sha256(self) -> UInt8[np.ndarray, "n 32"]:
        return self._read("media_sha256")

    @cached_property
    def status(self) -> UInt8[np.ndarray, "n"]:
        status = self._read("status")
        if not np.isin(status, STORED).all():
            raise self._damaged("status", "holds a code that does not exist")
        return status

    @cached_property
    def row_count(self) -> Int64[np.ndarray, "n"]:
        return self._read("row_count").astype(np.int64)

    @cached_property
    def row_start(self) -> Int64[np.ndarray, "n"]:
        start = self._read("row_start")
        wanted = np.cumsum(self.row_count) - self.row_count
        if (
            not np.array_equal(start, wanted.astype(np.uint64))
            or self.row_count.sum() != self.record.rows
        ):
            raise self._damaged("row_start", "does not fit row_count")
        return wanted

    @cached_property
    def row_time_ms(self) -> Int32[np.ndarray, "R"]:
        return self._read("row_time_ms")

    def rows(self, start: int, stop: int) -> Float16[np.ndarray, "K D"]:
        """Consecutive rows."""
        with self._reading("values"):
            block = np.asarray(self._values[start:stop])
        # The fill value is NaN and no stored value is: a hole in a shard shows in every column.
        if np.isnan(block[:, 0]).any():
            raise self._damaged("values", f"has lost rows within {start}..{stop}")
        return block

    def check_layout(self) -> None:
        """See that every array is described as it was written."""
        for name in layout.ARRAYS:
            self._open(name)

    def verify(self, array: str = "") -> None:
        """Compare every file, or those of one array, with the checksums of the commit record."""
        for file in self.record.files:
            if array and not file.key.startswith(f"{array}/"):
                continue
            with self._reading(file.key):
                found = files.file_digests(self.path / file.key, deep=False)
            if found[:2] != (file.size, file.crc32c):
                raise self._damaged(file.key, "is not the file that was written")

    def attributes(self) -> dict[str, Any]:
        """Provenance: library versions, device, time of writing."""
        return self._metadata("").get("attributes", {})

    @cached_property
    def _values(self) -> Any:
        return self._open("values")

    def _read(self, name: str) -> np.ndarray:
        array = self._open(name)
        self._check_inflated_size(name, array)
        with self._reading(name):
            return np.asarray(array[...])

    def _open(self, name: str) -> Any:
        """The zarr array, if its metadata and file sizes are exactly those of this part."""
        import zarr

        record = self.record
        found = self._metadata(name)
        wanted = layout.array_metadata(name, clips=record.clips, rows=record.rows, dim=record.dim)
        if found != wanted:
            raise self._damaged(f"{name}/zarr.json", "does not describe the array that was written")
        for file in record.files:
            if file.key.startswith(f"{name}/"):
                with self._reading(file.key):
                    size = (self.path / file.key).stat().st_size
                if size != file.size:
                    raise self._damaged(file.key, f"has {size} bytes instead of {file.size}")
        with self._reading(name):
            array = zarr.open_array(str(self.path / name), mode="r", zarr_format=3)
            if "read_missing_chunks" in zarr.config.get("array"):  # zarr >= 3.2
                array = array.with_config({"read_missing_chunks": False})
        return array

    def _metadata(self, name: str) -> dict[str, Any]:
        key = f"{name}/zarr.json" if name else "zarr.json"
        data = files.read_small(self.path / key, limit_bytes=layout.MAX_METADATA_BYTES)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._damaged(key, "is not JSON") from error
        if not isinstance(found, dict):
            raise self._damaged(key, "is not a JSON object")
        return found

    def _check_inflated_size(self, name: str, array: Any) -> None:
        """Refuse a compressed chunk that announces more than the array can hold."""
        if not self.record.rows and name == "row_time_ms":
            return
        key = "/".join((name, "c", *("0" for _ in array.shape)))
        if name in ("clip_id", "detail"):
            low, high = 4, 4 + self.record.clips * (4 + MAX_CLIP_ID_BYTES)
        else:
            low = high = int(np.prod(array.shape)) * array.dtype.itemsize
        with self._reading(key), (self.path / key).open("rb") as file:
            size = _zstd_content_bytes(file.read(18))
        if not low <= size <= high:
            raise self._damaged(key, f"announces {size} bytes where {high} belong")

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except DamagedStore:
            raise
        except Exception as error:  # zarr and its codecs raise many types on damaged bytes
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise self._damaged(key, f"cannot be read ({reason})") from error

    def _damaged(self, key: str, what: str) -> DamagedStore:
        return DamagedStore(f"{self._name}: {key} {what}; run: store verify DIR")


def _zstd_content_bytes(head: bytes) -> int:
    """The size a zstd frame announces, -1 if it announces none. Source: RFC 8878, 3.1.1.1."""
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return -1
    flags, single = head[4] >> 6, head[4] >> 5 & 1
    width = (1 if single else 0, 2, 4, 8)[flags]
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[head[4] & 3]
    field = head[start : start + width]
    return int.from_bytes(field, "little") + (256 if width == 2 else 0) if width else -1


def blocks(
    starts: Sequence[int], stops: Sequence[int], *, chunk_rows: int, limit_rows: int
) -> Iterator[tuple[int, int, int, int]]:
    """Join sorted spans that share or touch a chunk: (first span, last span + 1, start, stop)."""
    first = 0
    for i in range(1, len(starts) + 1):
        apart = (
            i == len(starts)
            or starts[i] // chunk_rows > (stops[i - 1] - 1) // chunk_rows + 1
            or stops[i] - starts[first] > limit_rows
        )
        if apart:
            yield first, i, starts[first], stops[i - 1]
            first = i
