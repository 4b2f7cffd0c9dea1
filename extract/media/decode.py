"""One open of one file gives its frames and its sound, on one clock.

Second 0 is the earliest presentation time of the file's video and audio, or `start_seconds` of a
piece. Frames carry the time at which they appear; sound begins at sample 0 = second 0, padded with
silence where it starts late. Which frames are wanted is the caller's business (`pick`), so this
module knows no policy; it imports no torch and no zarr, because it runs in decode processes.

Shapes: T = frames wanted, H, W = pixels, S = sound samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8

from extract.media import decord_reader
from extract.media.frames import Plan, pictures, plan
from extract.media.packets import Media, Track
from extract.media.probe import Failure, examined, inside
from extract.media.samplers import Footage
from extract.media.sound import resample, samples
from store import Status

DECODER = "pyav"  # part of a feature's identity
DECODERS = ("auto", "pyav", "decord")
TOLERANCE_SECONDS = 0.5  # a clip may be so much longer than the limit before anybody is told
PADDING_SECONDS = 0.1  # of silence in front of late sound, before anybody is told


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frames:
    """RGB frames and when each appears, in seconds on the clip's clock."""

    pixels: UInt8[np.ndarray, "T H W 3"]
    seconds: Float64[np.ndarray, "T"]

    def __post_init__(self) -> None:
        if not len(self.pixels) == len(self.seconds) > 0:
            raise ValueError(f"{len(self.pixels)} frames with {len(self.seconds)} times")
        if self.seconds[0] < 0 or np.any(np.diff(self.seconds) < 0):
            raise ValueError("frame times start at 0 or later and never fall")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sound:
    """Mono sound from second 0 on, full scale at -1..1."""

    samples: Float32[np.ndarray, "S"]
    rate: int  # Hz

    def __post_init__(self) -> None:
        if not len(self.samples) or self.rate <= 0:
            raise ValueError(f"{len(self.samples)} samples at {self.rate} Hz are no sound")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to decode of one clip. `pick` gives the indices of the frames wanted, in order; without
    it no frame is decoded.
    """

    path: Path
    root: Path | None = None  # a link that leads out of it is not followed
    start_seconds: float = 0.0
    end_seconds: float = float("inf")
    limit_seconds: float = float("inf")  # so much of the piece is decoded; what is cut off is told
    pick: Callable[[Footage], Int[np.ndarray, "T"]] | None = None
    short_sides: tuple[int, ...] = ()  # pixels; larger frames are scaled down to each of these
    sample_rates: tuple[int, ...] = ()  # Hz; the sound is given at each of these
    decoder: str = "auto"  # or "pyav" or "decord"
    because: str = "asked for"  # why PyAV, where it is `decoder`

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < self.end_seconds or not self.limit_seconds > 0:
            raise ValueError(f"a piece from {self.start_seconds} to {self.end_seconds} s is none")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder {self.decoder!r} is none of {', '.join(DECODERS)}")

    @property
    def stop_seconds(self) -> float:
        """Where decoding ends."""
        return min(self.end_seconds, self.start_seconds + self.limit_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What came of a request. Sight and sound fail apart: broken sound spares the frames."""

    visual: Status
    audio: Status
    frames: Mapping[int, Frames] = field(default_factory=dict)  # by short side
    sound: Mapping[int, Sound] = field(default_factory=dict)  # by sample rate
    visual_detail: str = ""
    audio_detail: str = ""
    sha256: bytes = bytes(32)


def failed(status: Status, detail: str, sha256: bytes = bytes(32)) -> Clip:
    """A clip of which there is nothing."""
    return Clip(
        visual=status, audio=status, visual_detail=detail, audio_detail=detail, sha256=sha256
    )


_last: Media | None = None  # the file decoded last: the next request may be a piece of it too


def decode(request: Request) -> Clip:
    """The clip's frames and sound; whatever is wrong with the file becomes a status."""
    global _last
    media, _last = _last, None  # whatever is raised, a decoder in an unknown state is not kept
    sha256 = bytes(32)
    try:
        inside(request.path, request.root)
        file = examined(request.path, media.file if media else None)
        sha256 = file.sha256
        if media is not None and media.file is not file:
            media.close()
            media = None
        media = media or Media(file)
        clip = _decode(media, request)
    except Failure as failure:
        return failed(failure.status, failure.detail, sha256)
    except MemoryError:
        return failed(Status.OUT_OF_MEMORY, "over the memory limit of a decode process", sha256)
    if Status.PARTIAL in (clip.visual, clip.audio) or clip.visual.failed or clip.audio.failed:
        media.close()
    else:
        _last = media
    return replace(clip, sha256=sha256)


