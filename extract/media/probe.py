"""Checks of a media file before anything of it is decoded.

The file is hostile until proven otherwise. It must be a regular file of bounded size, in one of a
few containers that cannot refer to other files (`CONTAINERS`), read through the file protocol
only: playlists and scripts (HLS, DASH, concat) would make the library open whatever they name.
Animated GIF is in: people post it as micro video, and it refers to nothing.
"""

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from extract.media.outline import outlined
from extract.media.pids import Span
from store import Status

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,gif,mp3,wav,ogg,flac,aac"
MAX_FILE_BYTES = 4 << 30
MAX_STREAMS = 64
MAX_PIXELS = 36_000_000  # a frame of 8K has 33 million
MAX_SECONDS = 24 * 3600.0  # of the file a clip is a piece of
# Containers whose header says how long they are; elsewhere it is a guess from the rate of bits.
STATING = ("mov", "matroska", "avi", "wav", "ogg", "flac", "flv", "gif")
_KIND = av.stream.Disposition
# PyAV 19 reads texts that are not UTF-8 without being asked.
_TEXTS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)

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
    open_ended: bool = False  # its header leaves the length open
    followed: int = 0  # where another file begins in it; 0: none does
    steady: bool = True  # its parts say that time only rises, so it may be sought in
    spans: Mapping[int, Span] = field(default_factory=dict)  # of a transport stream's PIDs

    @property
    def damage(self) -> str:
        """What the outermost elements say is missing or is not read."""
        if self.cut_short:
            return "the file ends before its header says"
        return "another file follows in this one and is not read" if self.followed else ""


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
            digest = hashlib.file_digest(file, "sha256").digest()
            outline = outlined(file, info.st_size)
            return File(
                path=path,
                sha256=digest,
                size=info.st_size,
                version=version,
                cut_short=outline.declared_bytes > info.st_size,
                open_ended=outline.open_ended,
                followed=outline.followed,
                steady=outline.steady,
                spans=outline.spans,
            )
    except (FileNotFoundError, NotADirectoryError):
        raise Failure(Status.MISSING, "no such file") from None
    except OSError as error:
        raise Failure(Status.UNREADABLE, error.strerror or str(error)) from None


def opened(path: Path, begins_late: int = 0) -> InputContainer:
    """The file's container, open for reading; the caller closes it. Streams are looked for up to
    the byte `begins_late`.

    Raises:
        Failure: REFUSED or UNREADABLE.
    """
    deep = {"scan_all_pmts": "1", "probesize": f"{begins_late + (1 << 20)}"}
    deep["analyzeduration"] = f"{round(MAX_SECONDS * av.time_base)}"
    try:
        container = av.open(
            # An absolute path, so that no file name reads as a protocol ("concat:…").
            f"file:{path.absolute()}",
            options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
            | (deep if begins_late else {}),
            **_TEXTS,
        )
    except av.error.ArgumentError:
        raise Failure(Status.REFUSED, "not a container that is allowed") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise Failure(Status.UNREADABLE, say(error)) from None
    count, seconds = len(container.streams), stated_seconds(container)
    for value, most, text in (
        (count, MAX_STREAMS, f"{count} streams"),
        (seconds, MAX_SECONDS, f"the header says {seconds:.0f} s"),
    ):
        if value > most:
            container.close()
            raise Failure(Status.REFUSED, f"{text}; at most {most:g}")
    return container


def stated_seconds(container: InputContainer) -> float:
    """The length that the file states; 0 if it states none."""
    stating = container.format.name.startswith(STATING)
    return (container.duration or 0) / av.time_base if stating else 0.0


def rank(stream: Any) -> tuple[bool, int, int, int]:
    """How good a stream is, the best one being the one to decode."""
    context, default = stream.codec_context, bool(stream.disposition & _KIND.default)
    if context is None:
        return False, 0, 0, -stream.index
    if stream.type == "video":
        return default, context.width * context.height, 0, -stream.index
    return default, context.channels, context.sample_rate or 0, -stream.index


def best_streams(container: InputContainer) -> tuple[Any | None, Any | None]:
    """The video and the audio stream to decode, of those that can be.

    A default stream goes before others; then counts what it holds: pixels, or channels and rate;
    then the order in the file. A cover picture is no video.

    Raises:
        Failure: UNREADABLE, there is neither, known or unknown; REFUSED, frames are too large.
    """
    decodable = [s for s in container.streams if s.type in ("video", "audio") and s.codec_context]
    shown = [s for s in decodable if s.type == "video" and not s.disposition & _KIND.attached_pic]
    video = max(shown, key=rank, default=None)
    audio = max((s for s in decodable if s.type == "audio"), key=rank, default=None)
    if video is None and audio is None and not unfit(container, video, audio):
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


def unfit(container: InputContainer, video: Any, audio: Any) -> dict[str, Failure]:
    """What is wrong with the video or the sound, if there is one but nothing here decodes it."""
    chosen, found = {"video": video, "audio": audio}, dict[str, Failure]()
    if video is not None and in_tiles(container):
        tiles = "a picture in tiles (a grid) is not put together here"
        found["video"] = Failure(Status.REFUSED, tiles)
    for stream in container.streams:
        cover = stream.disposition & av.stream.Disposition.attached_pic
        known = stream.codec_context is not None or chosen.get(stream.type) is not None
        if stream.type in chosen and not known and not cover and stream.type not in found:
            name = _codec_name(container, stream)
            reason = f"no decoder here for the codec of the {stream.type}: {name}"
            found[stream.type] = Failure(Status.DECODE_ERROR, reason)
    return found


def _codec_name(container: InputContainer, stream: Any) -> str:
    """What the container calls a codec that nothing here decodes."""
    line = rf"^ +Stream #0:{stream.index}(?!\d).*?: (?:Video|Audio): (\w+)(.*)$"
    match = re.search(line, description(container), re.MULTILINE)
    if match is None:
        return "unknown"
    if match[1] != "none":
        return match[1]
    tag = re.search(r"\((\S+) / 0x", match[2])
    return tag[1] if tag else matroska_codec(Path(container.name.removeprefix("file:")), stream)


def matroska_codec(path: Path, stream: Any) -> str:
    """The codec that a Matroska file gives for a stream, such as V_VVC/X."""
    kind = {"video": b"V", "audio": b"A"}[stream.type]
    with path.open("rb") as file:
        match = re.search(rb"\x86[\x81-\xbf](" + kind + rb"_[A-Z0-9_/]+)", file.read(1 << 20))
    return match[1].decode() if match else "unknown"


def description(container: InputContainer) -> str:
    """The library's own description of a file, for what it tells nowhere else."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        text: str = container.dumps_format()  # type: ignore[attr-defined]  # not in its stubs
    except UnicodeError:
        text = ""
    finally:
        av.logging.set_level(level)
    return text


def cropping(stream: Any) -> str:
    """A note, if the container would show only a part of the picture: the whole is taken."""
    line = (
        rf"^  Stream #0:{stream.index}(?!\d)(?:(?!^  Stream).)*?"
        r"^ +Frame Cropping: (\d+/\d+/\d+/\d+)"
    )
    match = re.search(line, description(stream.container), re.MULTILINE | re.DOTALL)
    if match is None or not any(map(int, match[1].split("/"))):
        return ""
    return f"the container's crop ({match[1]} pixels left/right/top/bottom) is not applied"


def in_tiles(container: InputContainer) -> bool:
    """Whether the file is one picture put together from several."""
    many = len(container.streams.video) > 1 and not container.duration
    return many and bool(re.search(r"^ +Stream group .*Tile Grid", description(container), re.M))


def say(error: BaseException) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
