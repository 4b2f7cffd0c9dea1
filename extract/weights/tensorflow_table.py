"""Reads sorted string tables, the file format of LevelDB and of TensorFlow's checkpoint indices.

A table is a sequence of blocks of key-value entries whose keys share prefixes, a block of
properties, a block that lists the data blocks, and a footer. Each block ends with its checksum.

Source: LevelDB, doc/table_format.md and doc/log_format.md (the masked crc32c).
"""

import struct
from collections.abc import Iterator

import google_crc32c

MAX_ENTRIES = 100_000
MAX_KEY_BYTES = 1024

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # of a block: how it is compressed, and its checksum
_SNAPPY = 1


class DamagedTable(Exception):  # noqa: N818 (says what is wrong; the reader adds the file's name)
    """The bytes are no sound table; the message says why."""


def entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every entry, in order; keys rise strictly, which also bounds what a hostile file can cost."""
    if len(data) < _FOOTER_BYTES:
        raise DamagedTable(f"{len(data)} bytes are too few for a footer")
    footer = data[-_FOOTER_BYTES:]
    if struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise DamagedTable("the footer lacks the magic number")
    body = data[:-_FOOTER_BYTES]
    meta, at = _handle(footer, 0)
    index, at = _handle(footer, at)
    if any(footer[at:-8]):
        raise DamagedTable("the footer's padding is not zero")
    _block(body, meta)
    last, end, count = None, 0, 0
    for _, value in _block_entries(_block(body, index)):
        handle, used = _handle(value, 0)
        if used != len(value) or handle[0] < end:
            raise DamagedTable("the blocks are out of order")
        end = sum(handle)
        for key, entry in _block_entries(_block(body, handle)):
            if last is not None and key <= last:
                raise DamagedTable("the keys are out of order")
            last, count = key, count + 1
            if count > MAX_ENTRIES:
                raise DamagedTable(f"it has more than {MAX_ENTRIES} entries")
            yield key, entry


def _handle(buffer: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where what follows begins."""
    offset, at = varint(buffer, at)
    size, at = varint(buffer, at)
    return (offset, size), at


def _block(body: bytes, handle: tuple[int, int]) -> bytes:
    """The entries of a block, checked, without its restart points (a scan needs none)."""
    offset, size = handle
    if size < 4 or offset + size + _TRAILER_BYTES > len(body):
        raise DamagedTable(f"a block lies at {offset}..{offset + size} of {len(body)} bytes")
    end = offset + size
    kind, crc = struct.unpack_from("<BI", body, end)
    if masked(google_crc32c.value(body[offset : end + 1])) != crc:
        raise DamagedTable(f"the block at byte {offset} does not match its checksum")
    if kind:
        name = "snappy" if kind == _SNAPPY else f"type {kind}"
        raise DamagedTable(f"the block at byte {offset} is compressed ({name}), which is not read")
    restarts = struct.unpack_from("<I", body, end - 4)[0]
    if 4 * (restarts + 1) > size:
        raise DamagedTable(f"the block at byte {offset} has {restarts} restart points")
    return body[offset : end - 4 * (restarts + 1)]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    key, at = b"", 0
    while at < len(block):
        shared, at = varint(block, at)
        fresh, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or shared + fresh > MAX_KEY_BYTES or at + fresh + size > len(block):
            raise DamagedTable("an entry reaches beyond its block")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + size]
        at += size


def masked(crc: int) -> int:
    """A checksum as stored: rotated and shifted, so that it can be part of checksummed data."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(buffer: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where the next byte is."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(buffer):
            raise DamagedTable("a number is cut off")
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise DamagedTable("a number has more than 64 bits")
