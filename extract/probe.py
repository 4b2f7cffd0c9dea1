"""What a media file holds: its packets and their times, before anything is decoded.

The file is hostile until proven otherwise. It must be a regular file of bounded size, in one of a
few containers that cannot refer to other files (`CONTAINERS`), read through the file protocol
only: playlists and scripts (HLS, DASH, concat) would make the library open whatever they name.
Animated GIF is in: people post it as micro video, and it refers to nothing.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import Float

from store import Status

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,gif,mp3,wav,ogg,flac,aac"
MAX_FILE_BYTES = 4 << 30
MAX_STREAMS = 64
MAX_PIXELS = 36_000_000  # a frame of 8K has 33 million

av.logging.set_level(av.logging.PANIC)  # damage is reported as a status, not on the terminal


class Failure(Exception):  # noqa: N818 (a clip that fails is data, not an error)
    """A clip that cannot be decoded: why, for the machine (`status`) and for people (`detail`)."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


@dataclass(slots=True, kw_only=True)
class Track:
    """One stream and its packets in decode order."""

    stream: Any
    packets: list[Any] = field(default_factory=list)
    first_pts: int | None = None  # of all packets that are shown, also those dropped from `packets`
    damage: str = ""  # what says that packets are missing or broken

    @property
    def tick(self) -> Fraction:
        """Seconds of one time stamp unit."""
        return self.stream.time_base

    @property
    def timed(self) -> bool:
        """False for AVI: it stores no presentation times, and those made up for it are wrong."""
        return self.stream.container.format.name != "avi"

    def stamp(self, packet: Any) -> int | None:
        return packet.pts if self.timed and packet.pts is not None else packet.dts

    def seconds(self, pts: int) -> float:
        return float(pts * self.tick)


def inside(path: Path, root: Path | None) -> None:
    """Refuse what a link leads out of `root` to; manifests come with media that others packed.

    Raises:
        Failure: REFUSED.
    """
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise Failure(
            Status.REFUSED, "a link leads out of the manifest's folder; allow it: --follow-links"
        )


def fingerprint(path: Path) -> bytes:
    """SHA-256 of the file's bytes.

    Raises:
        Failure: MISSING, UNREADABLE, or REFUSED for what is not a regular file of bounded size.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO that nobody writes to would wait for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Failure(Status.REFUSED, "not a regular file")
            if found.st_size > MAX_FILE_BYTES:
                raise Failure(Status.REFUSED, f"{found.st_size} bytes; at most {MAX_FILE_BYTES}")
            return hashlib.file_digest(file, "sha256").digest()
    except (FileNotFoundError, NotADirectoryError):
        raise Failure(Status.MISSING, "no such file") from None
    except OSError as error:
        raise Failure(Status.UNREADABLE, error.strerror or str(error)) from None


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """The file's container, open for reading.

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
        raise Failure(Status.UNREADABLE, _say(error)) from None
    with container:
        if len(container.streams) > MAX_STREAMS:
            raise Failure(
                Status.REFUSED, f"{len(container.streams)} streams; at most {MAX_STREAMS}"
            )
        yield container


