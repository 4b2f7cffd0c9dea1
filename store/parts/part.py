"""Reading one committed part, after checking that it is what its record says.

Tables are small: their files are read whole, compared with the record and decoded here. Rows are
read by `store.parts.row_reader`. What format 1 says of arrays is known, so their `zarr.json` is for
others; `store verify` sees that it is as it was written.

Shapes: n = clips of the part, R = its rows, D = embedding size, K = rows asked for.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Float16, Int32, Int64, UInt8, UInt64

from store.errors import DamagedStore, StoreError
from store.parts import layout, table_codec
from store.parts.commit import CommitRecord, FeatureKeys
from store.parts.row_reader import CAN_READ, RowArray, RowReader
from store.parts.shards import Grid
from store.status import STORED
from store.storage.storage import directory

_LARGEST_TABLE = 1 << 30  # that a unit of ours comes near


class Part:
    """The arrays of one committed part; each is read on first use and checked.

    Raises:
        DamagedStore: from every member, naming feature, unit and file.
    """

    def __init__(self, keys: FeatureKeys, record: CommitRecord) -> None:
        self.record = record
        self.key = f"{keys.parts}/{record.part}"
        self._storage = keys.storage
        self._name = f"{record.feature_id}/{record.unit}"

    @property
    def path(self) -> Path:
        """The part's directory, if the store is one."""
        return directory(self._storage) / self.key

    @cached_property
    def clip_ids(self) -> list[str]:
        """Names of the clips, in the unit's order."""
        return self._read("clip_id").tolist()

    @cached_property
    def clip_keys(self) -> UInt64[np.ndarray, "n 2"]:
        """Digests of the names, as two halves each."""
        return self._read("clip_key")

    @cached_property
    def details(self) -> list[str]:
        """The decoder used, or the reason of a failure, for each clip."""
        return self._read("detail").tolist()

    @cached_property
    def media_sha256(self) -> UInt8[np.ndarray, "n 32"]:
        """The digest of each clip's media file."""
        return self._read("media_sha256")

    @cached_property
    def status(self) -> UInt8[np.ndarray, "n"]:
        """The status of each clip."""
        status = self._read("status")
        if not np.isin(status, STORED).all():
            raise self._damaged("status", "holds a code that does not exist")
        return status

    @cached_property
    def row_count(self) -> Int64[np.ndarray, "n"]:
        """The number of rows of each clip."""
        return self._read("row_count").astype(np.int64)

    @cached_property
    def row_start(self) -> Int64[np.ndarray, "n"]:
        """The first row of each clip."""
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
        """The time of each row from its clip's beginning."""
        return self._read("row_time_ms")

    @cached_property
    def values(self) -> RowArray:
        """The rows, for a `RowReader`."""
        record, storage = self.record, self._storage
        grid = Grid.of(
            layout.array_metadata("values", clips=record.clips, rows=record.rows, dim=record.dim)
        )
        assert grid is not None, "format 1 keeps rows uncompressed"
        sizes = {file.key: file.size for file in record.files}

        def blob(number: int) -> Any:
            key = f"values/c/{number}/0"
            opened = storage.blob(f"{self.key}/{key}", sizes[key])
            if opened.size != sizes[key]:
                raise self._damaged(key, f"has {opened.size} bytes instead of {sizes[key]}")
            return opened

        return RowArray(
            open=blob,
            grid=grid,
            name=f"{self._name}: values",
            remote=storage.local_path is None,
        )

    def rows(self, start: int, stop: int) -> Float16[np.ndarray, "K D"]:
        """Consecutive rows, compared with the checksums of their chunks."""
        if not CAN_READ and self._storage.local_path is not None:
            return self.rows_by_zarr(start, stop)
        return RowReader(max_open=4).rows(self.values, start, stop, verify=True)

    def rows_by_zarr(self, start: int, stop: int) -> Float16[np.ndarray, "K D"]:
        """Consecutive rows by zarr: slower, for systems without `pread` and to compare with."""
        try:
            return np.asarray(self._zarr_values[start:stop])
        except DamagedStore:
            raise
        except MemoryError:  # says nothing of the bytes
            raise
        except Exception as error:  # zarr and its codecs raise many types on damaged bytes
            raise self._damaged("values", f"cannot be read ({type(error).__name__})") from error

    @cached_property
    def _zarr_values(self) -> Any:
        import zarr

        self.check_layout("values")  # zarr believes what it says there
        array = zarr.open_array(str(self.path / "values"), mode="r", zarr_format=3)
        if "read_missing_chunks" in zarr.config.get("array"):  # zarr >= 3.2
            array = array.with_config({"read_missing_chunks": False})
        return array

    def check_layout(self, *names: str) -> None:
        """See that arrays (all, if none is named) are described as they were written."""
        record = self.record
        size = {"clips": record.clips, "rows": record.rows, "dim": record.dim}
        for name in names or layout.ARRAYS:
            if self._metadata(name) != layout.array_metadata(name, **size):
                raise self._damaged(
                    f"{name}/zarr.json", "does not describe the array that was written"
                )

    def verify(self, array: str = "") -> None:
        """Compare every file, or those of one array, with the checksums of the commit record."""
        for file in self.record.files:
            if array and not file.key.startswith(f"{array}/"):
                continue
            with self._reading(file.key):
                digests = self._storage.digests(f"{self.key}/{file.key}", deep=False)
            if digests[:2] != (file.size, file.crc32c):
                raise self._damaged(file.key, "is not the file that was written")

    def attributes(self) -> dict[str, Any]:
        """Provenance: library versions, device, time of writing."""
        return self._metadata("").get("attributes", {})

    def _read(self, name: str) -> np.ndarray:
        """A table, decoded from its one chunk."""
        record = self.record
        size = {"clips": record.clips, "rows": record.rows}
        shape = table_codec.shape(name, **size)
        key = "/".join((name, "c", *("0" for _ in shape)))
        if not shape[0]:
            return np.empty(shape, dtype=table_codec.dtype(name))
        (file,) = (file for file in record.files if file.key == key)
        if file.size > table_codec.limit_bytes(name, **size):
            raise self._damaged(key, f"cannot have {file.size} bytes")
        with self._reading(key):
            data = self._storage.get(f"{self.key}/{key}", limit_bytes=file.size + 1)
        if len(data) != file.size:
            raise self._damaged(key, f"has {len(data)} bytes instead of {file.size}")
        if google_crc32c.value(data) != int(file.crc32c, 16):
            raise self._damaged(key, "is not the file that was written")
        with self._reading(key):
            try:
                return table_codec.decode(name, data, **size)
            except MemoryError:
                if table_codec.limit_bytes(name, **size) < _LARGEST_TABLE:
                    raise
                raise ValueError("it announces more than memory holds") from None

    def _metadata(self, name: str) -> dict[str, Any]:
        key = f"{name}/zarr.json" if name else "zarr.json"
        with self._reading(key):
            data = self._storage.get(f"{self.key}/{key}", limit_bytes=layout.MAX_METADATA_BYTES)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._damaged(key, "is not JSON") from error
        if not isinstance(document, dict):
            raise self._damaged(key, "is not a JSON object")
        return document

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            if not isinstance(error, DamagedStore):
                raise  # the bucket does not answer: that says nothing of the part
            raise self._damaged(key, f"cannot be read ({error})") from error
        except (ValueError, RuntimeError) as error:  # of codecs, on damaged bytes
            raise self._damaged(key, f"cannot be decoded ({error})") from error

    def _damaged(self, key: str, fault: str) -> DamagedStore:
        return DamagedStore(f"{self._name}: {key} {fault}; run: store verify DIR")
