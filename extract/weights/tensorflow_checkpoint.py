"""Reads TensorFlow V2 checkpoints ("tensor bundles") without TensorFlow.

A checkpoint `PREFIX` is an index, `PREFIX.index`, and data shards, `PREFIX.data-00000-of-00001`.
The index is a sorted string table: the value of the empty key says how many shards there are;
every other value says where one tensor lies, its type, shape and checksum.

The files come from a stranger. Every size, offset and shape is held against the files before
anything is allocated, and every block and tensor against its crc32c.

Source: tensorflow/core/protobuf/tensor_bundle.proto, tensor_shape.proto, types.proto.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from jaxtyping import Shaped, UInt8

from extract.weights.tensorflow_table import DamagedTable, entries, masked, varint
from store.errors import MissingFile, WeightsError

MAX_INDEX_BYTES = 16 << 20  # the largest published network has some 3,000 variables in 200 kB
MAX_RANK = 16
MAX_FIELDS = 10_000  # of one message; a variable has seven, and one more for each of its slices
MAX_SHARDS = 1000

_SLICE = b"\0"  # how the keys of a partitioned variable's slices begin
_BUNDLE_VERSION = 1
_TYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64",
    9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16",
    22: "uint32", 23: "uint64",
}  # fmt: skip
_STORED_AS = {"bfloat16": "uint16", "bool": "uint8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One tensor of a checkpoint and where it lies."""

    dtype: str  # as numpy names it, or "bfloat16"; "type N" is one that cannot be read
    shape: tuple[int, ...]
    shard: int
    offset_bytes: int
    size_bytes: int
    masked_crc32c: int
    partitioned: bool  # stored as slices under keys of their own


