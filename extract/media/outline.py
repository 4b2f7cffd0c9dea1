"""What the outermost elements of a file say about its length."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

MAX_BOXES = 100_000  # of a fragmented file
MAX_CHUNKS = 1000
OPEN_BYTES = 1 << 12  # so close to 2 or 4 GiB, a length means that it was not known
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The length of a file as it gives it."""

    declared_bytes: int = 0  # 0: it does not say
    open_ended: bool = False  # it says that it is not known
    followed: bool = False  # a second file begins where it ends


def outlined(file: BinaryIO, size: int) -> Outline:
    """The outline of a file."""
    file.seek(0)
    head = file.read(64)
    if head[:4] in (b"RIFF", b"RIFX"):
        return _riff(file, size, "<" if head[:4] == b"RIFF" else ">", head[:4])
    if head[:4] == _EBML.to_bytes(4, "big"):
        return Outline(declared_bytes=_matroska_bytes(head))
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return _boxes(file, size)
    return Outline()


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
    return Outline(declared_bytes=end, followed=again)


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


def _boxes(file: BinaryIO, size: int) -> Outline:
    """Of an ISO file: the end of its last box, and whether it holds two indices."""
    at, indices = 0, 0
    for _ in range(MAX_BOXES):
        if at + 8 > size:
            break
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        indices += head[4:8] == b"moov"
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: to the end of the file
            break
        at += length
    return Outline(declared_bytes=at, followed=indices > 1)
