"""Format 1: the exact Zarr v3 metadata of a part, and which files it consists of.

We write the metadata ourselves and let zarr encode the chunks: so the bytes do not depend on the
version of zarr, and reading may insist on equality, which leaves hostile metadata nothing to say.

`values` has NaN as fill value although no stored value is ever NaN: every chunk is therefore
written, even one of zeros, and a chunk that was lost never reads as zeros.

Shapes: n = clips, R = rows, D = embedding size.
"""

import json
from collections.abc import Mapping
from typing import Any

from store.spec import FeatureSpec, canonical_json
from store.status import cf_attributes
from store.storage.posix import crc32c_hex

FORMAT = 1
CHUNK_BYTES = 1 << 20
CHUNKS_PER_SHARD = 128
MAX_METADATA_BYTES = 1 << 20
_CRC_BYTES = 4
_INDEX_BYTES = 16 * CHUNKS_PER_SHARD + _CRC_BYTES

_CRC32C = {"name": "crc32c"}
_ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_ONE_BYTE = {"name": "bytes"}
_TEXT = {"name": "vlen-utf8"}

# name -> dtype, dimensions, fill value, first codec, attributes
_TABLES: dict[str, tuple[str, tuple[str, ...], Any, Any, dict[str, Any]]] = {
    "row_time_ms": ("int32", ("row",), 0, _BYTES, {"long_name": "time in the clip", "units": "ms"}),
    "row_start": ("uint64", ("clip",), 0, _BYTES, {"long_name": "first row of the clip"}),
    "row_count": (
        "uint16",
        ("clip",),
        0,
        _BYTES,
        {"long_name": "rows of the clip", "sample_dimension": "row"},
    ),
    "status": ("uint8", ("clip",), 0, _ONE_BYTE, cf_attributes()),
    "clip_key": (
        "uint64",
        ("clip", "half"),
        0,
        _BYTES,
        {"long_name": "first 128 bits of sha256 of the clip id, big-endian halves"},
    ),
    "clip_id": ("string", ("clip",), "", _TEXT, {}),
    "media_sha256": ("uint8", ("clip", "byte"), 0, _ONE_BYTE, {"long_name": "zeros where unknown"}),
    "detail": ("string", ("clip",), "", _TEXT, {}),
}
ARRAYS = ("values", *_TABLES)


def dimensions(table: str) -> tuple[str, ...]:
    """Names of the axes of a table."""
    return _TABLES[table][1]


def dtype(table: str) -> str:
    """The type of a table's items."""
    return _TABLES[table][0]


def chunk_rows(dim: int) -> int:
    """Rows of an inner chunk: the largest power of two within 1 MiB of float16."""
    return 1 << max(0, (CHUNK_BYTES // (2 * dim)).bit_length() - 1)


def shard_rows(dim: int) -> int:
    """Rows of a file: as many chunks as a shard has."""
    return CHUNKS_PER_SHARD * chunk_rows(dim)


def group_json(attributes: Mapping[str, Any]) -> bytes:
    """The `zarr.json` of a group."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    return json.dumps(document, indent=1, allow_nan=False).encode()


def feature_attributes(spec: FeatureSpec) -> dict[str, Any]:
    """The attributes of a feature's group; the checksum covers the notes, which the id does not."""
    body = {"format": FORMAT, "feature_id": spec.feature_id, **spec.digested, "notes": spec.notes}
    return {**body, "crc32c": crc32c_hex(canonical_json(body))}


def array_metadata(name: str, *, clips: int, rows: int, dim: int) -> dict[str, Any]:
    """The whole `zarr.json` of one array of a part."""
    if name == "values":
        shard, chunk = [shard_rows(dim), dim], [chunk_rows(dim), dim]
        codec = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": chunk,
                "codecs": [_BYTES, _CRC32C],
                "index_codecs": [_BYTES, _CRC32C],
                "index_location": "end",
            },
        }
        return _metadata([rows, dim], "float16", shard, "NaN", [codec], ("row", "feature"), {})
    dtype, dimensions, fill, first, attributes = _TABLES[name]
    shape = [{"row": rows, "clip": clips, "half": 2, "byte": 32}[d] for d in dimensions]
    chunk = [max(1, side) for side in shape]
    return _metadata(shape, dtype, chunk, fill, [first, _ZSTD, _CRC32C], dimensions, attributes)


def part_files(*, clips: int, rows: int, dim: int) -> dict[str, int | None]:
    """Every file of a part and its exact size, or None where compression decides it."""
    files: dict[str, int | None] = {"zarr.json": None}
    for name in ARRAYS:
        files[f"{name}/zarr.json"] = None
        if name != "values" and (clips, rows)[dimensions(name)[0] == "row"]:
            files["/".join((name, "c", *("0" for _ in dimensions(name))))] = None
    step, chunk = shard_rows(dim), chunk_rows(dim)
    for i, start in enumerate(range(0, rows, step)):
        chunks = -(-min(step, rows - start) // chunk)
        files[f"values/c/{i}/0"] = chunks * (chunk * dim * 2 + _CRC_BYTES) + _INDEX_BYTES
    return files


def _metadata(
    shape: list[int],
    dtype: str,
    chunk: list[int],
    fill: Any,
    codecs: list[Any],
    dimensions: tuple[str, ...],
    attributes: dict[str, Any],
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "dimension_names": list(dimensions),
        "attributes": attributes,
    }
