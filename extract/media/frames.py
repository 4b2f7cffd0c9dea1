"""The frames of a clip: which are wanted, decoded by PyAV, upright, scaled.

Time stamps tell every frame's time, so a sampler is answered before any work is done, and of the
video only the stretches from a key frame to a wanted frame are decoded.

Shapes: N = frames of the clip, T = frames wanted, H, W = pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Interpolation
from jaxtyping import Float, Int, UInt8

from extract.media.packets import Timeline, Track, frame_seconds, timeline
from extract.media.probe import Failure
from extract.media.samplers import Footage
from store import Status

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
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics
Taken = TypeVar("Taken")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The wanted frames that decode, and what became of the others."""

    frames: Mapping[int, Mapping[int, UInt8[np.ndarray, "H W 3"]]]  # by time stamp and short side
    decoder: str  # and why it was this one
    note: str = ""  # what is odd about them
    damage: str = ""  # what is missing or broken, as far as anybody noticed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The frames that are wanted of a video track."""

    wanted: list[tuple[int, float]]  # time stamp and second of each frame picked, in order
    shown: Timeline
    frames: int  # how many there are in the piece
    damage: str  # of the packets, and of frames that the sampler looked at

    @property
    def share(self) -> float:
        """The wanted part of the frames of the piece."""
        return len(self.timestamps) / self.frames

    @property
    def timestamps(self) -> list[int]:
        """Each wanted frame once, in order."""
        return sorted({timestamp for timestamp, _ in self.wanted})


def plan(
    track: Track,
    pick: Callable[[Footage], Int[np.ndarray, "T"]],
    *,
    origin: float,
    start_seconds: float,
    end_seconds: float,
) -> Plan:
    """Ask the sampler which frames of a piece it wants.

    Raises:
        Failure: EMPTY, there are no frames in the piece; DECODE_ERROR, nor in the file.
    """
    shown = timeline(track)
    timestamps = shown.timestamps
    if not timestamps:
        status = Status.DECODE_ERROR if track.damage else Status.EMPTY
        raise Failure(status, track.damage or "the video stream holds no frame")
    seconds = np.array([track.seconds(s) for s in timestamps]) - origin - start_seconds
    end = float(seconds[-1] + frame_seconds(track, timestamps)[-1])
    length = end_seconds - start_seconds
    first = max(int(np.searchsorted(seconds, 0.0, side="right")) - 1, 0)
    last = int(np.searchsorted(seconds, length, side="left"))
    if end <= 0 or first >= last:
        raise Failure(
            Status.EMPTY, f"no frame in this piece: the frames end after {end:.3f} s of it"
        )
    # The first frame of a piece is on screen since before it begins.
    inside = np.maximum(seconds[first:last], 0.0)
    keys = [track.packets[shown.at[timestamp]].is_keyframe for timestamp in timestamps[first:last]]
    damage = track.damage

    def changes() -> Float[np.ndarray, "N"]:
        nonlocal damage
        thumbnails, damage = decoded(track, shown, timestamps[first:last], _thumbnail, damage)
        return _changes([thumbnails.get(timestamp) for timestamp in timestamps[first:last]])

    footage = Footage(
        seconds=inside, duration=min(end, length), key=np.array(keys), changes=changes
    )
    wanted = [(timestamps[first + i], float(inside[i])) for i in pick(footage)]
    return Plan(wanted=wanted, shown=shown, frames=last - first, damage=damage)


def _thumbnail(frame: Any) -> UInt8[np.ndarray, "_ _"]:
    """A grey picture of the frame, small enough to keep those of a whole clip."""
    small: UInt8[np.ndarray, "_ _"] = frame.reformat(
        width=THUMBNAIL, height=THUMBNAIL, format="gray", interpolation=SCALING, threads=1
    ).to_ndarray()
    return small


def _changes(thumbnails: Sequence[UInt8[np.ndarray, "_ _"] | None]) -> Float[np.ndarray, "N"]:
    """The difference of each frame from the one before, from 0 to 1; frames that are lost change
    nothing.
    """
    changes, before = np.zeros(len(thumbnails)), None
    for k, now in enumerate(thumbnails):
        if now is not None and before is not None:
            changes[k] = np.abs(now.astype(np.int16) - before).mean() / 255
        before = before if now is None else now
    return changes


def pictures(track: Track, plan: Plan, short_sides: tuple[int, ...], reason: str) -> Pictures:
    """The wanted frames that decode, by PyAV; `reason` says why by it.

    Raises:
        Failure: REFUSED, they take too much memory.
    """
    scale = Scaler(track, short_sides)
    frames, damage = decoded(track, plan.shown, plan.timestamps, scale, plan.damage)
    return Pictures(frames=frames, decoder=f"pyav ({reason})", note=scale.note, damage=damage)


