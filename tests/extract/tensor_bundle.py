"""Writes TensorFlow V2 checkpoints byte by byte, apart from the reader, as test material."""

import struct
from pathlib import Path

import google_crc32c
import numpy as np

CODES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "complex64": 8,
    "int64": 9, "bool": 10, "uint16": 17, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
MAGIC = bytes.fromhex("57fb808b247547db")


def number(value: int) -> bytes:
    """A base-128 number, low groups first; negative ones in two's complement."""
    value %= 1 << 64
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low + (128 if value else 0))
        if not value:
            return bytes(out)


def field(tag: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return number(tag * 8 + 2) + number(len(value)) + value
    return number(tag * 8) + number(value)


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    rotated = (crc >> 15) + ((crc % 32768) << 17)
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def entry(dtype: int, shape, shard: int, offset: int, size: int, crc: bytes, extra=b"") -> bytes:
    dims = b"".join(field(2, field(1, n)) for n in shape)
    out = field(1, dtype) + field(2, dims)
    for tag, value in ((3, shard), (4, offset), (5, size)):
        out += field(tag, value) if value else b""
    return out + bytes([6 * 8 + 5]) + crc + extra


def header(shards: int, *, endianness: int = 0, consumer: int = 0) -> bytes:
    version = field(1, 1) + (field(2, consumer) if consumer else b"")
    return field(1, shards) + (field(2, endianness) if endianness else b"") + field(3, version)


def block(pairs, interval: int) -> bytes:
    """Entries that share prefixes with the one before, whole again at every restart point."""
    out, restarts, before = b"", [], b""
    for i, (key, value) in enumerate(pairs):
        same = 0
        if i % interval == 0:
            restarts.append(len(out))
        else:
            while same < min(len(key), len(before)) and key[same] == before[same]:
                same += 1
        rest = key[same:]
        out += number(same) + number(len(rest)) + number(len(value)) + rest + value
        before = key
    restarts = restarts or [0]
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(pairs, *, per_block: int = 1000, interval: int = 16, kind: int = 0) -> bytes:
    """A sorted string table; `kind` 1 claims snappy."""
    out = b""

    def put(content: bytes, kind: int = 0) -> bytes:
        nonlocal out
        handle = number(len(out)) + number(len(content))
        out += content + bytes([kind]) + masked_crc(content + bytes([kind]))
        return handle

    pairs = list(pairs)
    handles = []
    for start in range(0, len(pairs), per_block):
        chunk = pairs[start : start + per_block]
        handles.append((chunk[-1][0] + b"\0", put(block(chunk, interval), kind)))
    footer = put(block([], 1)) + put(block(handles, 1))
    return out + footer.ljust(40, b"\0") + MAGIC


def write(prefix: Path, tensors: dict, *, shards: int = 1, extra=(), **layout) -> None:
    """A checkpoint of numpy arrays, dealt to the shards in turn; `extra` are raw entries."""
    data = [bytearray() for _ in range(shards)]
    pairs = [(b"", header(shards))]
    for i, name in enumerate(sorted(tensors, key=str.encode)):
        values = np.asarray(tensors[name])
        raw, shard = values.tobytes(), i % shards
        location = (shard, len(data[shard]), len(raw), masked_crc(raw))
        pairs.append((name.encode(), entry(CODES[values.dtype.name], values.shape, *location)))
        data[shard] += raw
    pairs = sorted([*pairs, *extra])
    Path(f"{prefix}.index").write_bytes(table(pairs, **layout))
    for i, raw in enumerate(data):
        Path(f"{prefix}.data-{i:05d}-of-{shards:05d}").write_bytes(raw)