def safely(request: Request) -> Request:
    """The same, for a second try after a decode process hung or died."""
    return replace(request, decoder="pyav", because="second try")


def _decode(media: Media, request: Request) -> Clip:
    video, audio = media.tracks(request.start_seconds, request.stop_seconds)
    # The sound's first sample has its part in where second 0 is, even if only frames are wanted.
    end = request.stop_seconds if request.sample_rates else 0.0
    sound = samples(audio, request.start_seconds, end) if audio else None
    starts = [video.seconds(video.first_pts)] if video and video.first_pts is not None else []
    starts += [sound.first_seconds] if sound and sound.first_seconds is not None else []
    origin = min(starts, default=0.0)

    over = _over_limit(media, request)
    clip = Clip(visual=Status.ABSENT, audio=Status.ABSENT)
    if video and request.pick:
        clip = replace(clip, **_frames(media, video, origin, request, over))
    if audio and sound and request.sample_rates:
        try:
            audio.refuse_encryption()
            mono = sound.piece(origin)
            given = {rate: resample(mono, sound.rate, rate) for rate in request.sample_rates}
            late = sound.late_seconds(origin)
            silence = f"silence up to second {late:.2f}" if late > PADDING_SECONDS else ""
            clip = replace(
                clip,
                audio=Status.PARTIAL if audio.damage else Status.OK,
                audio_detail=_told("pyav", audio.damage, silence, over),
                sound={rate: Sound(samples=s, rate=rate) for rate, s in given.items()},
            )
        except Failure as failure:
            clip = replace(clip, audio=failure.status, audio_detail=failure.detail)
    return clip


def _told(decoder: str, *notes: str) -> str:
    """The detail of a clip with rows: who decoded it, and what is odd about it."""
    return "; ".join(filter(None, (decoder, *notes)))


def _over_limit(media: Media, request: Request) -> str:
    """What is cut off because the clip is longer than clips may be."""
    length = min(media.seconds, request.end_seconds) - request.start_seconds
    if length <= request.limit_seconds + TOLERANCE_SECONDS:
        return ""
    return f"the first {request.limit_seconds:g} of {length:.1f} s"


def _frames(
    media: Media, track: Track, origin: float, request: Request, over: str
) -> dict[str, Any]:
    """The visual half of a `Clip`."""
    assert request.pick is not None
    try:
        track.refuse_encryption()
        wanted = plan(
            track,
            request.pick,
            origin=origin,
            start_seconds=request.start_seconds,
            end_seconds=request.stop_seconds,
        )
        found, decoder, note = _pictures(media, track, wanted, request)
    except Failure as failure:
        return {"visual": failure.status, "visual_detail": failure.detail}
    except av.error.FFmpegError as error:
        return {"visual": Status.DECODE_ERROR, "visual_detail": str(error)}
    got = [(second, stamp) for stamp, second in wanted.wanted if stamp in found]
    if not got:
        reason = track.damage or "no frame came out of the decoder"
        return {"visual": Status.DECODE_ERROR, "visual_detail": reason}
    lost = len(wanted.wanted) - len(got)
    damage = track.damage or (
        f"{lost} of {len(wanted.wanted)} frames do not decode" if lost else ""
    )
    seconds = np.array([second for second, _ in got])
    return {
        "visual": Status.PARTIAL if damage else Status.OK,
        "visual_detail": _told(decoder, damage, note, over),
        "frames": {
            side: Frames(pixels=np.stack([found[stamp][side] for _, stamp in got]), seconds=seconds)
            for side in request.short_sides
        },
    }


def _pictures(
    media: Media, track: Track, wanted: Plan, request: Request
) -> tuple[dict[int, dict[int, UInt8[np.ndarray, "H W 3"]]], str, str]:
    """The frames, who decoded them and why, and what is odd about them."""
    reason = request.because
    if request.decoder != "pyav":
        sides, must = request.short_sides, request.decoder == "decord"
        reason = decord_reader.not_for(media, track, wanted, sides, must=must)
    if not reason:
        try:
            found = decord_reader.pictures(media, track, wanted, request.short_sides[0])
        except decord_reader.Unfit as unfit:
            reason = str(unfit)
        else:
            return found, f"decord ({wanted.share:.0%} of the frames)", ""
    found, note = pictures(track, wanted, request.short_sides)
    return found, f"pyav ({reason})", note
