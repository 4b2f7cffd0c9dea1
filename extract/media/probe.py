"""Checks of a media file before anything of it is decoded.

The file is hostile until proven otherwise. It must be a regular file of bounded size, in one of a
few containers that cannot refer to other files (`CONTAINERS`), read through the file protocol
only: playlists and scripts (HLS, DASH, concat) would make the library open whatever they name.
Animated GIF is in: people post it as micro video, and it refers to nothing.
"""

import hashlib
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import InputContainer

from store import Status

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,gif,mp3,wav,ogg,flac,aac"
MAX_FILE_BYTES = 4 << 30
MAX_STREAMS = 64
MAX_PIXELS = 36_000_000  # a frame of 8K has 33 million
MAX_SECONDS = 24 * 3600.0  # of the file a clip is a piece of
MAX_BOXES = 100_000  # of a fragmented file
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067

av.logging.set_level(av.logging.PANIC)  # damage is reported as a status, not on the terminal


class Failure(Exception):  # noqa: N818 (a clip that fails is data, not an error)
    """A clip that cannot be decoded: why, for the machine (`status`) and for people (`detail`)."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A regular file as it was when its digest was taken."""

    path: Path
    sha256: bytes
    size: int
    version: tuple[int, ...]  # changes when the file does
    cut_short: bool  # it is shorter than its own header says


def inside(path: Path, root: Path | None) -> None:
    """Refuse a link that leads out of `root`: manifests come with media that others packed.

    Raises:
        Failure: REFUSED.
    """
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise Failure(
            Status.REFUSED, "a link leads out of the manifest's folder; allow it: --follow-links"
        )


def examined(path: Path, known: File | None = None) -> File:
    """The file and its SHA-256; `known`, if it is that file and unchanged.

    Raises:
        Failure: MISSING, UNREADABLE, or REFUSED for what is not a regular file of bounded size.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO that nobody writes to would wait for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise Failure(Status.REFUSED, "not a regular file")
            if info.st_size > MAX_FILE_BYTES:
                raise Failure(Status.REFUSED, f"{info.st_size} bytes; at most {MAX_FILE_BYTES}")
            version = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
            if known is not None and (known.path, known.version) == (path, version):
                return known
            return File(
                path=path,
                sha256=hashlib.file_digest(file, "sha256").digest(),
                size=info.st_size,
                version=version,
                cut_short=_declared_bytes(file, info.st_size) > info.st_size,
            )
    except (FileNotFoundError, NotADirectoryError):
        raise Failure(Status.MISSING, "no such file") from None
    except OSError as error:
        raise Failure(Status.UNREADABLE, error.strerror or str(error)) from None


def opened(path: Path) -> InputContainer:
    """The file's container, open for reading; the caller closes it.

    Raises:
        Failure: REFUSED or UNREADABLE.
    """
    try:
        container = av.open(
            # An absolute path, so that no file name reads as a protocol ("concat:…").
            f"file:{path.absolute()}",
            options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
        )
    except av.error.ArgumentError:
        raise Failure(Status.REFUSED, "not a container that is allowed") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise Failure(Status.UNREADABLE, say(error)) from None
    count, seconds = len(container.streams), (container.duration or 0) / av.time_base
    for value, most, text in (
        (count, MAX_STREAMS, f"{count} streams"),
        (seconds, MAX_SECONDS, f"the header says {seconds:.0f} s"),
    ):
        if value > most:
            container.close()
            raise Failure(Status.REFUSED, f"{text}; at most {most:g}")
    return container


def best_streams(container: InputContainer) -> tuple[Any | None, Any | None]:
    """The video and the audio stream to decode, of those that can be.

    A default stream goes before others; then counts what it holds: pixels, or channels and rate;
    then the order in the file. A cover picture is no video.

    Raises:
        Failure: UNREADABLE, there is neither; REFUSED, frames are too large.
    """
    kind = av.stream.Disposition

    def rank(stream: Any) -> tuple[bool, int, int, int]:
        context, default = stream.codec_context, bool(stream.disposition & kind.default)
        if stream.type == "video":
            return default, context.width * context.height, 0, -stream.index
        return default, context.channels, context.sample_rate or 0, -stream.index

    decodable = [s for s in container.streams if s.type in ("video", "audio") and s.codec_context]
    shown = [s for s in decodable if s.type == "video" and not s.disposition & kind.attached_pic]
    video = max(shown, key=rank, default=None)
    audio = max((s for s in decodable if s.type == "audio"), key=rank, default=None)
    if video is None and audio is None:
        raise Failure(Status.UNREADABLE, "no video and no audio stream")
    if video is not None:
        context = video.codec_context
        if context.width * context.height > MAX_PIXELS:
            raise Failure(
                Status.REFUSED, f"{context.width}x{context.height} pixels; at most {MAX_PIXELS}"
            )
        context.thread_count = 1  # clips are decoded in parallel, not slices of one
        context.options = {"max_pixels": str(MAX_PIXELS)}  # where frames grow in mid-stream
    return video, audio


def say(error: BaseException) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


def _declared_bytes(file: BinaryIO, size: int) -> int:
    """The length of the file if its outermost elements were whole; 0 if it does not say."""
    file.seek(0)
    head = file.read(64)
    file.seek(0)
    if head[:4] in (b"RIFF", b"RIFX"):
        length = struct.unpack("<I" if head[:4] == b"RIFF" else ">I", head[4:8].ljust(4, b"\0"))[0]
        return 0 if length in (0, 0xFFFFFFFF) else length + 8
    if head[:4] == _EBML.to_bytes(4, "big"):
        return _matroska_bytes(head)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return _boxes_bytes(file, size)
    return 0


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


def _boxes_bytes(file: BinaryIO, size: int) -> int:
    """End of the last of an ISO file's boxes."""
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > size:
            break
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: to the end of the file
            break
        at += length
    return at
