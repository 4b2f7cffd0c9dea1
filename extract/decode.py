"""One open of one file gives its frames and its sound, on one clock.

Second 0 is the earliest presentation time of the file's video and audio, or `start_seconds` of a
piece. Frames carry the time at which they appear; sound begins at sample 0 = second 0, padded with
silence where it starts late. Which frames are wanted is the caller's business (`pick`), so this
module knows no policy; it imports no torch and no zarr, because it runs in decode processes.

The packets of the file are read first, undecoded: their time stamps tell every frame's time, so
`pick` is answered before any work is done, and of the video only the stretches from a key frame to
a wanted frame are decoded.

Shapes: N = frames of the clip, T = frames wanted, H, W = pixels, S = sound samples, C = channels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation
from jaxtyping import Float, Float32, Float64, Int, UInt8

from extract.probe import (
    Failure,
    Timeline,
    Track,
    fingerprint,
    frame_seconds,
    inside,
    opened,
    timeline,
    tracks,
)
from extract.samplers import Footage
from extract.sound import resample, samples
from store import Status

DECODER = "pyav"  # part of a feature's identity
DECODERS = ("auto", "pyav", "decord")
# Decoders seen to give the same pixels when they skip frames nobody refers to; dav1d does not.
SKIPS_FRAMES = ("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video")
THUMBNAIL = 32  # pixels each way: enough to tell a cut
MAX_CLIP_BYTES = 1 << 29  # of pixels handed out; a few copies must fit into a decode process
# Area averaging does not alias when it shrinks; the flags give the same pixels on every CPU and
# chroma of full resolution.
SCALING = int(
    Interpolation.AREA
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.BITEXACT
)


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


def decode(request: Request) -> Clip:
    """The clip's frames and sound; whatever is wrong with the file becomes a status."""
    sha256 = bytes(32)
    try:
        inside(request.path, request.root)
        sha256 = fingerprint(request.path)
        with opened(request.path) as container:
            clip = _decode(container, request)
    except Failure as failure:
        return failed(failure.status, failure.detail, sha256)
    except MemoryError:
        return failed(Status.OUT_OF_MEMORY, "over the memory limit of a decode process", sha256)
    return replace(clip, sha256=sha256)


def safely(request: Request) -> Request:
    """The same, for a second try after the faster decoder hung or died."""
    return replace(request, decoder="pyav")


def _decode(container: Any, request: Request) -> Clip:
    video, audio = tracks(
        container, start_seconds=request.start_seconds, end_seconds=request.stop_seconds
    )
    # The sound's first sample has its part in where second 0 is, even if only frames are wanted.
    end = request.stop_seconds if request.sample_rates else 0.0
    sound = samples(audio, request.start_seconds, end) if audio else None
    starts = [video.seconds(video.first_pts)] if video and video.first_pts is not None else []
    starts += [sound.first_seconds] if sound and sound.first_seconds is not None else []
    origin = min(starts, default=0.0)

    clip = Clip(visual=Status.ABSENT, audio=Status.ABSENT)
    if video and request.pick:
        clip = replace(clip, **_frames(video, origin, request))
    if audio and sound and request.sample_rates:
        try:
            mono = sound.piece(origin)
            given = {rate: resample(mono, sound.rate, rate) for rate in request.sample_rates}
            clip = replace(
                clip,
                audio=Status.PARTIAL if audio.damage else Status.OK,
                audio_detail=f"{DECODER} {audio.damage}".strip(),
                sound={rate: Sound(samples=s, rate=rate) for rate, s in given.items()},
            )
        except Failure as failure:
            clip = replace(clip, audio=failure.status, audio_detail=failure.detail)
    return clip


