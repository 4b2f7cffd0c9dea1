"""The frames of a clip: which are wanted, decoded by PyAV, upright, scaled.

Time stamps tell every frame's time, so a sampler is answered before any work is done, and of the
video only the stretches from a key frame to a wanted frame are decoded.

Shapes: N = frames of the clip, T = frames wanted, H, W = pixels.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Interpolation
from jaxtyping import Float, Int, UInt8

from extract.media.clip import MATRICES, USUAL_MATRIX
from extract.media.probe import Failure, cropping
from extract.media.samplers import Footage
from extract.media.stretches import decoded
from extract.media.timeline import Timeline, frame_seconds, gone_seconds, timeline
from extract.media.track import Track
from store import Status

THUMBNAIL = 32  # pixels each way: enough to tell a cut
MAX_CLIP_BYTES = 1 << 31  # of pixels of a clip, all parts together: half a minute at 120 a second
PART_BYTES = 1 << 28  # of pixels handed out at once; a few copies must fit into a decode process
# Area averaging does not alias when it shrinks; the flags give the same pixels on every CPU and
# chroma of full resolution.
SCALING = int(
    Interpolation.AREA
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.BITEXACT
)
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics
FULL_RANGE = 2  # of AVColorRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Planes:
    """A frame as codecs keep it; its chroma has half the size."""

    luma: UInt8[np.ndarray, "H W"]
    chroma: UInt8[np.ndarray, "2 h w"]


Picture = UInt8[np.ndarray, "H W 3"] | Planes


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What frames that are planes have in common."""

    matrix: int  # of MATRICES
    full: bool  # luma from 0 to 255
    mirrored: bool
    turns: int  # quarter turns clockwise, after that


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The wanted frames that decode, and what became of the others."""

    frames: Mapping[int, Mapping[int, Picture]]  # by time stamp and short side
    decoder: str  # and why it was this one
    layout: Layout | None = None  # of planes; RGB is upright
    note: str = ""  # what is odd about them
    damage: str = ""  # what is missing or broken, as far as anybody noticed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The frames that are wanted of a video track."""

    wanted: list[tuple[int, float]]  # time stamp and second of each frame picked, in order
    shown: Timeline
    frames: int  # how many there are in the piece
    damage: str  # of the packets, and of frames that the sampler looked at
    first: int = 0  # time stamp of the piece's first frame
    note: str = ""  # where there is no picture for long
    lead: int | None = None  # of a later part: time stamp of the clip's first wanted frame
    more: int = 0  # number of the wanted frame that the next part begins with

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
        broken = bool(track.damage or track.packets)
        status = Status.DECODE_ERROR if broken else Status.EMPTY
        nothing = "no key frame" if track.packets else "the video stream holds no frame"
        raise Failure(status, track.damage or nothing)
    seconds = np.array([track.seconds(s) for s in timestamps]) - origin - start_seconds
    lasting = frame_seconds(track, timestamps)
    end = float(seconds[-1] + lasting[-1])
    length = end_seconds - start_seconds
    first = max(int(np.searchsorted(seconds, 0.0, side="right")) - 1, 0)
    last = int(np.searchsorted(seconds, length, side="left"))
    if end <= 0 or first >= last:
        ends = track.seconds(timestamps[-1]) - origin + float(lasting[-1])
        raise Failure(Status.EMPTY, _nothing_between(ends, start_seconds))
    # The first frame of a piece is on screen since before it begins.
    inside = np.maximum(seconds[first:last], 0.0)
    gone = seconds + gone_seconds(track, shown, lasting)
    damage = track.damage or _repeated(shown)

    def changes() -> Float[np.ndarray, "N"]:
        nonlocal damage
        thumbnails, damage = decoded(track, shown, timestamps[first:last], _thumbnail, damage)
        return _changes([thumbnails.get(timestamp) for timestamp in timestamps[first:last]])

    footage = Footage(
        seconds=inside,
        duration=min(end, length),
        key=np.array([timestamp in shown.keys for timestamp in timestamps[first:last]]),
        changes=changes,
        gone=gone[first:last],
    )
    wanted = [(timestamps[first + i], float(inside[i])) for i in pick(footage)]
    return Plan(
        wanted=wanted,
        shown=shown,
        frames=last - first,
        damage=damage,
        first=timestamps[first],
        note="; ".join(filter(None, (track.note, _gaps(footage)))),
    )