def tracks(
    container: InputContainer, *, start_seconds: float = 0.0, end_seconds: float = float("inf")
) -> tuple[Track | None, Track | None]:
    """The video and the audio track that matter, with the packets needed for a piece of the clip.

    Reads from the front of the file: where second 0 is, only its first packets can tell.

    Raises:
        Failure: UNREADABLE, there is neither video nor audio; REFUSED, a frame is too large.
    """
    video, audio = _video(container), _audio(container)
    found = {t.stream.index: t for t in (video, audio) if t}
    if not found:
        raise Failure(Status.UNREADABLE, "no video and no audio stream")
    origin, done, size = float("inf"), set(), container.size
    try:
        for packet in container.demux([t.stream for t in found.values()]):
            if not packet.size:
                continue
            track = found[packet.stream_index]
            if packet.is_corrupt:
                track.damage = "a packet is cut short"
            _keep(track, packet)
            if track.first_pts is None:
                continue
            # The estimate only falls as packets come in, so nothing is given up too early; a
            # second covers frames that are stored out of order.
            origin = min(origin, track.seconds(track.first_pts))
            stamp = packet.pts if packet.dts is None else packet.dts
            now = track.seconds(stamp or 0) - origin
            if now > end_seconds + 1:
                done.add(track.stream.index)
                if len(done) == len(found):
                    break
            elif (
                track is video
                and packet.is_keyframe
                and track.timed
                and packet.pts is not None
                and track.seconds(packet.pts) - origin <= start_seconds
            ):
                del track.packets[:-1]  # nothing before this frame is needed any more
    except av.error.FFmpegError as error:
        for track in found.values():
            track.damage = _say(error)
    for track in found.values():
        track.damage = track.damage or _cut_short(container, track, size, origin + end_seconds)
    return video, audio


def _keep(track: Track, packet: Any) -> None:
    track.packets.append(packet)
    pts = track.stamp(packet)
    if pts is not None and not packet.is_discard:
        track.first_pts = pts if track.first_pts is None else min(track.first_pts, pts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The frames a player would show."""

    stamps: list[int]  # time stamps in presentation order
    at: Mapping[int, int]  # position of a frame's packet in decode order, by time stamp
    timed: bool  # false: there are no presentation times, so frames must be counted


def timeline(track: Track) -> Timeline:
    """The frames of a video track, from its packets alone.

    Left out are packets that the container marks as pre-roll, those before the first key frame,
    and those shown before it: what they refer to is not in the file.
    """
    key = next((i for i, p in enumerate(track.packets) if p.is_keyframe), 0)
    rest = [(i, p) for i, p in enumerate(track.packets) if i >= key and not p.is_discard]
    timed = track.timed and all(p.pts is not None for _, p in rest)
    at = {(p.pts if timed else p.dts): i for i, p in rest}
    at.pop(None, None)
    if timed and rest and (first := track.packets[key].pts) is not None:
        at = {pts: i for pts, i in at.items() if pts >= first}
    return Timeline(stamps=sorted(at), at=at, timed=timed)


def frame_seconds(track: Track, stamps: list[int]) -> Float[np.ndarray, "N"]:
    """How long each frame stays on screen; the last one as long as its packet says."""
    gaps = [b - a for a, b in pairwise(stamps)]
    last = track.packets[-1].duration or 0
    if last <= 0 or (gaps and last > 10 * max(gaps)):
        rate = track.stream.average_rate
        last = int(np.median(gaps)) if gaps else (1 / rate / track.tick if rate else 0)
    return np.array([float(g * track.tick) for g in [*gaps, max(last, 1)]])


def _video(container: InputContainer) -> Track | None:
    """The default video stream; a cover picture is none."""
    attached = av.stream.Disposition.attached_pic
    real = [s for s in container.streams.video if not s.disposition & attached and s.codec_context]
    if not real:
        return None
    best = container.streams.best("video")
    stream = best if best in real else real[0]
    context = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise Failure(
            Status.REFUSED, f"{context.width}x{context.height} pixels; at most {MAX_PIXELS}"
        )
    context.thread_count = 1  # clips are decoded in parallel, not slices of one
    return Track(stream=stream)


def _audio(container: InputContainer) -> Track | None:
    real = [s for s in container.streams.audio if s.codec_context]
    best = container.streams.best("audio")
    return Track(stream=best if best in real else real[0]) if real else None


def _cut_short(container: InputContainer, track: Track, file_bytes: int, end: float) -> str:
    """What says that the file ends before its own index does, as far as this piece is concerned."""
    if container.format.name.startswith("mov"):
        for entry in track.stream.index_entries:
            if entry.pos + entry.size > file_bytes and track.seconds(entry.timestamp) < end:
                return "the file ends before its index does"
    return ""


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