def _frames(track: Track, origin: float, request: Request) -> dict[str, Any]:
    """The visual half of a `Clip`."""
    try:
        plan = _plan(track, origin, request)
        pictures = {}
        scale = _Scaler(track, request.short_sides)
        for stamp, frame in _wanted_frames(track, plan):
            pictures[stamp] = scale(frame)
    except Failure as failure:
        return {"visual": failure.status, "visual_detail": failure.detail}
    except av.error.FFmpegError as error:
        return {"visual": Status.DECODE_ERROR, "visual_detail": str(error)}
    got = [(second, stamp) for stamp, second in plan.wanted if stamp in pictures]
    if not got:
        reason = track.damage or "no frame came out of the decoder"
        return {"visual": Status.DECODE_ERROR, "visual_detail": reason}
    lost = len(plan.wanted) - len(got)
    damage = track.damage or (f"{lost} of {len(plan.wanted)} frames do not decode" if lost else "")
    seconds = np.array([second for second, _ in got])
    return {
        "visual": Status.PARTIAL if damage else Status.OK,
        "visual_detail": f"{DECODER} {damage}".strip(),
        "frames": {
            side: Frames(
                pixels=np.stack([pictures[stamp][side] for _, stamp in got]), seconds=seconds
            )
            for side in request.short_sides
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    wanted: list[tuple[int, float]]  # time stamp and second of each frame picked, in order
    shown: Timeline


def _plan(track: Track, origin: float, request: Request) -> _Plan:
    """Which frames the caller wants, from time stamps alone.

    Raises:
        Failure: EMPTY, there are no frames in the piece.
    """
    shown = timeline(track)
    stamps = shown.stamps
    if not stamps:
        status = Status.DECODE_ERROR if track.damage else Status.EMPTY
        raise Failure(status, track.damage or "the video stream holds no frame")
    seconds = np.array([track.seconds(s) for s in stamps]) - origin - request.start_seconds
    end = float(seconds[-1] + frame_seconds(track, stamps)[-1])
    length = request.stop_seconds - request.start_seconds
    first = max(int(np.searchsorted(seconds, 0.0, side="right")) - 1, 0)
    last = int(np.searchsorted(seconds, length, side="left"))
    if end <= 0 or first >= last:
        raise Failure(
            Status.EMPTY, f"no frame in this piece: the frames end after {end:.3f} s of it"
        )
    # The first frame of a piece is on screen since before it begins.
    inside = np.maximum(seconds[first:last], 0.0)
    keys = [track.packets[shown.at[stamp]].is_keyframe for stamp in stamps[first:last]]
    footage = Footage(
        seconds=inside,
        duration=min(end, length),
        key=np.array(keys),
        changes=lambda: _changes(track, shown, stamps[first:last]),
    )
    assert request.pick is not None
    wanted = [(stamps[first + i], float(inside[i])) for i in request.pick(footage)]
    return _Plan(wanted=wanted, shown=shown)


def _changes(track: Track, shown: Timeline, stamps: list[int]) -> Float[np.ndarray, "N"]:
    """How much each frame differs from the one before, from 0 to 1; frames that are lost change
    nothing.
    """
    everything = _Plan(wanted=[(stamp, 0.0) for stamp in stamps], shown=shown)
    small = {
        stamp: frame.reformat(
            width=THUMBNAIL, height=THUMBNAIL, format="gray", interpolation=SCALING, threads=1
        ).to_ndarray()
        for stamp, frame in _wanted_frames(track, everything)
    }
    found, before = np.zeros(len(stamps)), None
    for k, stamp in enumerate(stamps):
        now = small.get(stamp)
        if now is not None and before is not None:
            found[k] = np.abs(now.astype(np.int16) - before).mean() / 255
        before = before if now is None else now
    return found


def _wanted_frames(track: Track, plan: _Plan) -> Iterator[tuple[int, Any]]:
    """Every wanted frame that decodes, under the time stamp it was wanted for.

    A packet without a picture of its own (VP8 has such) is stood for by the picture on screen then.
    """
    at = plan.shown.at
    wanted = sorted({stamp for stamp, _ in plan.wanted})
    for start, stop in _stretches(track, plan.shown, [at[stamp] for stamp in wanted]):
        due = [stamp for stamp in wanted if start <= at[stamp] <= stop]
        held = None
        for stamp, frame in _stretch(track, plan.shown, start, stop, frozenset(due)):
            while due and due[0] < stamp:
                missed = due.pop(0)
                if held is not None:
                    yield missed, held
            if due and due[0] == stamp:
                yield due.pop(0), frame
            held = frame
            if not due:
                break
        if held is not None and not track.damage:
            yield from ((stamp, held) for stamp in due)


def _stretches(track: Track, shown: Timeline, positions: list[int]) -> list[tuple[int, int]]:
    """Spans of packets from key frames on that hold the wanted frames and what they refer to."""
    if not shown.timed:
        return [(0, len(track.packets) - 1)]  # frames are counted, so none may be left out
    keys = [i for i, p in enumerate(track.packets) if p.is_keyframe and p.pts is not None]
    spans: list[tuple[int, int]] = []
    for position in sorted(positions):
        pts = track.packets[position].pts
        # A frame shown before the key frame it follows in the file refers to the one before.
        start = max((k for k in keys if k <= position and track.packets[k].pts <= pts), default=0)
        while spans and start <= spans[-1][1]:
            begun, ended = spans.pop()
            start, position = min(start, begun), max(position, ended)
        spans.append((start, position))
    return spans


def _stretch(
    track: Track, shown: Timeline, start: int, stop: int, wanted: frozenset[int]
) -> Iterator[tuple[int, Any]]:
    """Frames of one span and their time stamps, in presentation order, up to the first damage.

    Frames that are neither wanted nor referred to are not decoded (a quarter of the cost of H.264).
    """
    context = track.stream.codec_context
    counted = iter(shown.stamps)
    skips = shown.timed and context.name in SKIPS_FRAMES
    try:
        for packet in [*track.packets[start : stop + 1], None]:
            if skips and packet is not None:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            for frame in context.decode(packet):
                stamp = frame.pts if shown.timed else next(counted, None)
                if frame.is_corrupt:
                    track.damage = track.damage or "a frame is damaged"
                elif stamp in shown.at:
                    yield stamp, frame
    except av.error.FFmpegError as error:
        track.damage = track.damage or f"{type(error).__name__}: {error.strerror}"
    finally:
        context.skip_frame = "DEFAULT"
        context.flush_buffers()


class _Scaler:
    """Frames as upright RGB with square pixels, once for each short side."""

    def __init__(self, track: Track, short_sides: tuple[int, ...]) -> None:
        self.short_sides = short_sides
        self.aspect = Fraction(track.stream.codec_context.sample_aspect_ratio or 1)
        if not Fraction(1, 8) <= self.aspect <= 8 or abs(self.aspect - 1) < Fraction(1, 100):
            self.aspect = Fraction(1)
        self.sizes: dict[int, tuple[int, int]] = {}
        self.bytes = 0

    def __call__(self, frame: Any) -> dict[int, UInt8[np.ndarray, "H W 3"]]:
        if not self.sizes:  # of the first frame, also for those after a change of size
            wide = (max(1, round(frame.width * self.aspect)), frame.height)
            self.sizes = {side: _scaled(wide, side) for side in self.short_sides}
        self.bytes += sum(3 * w * h for w, h in self.sizes.values())
        if self.bytes > MAX_CLIP_BYTES:
            raise Failure(
                Status.REFUSED, f"the frames wanted take more than {MAX_CLIP_BYTES} bytes"
            )
        return {side: self._picture(frame, *size) for side, size in self.sizes.items()}

    def _picture(self, frame: Any, width: int, height: int) -> UInt8[np.ndarray, "H W 3"]:
        rgb = frame.reformat(
            width=width, height=height, format="rgb24", interpolation=SCALING, threads=1
        ).to_ndarray()
        turns, odd = divmod(frame.rotation, 90)  # anything but quarter turns is a broken matrix
        return rgb if odd else np.rot90(rgb, turns % 4)


def _scaled(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    short = min(size)
    if short <= short_side:
        return size
    return max(1, round(size[0] * short_side / short)), max(1, round(size[1] * short_side / short))