def part_of(plan: Plan, track: Track, short_sides: tuple[int, ...], first: int) -> Plan:
    """The plan of as many wanted frames as may be handed out at once, from `first` on.

    Raises:
        Failure: REFUSED, all of them together take too much memory.
    """
    context = track.stream.codec_context
    wide = (max(1, round(context.width * pixel_aspect(track))), context.height)
    sizes = [scaled(wide, side) for side in short_sides]
    of_frame = max(1, sum(3 * w * h for w, h in sizes))
    if len(plan.wanted) * of_frame > MAX_CLIP_BYTES:
        raise _too_much()
    count = max(1, PART_BYTES // of_frame)
    if not first and len(plan.wanted) <= count:
        return plan
    stop = first + count
    return replace(
        plan,
        wanted=plan.wanted[first:stop],
        lead=plan.wanted[0][0] if first else None,
        more=stop if stop < len(plan.wanted) else 0,
    )


def _too_much() -> Failure:
    return Failure(Status.REFUSED, f"the frames wanted take more than {MAX_CLIP_BYTES} bytes")


def _nothing_between(end: float, start: float) -> str:
    """Why a piece holds no frame."""
    if end <= start:
        return f"no frame in this piece: the frames end at second {end:.3f}, it begins at {start:g}"
    return "no frame in this piece: the frames begin after it"


def _repeated(shown: Timeline) -> str:
    """What is lost of frames that claim the same moment."""
    count = shown.repeated
    return f"{count} frames have the time stamp of another and are left out" if count else ""


def _gaps(footage: Footage) -> str:
    """Where in the piece no frame is on screen, and none stands for what is missing."""
    assert footage.gone is not None
    follows = np.append(footage.seconds[1:], footage.duration)
    spans = [
        f"{gone:.2f} to {next_one:.2f}"
        for gone, next_one in zip(footage.gone, follows, strict=True)
        if next_one - max(gone, 0.0) > 1e-3
    ]
    if not spans:
        return ""
    more = f" and {len(spans) - 3} times more" if len(spans) > 3 else ""
    return f"no picture from second {', '.join(spans[:3])}{more}"


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


def pictures(
    track: Track, plan: Plan, short_sides: tuple[int, ...], reason: str, *, planar: bool = False
) -> Pictures:
    """The wanted frames that decode, by PyAV; `reason` says why by it. RGB, or planes.

    Raises:
        Failure: REFUSED, they take too much memory.
    """
    scale = Scaler(track, short_sides, planar=planar)
    timestamps = plan.timestamps
    if plan.lead is not None:  # sizes, and which side is up, are of the first part's first frame
        timestamps = sorted({plan.lead, *timestamps})
    if track.headers is not None and track.headers.turned:
        timestamps = sorted({plan.first, *timestamps})  # the first frame says how to turn them all
    scaled, damage = decoded(track, plan.shown, timestamps, scale, plan.damage)
    ways = Counter(frame.way for frame in scaled.values())
    notes = [scale.note, scale.cropped]
    if len(ways) > 1:
        notes.append("the frames say different things of which side is up: as the first one")
    way = next((frame.way for frame in scaled.values()), UPRIGHT)
    wanted = set(plan.timestamps)
    return Pictures(
        frames={
            timestamp: {
                side: picture if isinstance(picture, Planes) else turned(picture, way)
                for side, picture in frame.pixels.items()
            }
            for timestamp, frame in scaled.items()
            if timestamp in wanted
        },
        decoder=f"pyav ({reason})",
        layout=scale.layout(way) if planar else None,
        note="; ".join(filter(None, notes)),
        damage=damage,
    )


Way = tuple[bool, int]  # whether to mirror a frame left to right, and then quarter turns clockwise
UPRIGHT: Way = (False, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A frame as it is stored, by its short side, and the way it asks to be turned."""

    pixels: Mapping[int, Picture]
    way: Way


class Scaler:
    """Frames with square pixels, once for each short side: RGB, or planes."""

    def __init__(self, track: Track, short_sides: tuple[int, ...], *, planar: bool = False) -> None:
        self.short_sides, self.planar = short_sides, planar
        self.colour: tuple[int, int] | None = None  # matrix and range of the first planes
        self.aspect = pixel_aspect(track)
        self.sizes: dict[int, tuple[int, int]] = {}
        self.bytes = 0
        self.note = ""
        self.cropped = cropping(track.stream)

    def __call__(self, frame: Any) -> Scaled:
        """The frame at every size, by its short side."""
        if not self.sizes:  # of the first frame, also for those after a change of size
            wide = (max(1, round(frame.width * self.aspect)), frame.height)
            self.sizes = {side: scaled(wide, side) for side in self.short_sides}
            if frame.color_trc in HDR:
                self.note = f"HDR ({HDR[frame.color_trc]}) without tone mapping"
        self.bytes += sum(3 * w * h for w, h in self.sizes.values())
        if self.bytes > min(MAX_CLIP_BYTES, 2 * PART_BYTES):  # larger than the file said
            raise _too_much()
        given = {}
        for side, (width, height) in self.sizes.items():
            if self.planar:
                given[side] = self._planes(frame, width, height)
                continue
            rgb = frame.reformat(
                width=width, height=height, format="rgb24", interpolation=SCALING, threads=1
            ).to_ndarray()
            given[side] = rgb
        return Scaled(pixels=given, way=orientation(frame))

    def _planes(self, frame: Any, width: int, height: int) -> Planes:
        """The frame as luma and chroma, in the colours of the first one."""
        if not frame.format.name.startswith("yuv"):  # grey, or RGB itself
            frame = frame.reformat(format="rgb24", interpolation=SCALING, threads=1)
        asked = {} if self.colour is None else {
            "dst_colorspace": self.colour[0], "dst_color_range": self.colour[1]
        }  # fmt: skip
        asked = asked if self.colour != (frame.colorspace, frame.color_range) else {}
        # What has full range by its old name keeps it.
        kind = "yuvj420p" if frame.format.name.startswith("yuvj") else "yuv420p"
        planar = frame.reformat(
            width=width, height=height, format=kind, interpolation=SCALING, threads=1, **asked
        )
        if self.colour is None:
            self.colour = planar.colorspace, planar.color_range
        luma, *chroma = (
            np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
            for plane in planar.planes
        )
        return Planes(luma=luma.copy(), chroma=np.stack(chroma))

    def layout(self, way: Way) -> Layout:
        """What the planes have in common, upright that way."""
        matrix, span = self.colour or (USUAL_MATRIX, 0)
        return Layout(
            matrix=matrix if matrix in MATRICES else USUAL_MATRIX,
            full=span == FULL_RANGE,
            mirrored=way[0],
            turns=way[1] % 4,
        )


def turned(rgb: UInt8[np.ndarray, "_ _ 3"], way: Way) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture upright."""
    mirrored, turns = way
    return np.rot90(rgb[:, ::-1] if mirrored else rgb, -turns)


def pixel_aspect(track: Track) -> Fraction:
    """Width of a pixel over its height; 1 where the file says nothing sensible."""
    # The library weighs what the container and the codec say.
    aspect = Fraction(track.stream.sample_aspect_ratio or 1)
    sensible = Fraction(1, 8) <= aspect <= 8 and abs(aspect - 1) >= Fraction(1, 100)
    return aspect if sensible else Fraction(1)


def scaled(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Width and height in the same proportion, with the short side at most `short_side`."""
    short = min(size)
    if short <= short_side:
        return size
    return max(1, round(size[0] * short_side / short)), max(1, round(size[1] * short_side / short))


def orientation(frame: Any) -> Way:
    """Whether to mirror a frame left to right, and then how many quarter turns clockwise it takes.

    A display matrix that is neither a quarter turn nor a mirrored one is broken: nothing is done.
    """
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.float64)
    size = max(abs(v) for v in (a, b, c, d))
    rotations = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
    for turns, (p, q, r, s) in enumerate(rotations):
        for mirrored, rotation in ((False, (p, q, r, s)), (True, (-p, -q, r, s))):
            if np.allclose((a, b, c, d), np.multiply(size, rotation), atol=size / 100) and size:
                return mirrored, turns
    return UPRIGHT
