"""Locates the rows of an uncompressed Zarr v3 array, by its metadata and shard indexes.

A shard is a file of chunks with an index of 16 bytes per chunk; a file without an index is one
chunk. The bytes of a chunk are its rows, complete even at the end of the array, and maybe a
crc32c. Compression, transposition and chunks that split a row are for zarr: `Grid.of` then gives
None.

Shapes: chunks = chunks of a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Int64

CRC_BYTES = 4
_ENTRY_BYTES = 16
_ABSENT = (1 << 64) - 1
_MAX_LENGTH = 1 << 48
_DTYPES = {f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (16, 32, 64)}
_DTYPES |= {"int8", "uint8"}
_KEYS = {
    "zarr_format",
    "node_type",
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
    "dimension_names",
    "attributes",
    "storage_transformers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The order in which the rows of an array lie in its files."""

    rows: int
    dim: int
    dtype: np.dtype
    fill_value: Any
    chunk_rows: int
    file_chunks: int
    has_crc: bool
    has_index: bool
    index_has_crc: bool
    index_first: bool

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Grid | None":
        """The grid that a `zarr.json` describes; None if only zarr can read such an array."""
        try:
            return cls._of(metadata) if _is_plain(metadata) else None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError):
            return None

    @classmethod
    def _of(cls, metadata: Mapping[str, Any]) -> "Grid | None":
        rows, dim = metadata["shape"]
        file_rows, file_dim = chunk_rows, chunk_dim = _chunk_shape(metadata["chunk_grid"])
        codecs = _codecs(metadata["codecs"])
        shard: Mapping[str, Any] | None = None
        if [name for name, _ in codecs] == ["sharding_indexed"]:
            shard = codecs[0][1]
            chunk_rows, chunk_dim = shard["chunk_shape"]
            codecs = _codecs(shard["codecs"])
        location = "end" if shard is None else shard.get("index_location", "end")
        lengths = (dim, file_rows, chunk_rows)
        if (
            not all(type(length) is int and 0 < length < _MAX_LENGTH for length in lengths)
            or not (type(rows) is int and 0 <= rows < _MAX_LENGTH)
            or not dim == file_dim == chunk_dim
            or file_rows % chunk_rows
            or location not in ("start", "end")
        ):
            return None
        dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        return cls(
            rows=rows,
            dim=dim,
            dtype=dtype,
            fill_value=dtype.type(metadata["fill_value"]),
            chunk_rows=chunk_rows,
            file_chunks=file_rows // chunk_rows,
            has_crc=_has_crc(codecs, dtype),
            has_index=shard is not None,
            index_has_crc=shard is not None
            and _has_crc(_codecs(shard["index_codecs"]), np.dtype("<u8")),
            index_first=location == "start",
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dim * self.dtype.itemsize

    @property
    def data_bytes(self) -> int:
        """Bytes of a chunk, without its checksum."""
        return self.chunk_rows * self.row_bytes

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk, with its checksum if it has one."""
        return self.data_bytes + CRC_BYTES * self.has_crc

    @property
    def index_bytes(self) -> int:
        """Bytes of the index that says where the chunks of a file are."""
        if not self.has_index:
            return 0
        return _ENTRY_BYTES * self.file_chunks + CRC_BYTES * self.index_has_crc

    def chunk_offsets(self, index: bytes, *, file_bytes: int) -> Int64[np.ndarray, "chunks"]:
        """The offset of each chunk of a file, -1 where it was never written.

        Raises:
            ValueError: says what in the index cannot be true of a file of that size.

        Source: Zarr v3 codec `sharding_indexed`, binary shard format.
        """
        if not self.has_index:
            if file_bytes != self.chunk_bytes:
                raise ValueError(f"has {file_bytes} bytes instead of {self.chunk_bytes}")
            return np.zeros(1, dtype=np.int64)
        if len(index) != self.index_bytes:
            raise ValueError("ends within its index")
        if self.index_has_crc:
            entries_crc = google_crc32c.value(index[:-CRC_BYTES])
            if entries_crc != int.from_bytes(index[-CRC_BYTES:], "little"):
                raise ValueError("does not match the checksum of its index")
        entries = np.frombuffer(index, "<u8", 2 * self.file_chunks).reshape(-1, 2)
        present = (entries != _ABSENT).any(axis=1)
        offsets, sizes = entries[present].T
        ordered = np.sort(offsets)
        low = self.index_bytes if self.index_first else 0
        high = low + file_bytes - self.index_bytes - self.chunk_bytes
        if (sizes != self.chunk_bytes).any():
            raise ValueError(f"has a chunk that is not of {self.chunk_bytes} bytes")
        if offsets.size and not low <= int(ordered[0]) <= int(ordered[-1]) <= high:
            raise ValueError("has a chunk outside the file")
        if (np.diff(ordered) < self.chunk_bytes).any():
            raise ValueError("has chunks that overlap")
        by_chunk = np.full(self.file_chunks, -1, dtype=np.int64)
        by_chunk[present] = offsets.astype(np.int64)
        return by_chunk


def _is_plain(metadata: Mapping[str, Any]) -> bool:
    """Whether nothing but shapes, type and codecs has a say in where bytes lie."""
    keys = metadata["chunk_key_encoding"]
    return (
        metadata["zarr_format"] == 3
        and metadata["node_type"] == "array"
        and set(metadata) <= _KEYS
        and not metadata.get("storage_transformers")
        and keys["name"] == "default"
        and keys.get("configuration", {}).get("separator", "/") == "/"
        and metadata["data_type"] in _DTYPES
    )


def _chunk_shape(grid: Mapping[str, Any]) -> Sequence[Any]:
    if grid["name"] != "regular":
        raise ValueError("another kind of grid")
    return grid["configuration"]["chunk_shape"]


def _codecs(listed: Sequence[Any]) -> list[tuple[str, Mapping[str, Any]]]:
    named = ({"name": codec} if isinstance(codec, str) else codec for codec in listed)
    return [(codec["name"], codec.get("configuration") or {}) for codec in named]


def _has_crc(codecs: Sequence[tuple[str, Mapping[str, Any]]], dtype: np.dtype) -> bool:
    """Whether such little-endian bytes end with a crc32c; ValueError if they are more than that."""
    names = [name for name, _ in codecs]
    little = dtype.itemsize == 1 or codecs[0][1].get("endian") == "little"
    if names not in (["bytes"], ["bytes", "crc32c"]) or not little:
        raise ValueError("other codecs")
    return len(names) == 2
