"""What the outermost elements of a file say about its length."""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from extract.media.pids import Span, pid_spans

MAX_BOXES = 100_000  # of a fragmented file
MAX_CHUNKS = 1000
MAX_FRAGMENT = 1 << 16
OPEN_BYTES = 1 << 12  # so close to 2 or 4 GiB, a length means that it was not known
# Kinds of tags, length of the header, and length of the tag before.
FLV_HEADER = re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09\0\0\0\0")
MATROSKA_HEADER = re.compile(rb"\x1a\x45\xdf\xa3(?s:.){1,32}?(?:webm|matroska)")
_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_VOID, _TIMESTAMP, _CHECKSUM = b"\xec", b"\xe7", b"\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The length of a file as it gives it."""

    declared_bytes: int = 0  # 0: it does not say
    open_ended: bool = False  # it says that it is not known
    followed: int = 0  # where another file begins in it; 0: none does
    steady: bool = True  # its parts (fragments, clusters) say that time only rises
    spans: Mapping[int, Span] = field(default_factory=dict)  # of a transport stream's PIDs


def outlined(file: BinaryIO, size: int) -> Outline:
    """The outline of a file."""
    file.seek(0)
    head = file.read(64)
    if head[:4] in (b"RIFF", b"RIFX"):
        return _riff(file, size, "<" if head[:4] == b"RIFF" else ">", head[:4])
    if head[:4] == _EBML.to_bytes(4, "big"):
        return Outline(
            declared_bytes=_matroska_bytes(head),
            followed=_last(file, MATROSKA_HEADER),
            steady=_clusters_rise(file, size),
        )
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return _boxes(file, size)
    if head[:3] == b"FLV":
        return Outline(followed=_last(file, FLV_HEADER))
    return Outline(spans=pid_spans(file, size))


def _last(file: BinaryIO, header: re.Pattern[bytes]) -> int:
    """Where the last file begins that stands in this one behind its own header; 0: none does."""
    last, at, before = 0, 1, b""
    file.seek(at)
    while data := file.read(1 << 22):
        both = before + data
        for found in header.finditer(both):
            last = at - len(before) + found.start()
        at, before = at + len(data), both[-64:]
    return last


def _riff(file: BinaryIO, size: int, order: str, magic: bytes) -> Outline:
    """Of WAV and AVI: the chunk of chunks, and for sound the one of samples."""
    file.seek(0)
    _, length, kind = struct.unpack(f"{order}4sI4s", file.read(12).ljust(12, b"\0"))
    sound = kind == b"WAVE"
    if _is_open(length, size) or (sound and _is_open(_data_bytes(file, order), size)):
        return Outline(open_ended=sound)
    end = length + 8
    file.seek(end + end % 2)
    following = file.read(12)
    again = following[:4] == magic and following[8:12] == kind
    return Outline(declared_bytes=end, followed=(end + end % 2) * again)


def _is_open(length: int, size: int) -> bool:
    """Whether a length is what programs write that do not know it."""
    near = any(abs(length - full) <= OPEN_BYTES for full in (1 << 31, 1 << 32))
    return length == 0 or (near and length > size)


def _data_bytes(file: BinaryIO, order: str) -> int:
    """The length of a WAV's samples."""
    at = 12
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        kind, length = struct.unpack(f"{order}4sI", head)
        if kind == b"data":
            return int(length)
        at += 8 + length + length % 2
    return 1  # there are none, which is not the same as an unknown number


def _matroska_bytes(head: bytes) -> int:
    """End of the segment: the EBML header is one element, the segment the next."""
    at = 0
    for wanted in (_EBML, _SEGMENT):
        if int.from_bytes(head[at : at + 4], "big") != wanted or len(head) < at + 12:
            return 0
        first = head[at + 4]
        width = 9 - first.bit_length() if first else 9
        if width > 8:
            return 0
        length = int.from_bytes(head[at + 4 : at + 4 + width], "big") & ((1 << 7 * width) - 1)
        unknown = length == (1 << 7 * width) - 1  # a stream that was never finished
        at += 4 + width + (0 if unknown else length)
    return 0 if unknown else at


def _clusters_rise(file: BinaryIO, size: int) -> bool:
    """Whether every cluster of a Matroska file is later than the one before, if that is seen."""
    at, latest = 0, -1
    for _ in range(MAX_BOXES):
        if at >= size:
            return True
        file.seek(at)
        data = file.read(64)
        kind = int.from_bytes(data[:4], "big")
        length, inside = _element(data, 4)
        if kind == _SEGMENT:
            at += inside
            continue
        if kind == _CLUSTER:
            skip = 6 if data[inside : inside + 1] == _CHECKSUM else 0
            width, begin = _element(data, inside + skip + 1)
            if data[inside + skip : inside + skip + 1] != _TIMESTAMP or width is None:
                return False
            time = int.from_bytes(data[begin : begin + width], "big")
            if time <= latest:
                return False
            latest = time
        elif kind >> 28 != 1 and data[:1] == _VOID:
            length, inside = _element(data, 1)
        if length is None:  # of a recording that was never finished; anything may follow
            return False
        at += inside + length
    return False


def _element(data: bytes, at: int) -> tuple[int | None, int]:
    """The length of an element, None if it is not known, and where it begins."""
    first = data[at] if at < len(data) else 0
    width = 9 - first.bit_length()
    if width > 8:
        return None, at
    length = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (None if length == (1 << 7 * width) - 1 else length), at + width


def _boxes(file: BinaryIO, size: int) -> Outline:
    """Of an ISO file: the end of its last box, whether it holds two indices, and whether its
    fragments follow one another.
    """
    at, indices, followed, steady = 0, 0, 0, True
    latest: dict[int, int] = {}  # by track
    for _ in range(MAX_BOXES):
        if at + 8 > size:
            break
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if head[4:8] == b"moov":
            indices += 1
            followed = at if indices == 2 else followed
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: to the end of the file
            break
        if head[4:8] == b"moof":
            file.seek(at)
            for track, time in _fragment_times(file.read(min(length, MAX_FRAGMENT))):
                steady = steady and time > latest.get(track, -1)
                latest[track] = time
        at += length
    return Outline(declared_bytes=at, followed=followed, steady=steady)


def _fragment_times(data: bytes) -> Iterator[tuple[int, int]]:
    """The tracks of a fragment and the time at which it has each begin."""
    at, track = 8, 0
    while at + 24 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"traf":
            at += 8
            continue
        if kind == b"tfhd":
            track = int.from_bytes(data[at + 12 : at + 16], "big")
        elif kind == b"tfdt":
            yield track, int.from_bytes(data[at + 12 : at + (20 if data[at + 8] else 16)], "big")
        at += max(length, 8)