def decoded(
    track: Track,
    shown: Timeline,
    wanted: Sequence[int],
    take: Callable[[Any], Taken],
    damage: str,
) -> tuple[dict[int, Taken], str]:
    """`take` of every wanted frame that decodes, by time stamp and in order, and what
    is damaged; `damage` is what is known to be before.

    A packet without a picture of its own (VP8 has such) is stood for by the picture on screen then,
    unless something is damaged.
    """
    taken: dict[int, Taken] = {}
    for start, stop in stretches(track, shown, [shown.at[timestamp] for timestamp in wanted]):
        due = [timestamp for timestamp in wanted if start <= shown.at[timestamp] <= stop]
        held = None
        for event in _stretch(track, shown, start, stop, frozenset(due)):
            if isinstance(event, str):
                damage = damage or event
                continue
            timestamp, frame = event
            while due and due[0] < timestamp:
                missed = due.pop(0)
                if held is not None and not damage:
                    taken[missed] = take(held)
            if due and due[0] == timestamp:
                taken[due.pop(0)] = take(frame)
            held = frame
            if not due:
                break
        if held is not None and not damage:
            taken |= {timestamp: take(held) for timestamp in due}
    return taken, damage


def stretches(track: Track, shown: Timeline, positions: list[int]) -> list[tuple[int, int]]:
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
) -> Iterator[tuple[int, Any] | str]:
    """Frames of one span and their time stamps, in presentation order, and what is damaged.

    After damage there are none up to the next key frame: they would show what the decoder made up.
    Frames that are neither wanted nor referred to are not decoded (a quarter of the cost of H.264).
    """
    context = track.stream.codec_context
    counted = iter(shown.timestamps)
    skips = shown.timed and context.name in SKIPS_FRAMES
    whole = True  # what a frame refers to came out undamaged
    try:
        for packet in [*track.packets[start : stop + 1], None]:
            if skips and packet is not None:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            try:
                decoded = context.decode(packet)
            except av.error.FFmpegError as error:
                yield f"{type(error).__name__}: {error.strerror}"
                whole = False
                if not shown.timed:
                    return  # how many frames were lost is not known
                continue
            for frame in decoded:
                timestamp = frame.pts if shown.timed else next(counted, None)
                if frame.is_corrupt:
                    yield "a frame is damaged"
                whole = (whole or frame.key_frame) and not frame.is_corrupt
                if whole and timestamp in shown.at:
                    yield timestamp, frame
    finally:
        context.skip_frame = "DEFAULT"
        context.flush_buffers()


class Scaler:
    """Frames as upright RGB with square pixels, once for each short side."""

    def __init__(self, track: Track, short_sides: tuple[int, ...]) -> None:
        self.short_sides = short_sides
        self.aspect = pixel_aspect(track)
        self.sizes: dict[int, tuple[int, int]] = {}
        self.bytes = 0
        self.note = ""

    def __call__(self, frame: Any) -> dict[int, UInt8[np.ndarray, "H W 3"]]:
        """The frame at every size, by its short side."""
        if not self.sizes:  # of the first frame, also for those after a change of size
            wide = (max(1, round(frame.width * self.aspect)), frame.height)
            self.sizes = {side: scaled(wide, side) for side in self.short_sides}
            if frame.color_trc in HDR:
                self.note = f"HDR ({HDR[frame.color_trc]}) without tone mapping"
        self.bytes += sum(3 * w * h for w, h in self.sizes.values())
        if self.bytes > MAX_CLIP_BYTES:
            raise Failure(
                Status.REFUSED, f"the frames wanted take more than {MAX_CLIP_BYTES} bytes"
            )
        mirrored, turns = orientation(frame)
        given = {}
        for side, (width, height) in self.sizes.items():
            rgb = frame.reformat(
                width=width, height=height, format="rgb24", interpolation=SCALING, threads=1
            ).to_ndarray()
            given[side] = np.rot90(rgb[:, ::-1] if mirrored else rgb, -turns)
        return given


def pixel_aspect(track: Track) -> Fraction:
    """Width of a pixel over its height; 1 where the file says nothing sensible."""
    aspect = Fraction(track.stream.codec_context.sample_aspect_ratio or 1)
    sensible = Fraction(1, 8) <= aspect <= 8 and abs(aspect - 1) >= Fraction(1, 100)
    return aspect if sensible else Fraction(1)


def scaled(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Width and height in the same proportion, with the short side at most `short_side`."""
    short = min(size)
    if short <= short_side:
        return size
    return max(1, round(size[0] * short_side / short)), max(1, round(size[1] * short_side / short))


def orientation(frame: Any) -> tuple[bool, int]:
    """Whether to mirror a frame left to right, and then how many quarter turns clockwise it takes.

    A display matrix that is neither a quarter turn nor a mirrored one is broken: nothing is done.
    """
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return False, 0
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.float64)
    size = max(abs(v) for v in (a, b, c, d))
    rotations = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
    for turns, (p, q, r, s) in enumerate(rotations):
        for mirrored, rotation in ((False, (p, q, r, s)), (True, (-p, -q, r, s))):
            if np.allclose((a, b, c, d), np.multiply(size, rotation), atol=size / 100) and size:
                return mirrored, turns
    return False, 0