class Checkpoint(Mapping[str, Variable]):
    """The variables of a checkpoint by name; `read` gives their values.

    Args:
        path: the prefix (`model.ckpt-250228`), any file of the checkpoint, or a directory that
            holds one checkpoint.

    Raises:
        MissingFile: the index or a shard is not there.
        WeightsError: another format, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.prefix = _prefix(Path(path))
        self._index = Path(f"{self.prefix}.index")
        try:
            table = dict(entries(_index_bytes(self._index)))
            shards = _shard_count(table.pop(b"", b""))
            self._variables = {
                key.decode(): _variable(value)
                for key, value in table.items()
                if not key.startswith(_SLICE)
            }
            data = [Path(f"{self.prefix}.data-{i:05d}-of-{shards:05d}") for i in range(shards)]
            self._shards = [_map(path) for path in data]
        except (DamagedTable, UnicodeDecodeError) as error:
            raise WeightsError(
                f"{self._index} is no TensorFlow checkpoint or damaged: {error}; fetch it again"
            ) from None
        except OSError as error:
            raise WeightsError(f"cannot read {error.filename}: {error.strerror}") from None
        self.files = (self._index, *data)
        for name, variable in self._variables.items():
            self._check_place(name, variable)

    def __getitem__(self, name: str) -> Variable:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        """A copy of one variable's values; bfloat16 is widened to float32, which is exact.

        Raises:
            KeyError: no such variable.
            WeightsError: its bytes are damaged, or of a kind that is not read.
        """
        variable = self._variables[name]
        if variable.partitioned or variable.dtype.startswith("type "):
            kind = "partitioned into slices" if variable.partitioned else f"of {variable.dtype}"
            raise WeightsError(
                f"{self._index}: {name!r} is {kind}, which is not read; "
                f"save the checkpoint again with whole numeric variables"
            )
        start = variable.offset_bytes
        raw = np.array(self._shards[variable.shard][start : start + variable.size_bytes])
        raw.flags.writeable = False  # google_crc32c takes nothing that could change
        if masked(google_crc32c.value(raw)) != variable.masked_crc32c:
            raise WeightsError(
                f"{self.files[1 + variable.shard]}: {name!r} does not match its checksum; "
                f"fetch the file again"
            )
        raw.flags.writeable = True
        values = raw.view(_stored(variable.dtype)).reshape(variable.shape)
        if variable.dtype == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(variable.dtype, copy=False)

    def _check_place(self, name: str, variable: Variable) -> None:
        if variable.partitioned:
            return  # the slices have entries of their own
        shards = self._shards
        if not 0 <= variable.shard < len(shards):
            raise WeightsError(
                f"{self._index}: {name!r} is in shard {variable.shard} of {len(shards)}; "
                f"fetch it again"
            )
        shard_bytes, end = len(shards[variable.shard]), variable.offset_bytes + variable.size_bytes
        if variable.offset_bytes < 0 or variable.size_bytes < 0 or end > shard_bytes:
            raise WeightsError(
                f"{self.files[1 + variable.shard]} has {shard_bytes} bytes, but {name!r} lies at "
                f"{variable.offset_bytes}..{end}; fetch the file again"
            )
        if variable.dtype.startswith("type "):
            return
        needed = math.prod(variable.shape) * _stored(variable.dtype).itemsize
        if needed != variable.size_bytes:
            raise WeightsError(
                f"{self._index}: {name!r} of shape {list(variable.shape)} and type "
                f"{variable.dtype} needs {needed} bytes but has {variable.size_bytes}; "
                f"fetch it again"
            )


def _stored(dtype: str) -> np.dtype:
    return np.dtype(_STORED_AS.get(dtype, dtype)).newbyteorder("<")


def _prefix(path: Path) -> Path:
    if path.is_dir():
        indices = sorted(path.glob("*.index"))
        if len(indices) != 1:
            names = ", ".join(file.name for file in indices[:3]) or "none"
            raise MissingFile(
                f"{path} holds {len(indices)} checkpoints ({names}); give the prefix of one"
            )
        path = indices[0]
    return path.with_name(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name))


def _index_bytes(path: Path) -> bytes:
    prefix = path.with_suffix("")
    if not path.is_file():
        if prefix.is_file():
            raise WeightsError(
                f"{prefix} is one file: TensorFlow's old V1 format, or none; only V2 checkpoints "
                f"(PREFIX.index and PREFIX.data-…) are read"
            )
        raise MissingFile(f"{path} is not there; give the prefix of a checkpoint or its directory")
    with path.open("rb") as file:
        data = file.read(MAX_INDEX_BYTES + 1)
    if len(data) > MAX_INDEX_BYTES:
        raise DamagedTable(f"it has more than {MAX_INDEX_BYTES} bytes")
    return data


def _map(path: Path) -> UInt8[np.ndarray, "bytes"]:
    """The bytes of a shard, read as they are touched."""
    if not path.is_file():
        raise MissingFile(f"{path} is not there; fetch all shards of the checkpoint")
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)  # an empty file cannot be mapped
    return np.memmap(path, np.uint8, "r")


# ── the protocol buffers ─────────────────────────────────────────────────────────────────────────


def _message(buffer: bytes) -> dict[int, list[int | bytes]]:
    """Every field's values by number: integers, or bytes where it has a length."""
    fields: dict[int, list[int | bytes]] = {}
    at = count = 0
    while at < len(buffer):
        count += 1
        if count > MAX_FIELDS:
            raise DamagedTable(f"a message of more than {MAX_FIELDS} fields")
        tag, at = varint(buffer, at)
        value: int | bytes
        match tag & 7:
            case 0:
                value, at = varint(buffer, at)
            case 1 | 2 | 5 as wire:
                size, at = varint(buffer, at) if wire == 2 else (8 if wire == 1 else 4, at)
                if at + size > len(buffer):
                    raise DamagedTable("a field is cut off")
                raw = buffer[at : at + size]
                value = raw if wire == 2 else int.from_bytes(raw, "little")
                at += size
            case wire:
                raise DamagedTable(f"a field of unknown kind {wire}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(fields: dict[int, list[int | bytes]], field: int) -> int:
    """A signed integer; 0 where the field is absent."""
    value = fields.get(field, [0])[-1]
    if isinstance(value, bytes):
        raise DamagedTable(f"field {field} is not a number")
    return value - (1 << 64) if value >> 63 else value


def _messages(
    fields: dict[int, list[int | bytes]], field: int
) -> list[dict[int, list[int | bytes]]]:
    raw = fields.get(field, [])
    return [_message(item) if isinstance(item, bytes) else _not_a_message(field) for item in raw]


def _not_a_message(field: int) -> dict[int, list[int | bytes]]:
    raise DamagedTable(f"field {field} is not a message")


def _shard_count(header: bytes) -> int:
    """The shards of a BundleHeaderProto: 1 num_shards, 2 endianness, 3 version (2 min_consumer)."""
    fields = _message(header)
    shards = _number(fields, 1)
    if not 1 <= shards <= MAX_SHARDS:
        raise DamagedTable(f"it names {shards} shards (1..{MAX_SHARDS} are read)")
    if _number(fields, 2) != 0:
        raise DamagedTable("its numbers are big-endian, which is not read")
    if any(_number(version, 2) > _BUNDLE_VERSION for version in _messages(fields, 3)):
        raise DamagedTable(f"it is of a later version than {_BUNDLE_VERSION}")
    return shards


def _variable(value: bytes) -> Variable:
    """A BundleEntryProto: 1 dtype, 2 shape, 3 shard, 4 offset, 5 size, 6 crc32c, 7 slices."""
    fields = _message(value)
    dims = [_number(d, 1) for s in _messages(fields, 2) for d in _messages(s, 2)]
    if any(_number(s, 3) for s in _messages(fields, 2)) or len(dims) > MAX_RANK:
        raise DamagedTable("a shape of unknown or too high a rank")
    if min(dims, default=0) < 0 or math.prod(max(d, 1) for d in dims) >> 56:
        raise DamagedTable(f"a shape of {dims}")
    dtype = _number(fields, 1)
    return Variable(
        dtype=_TYPES.get(dtype, f"type {dtype}"),
        shape=tuple(dims),
        shard=_number(fields, 3),
        offset_bytes=_number(fields, 4),
        size_bytes=_number(fields, 5),
        masked_crc32c=_number(fields, 6),
        partitioned=7 in fields,
    )
