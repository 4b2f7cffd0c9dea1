"""The frames of a clip by decord, where that is safe and pays.

decord is fast at handing out every frame and wrong in many ways: it counts frames that are not to
be shown, loops for ever on some cuts, ignores mirrors and pixel aspects, skews odd widths, and
repeats frames that do not decode (the table is in docs/decoding.md). So packets are looked at
first (`not_for`), and what decord gives is held against what is known (`pictures`): the time of
every frame, and the pixels of the first. Only decode processes import it, never beside a GPU.

Shapes: H, W = pixels.
"""

import os
import re
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import UInt8

from extract.media.frames import (
    HDR,
    PART_BYTES,
    Pictures,
    Plan,
    Scaler,
    orientation,
    pixel_aspect,
    scaled,
)
from extract.media.packets import Media
from extract.media.stretches import decoded
from extract.media.track import Track
from extract.processes import child

DENSE = 0.75  # share of the frames from which on decord is faster, where none is scaled;
MANY = 100  # and how many they must be to make up for opening the file twice
CONTAINERS = ("mov", "matroska")
CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9")
FORMATS = ("yuv420p",)
MAX_DIFFERENCE = 4.0  # of 255, mean over the first frame, to PyAV's
# Time and source line of a message, and the name of the file: they differ from run to run.
_PLACE = re.compile(r"\[[\d:]+\] \S+:\d+: |\[/.*?\]\s*")
REPEAT_BYTES = 300  # a packet that only says "as before" is smaller
# decord's default, 10240, burns seconds at the end of a damaged file; at 128 every second good one
# is given up.
_EOF_RETRIES = "2048"


class Unfit(Exception):  # noqa: N818 (no error: PyAV takes over)
    """decord's answer cannot be trusted; the message says why."""


def not_for(
    media: Media, track: Track, plan: Plan, short_sides: tuple[int, ...], *, must: bool
) -> str:
    """The reason why not decord, or nothing. `must`: decord may also be slower than PyAV."""
    context = track.stream.codec_context
    size = (context.width, context.height)
    whole = len(plan.shown.timestamps) == len(track.packets)
    shrunk = any(scaled(size, side) != size for side in short_sides)
    reasons = {
        "few of the frames": plan.share < DENSE and not must,
        "few frames": len(plan.timestamps) < MANY and not must,
        "frames are scaled": shrunk and not must,
        "no decord here": find_spec("decord") is None,
        "several sizes": len(short_sides) != 1,
        "the container": not media.container.format.name.startswith(CONTAINERS),
        "the codec": context.name not in CODECS or context.pix_fmt not in FORMATS,
        "several video streams": len(media.container.streams.video) != 1,
        "pixels not square": pixel_aspect(track) != 1,
        "damage": bool(plan.damage),
        "time begins anew": bool(track.note),
        "frames not to be shown": not whole or not plan.shown.timed,
        "a negative time": whole and track.seconds(plan.shown.timestamps[0]) < 0,
        "a piece": whole and plan.shown.timestamps[0] != track.first_pts,
        "no key frame first": plan.shown.entries[0] != 0,
        "key frames that are none": plan.shown.misled,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def first_frame(track: Track, plan: Plan) -> tuple[Any, str]:
    """PyAV's first wanted frame, None if it does not decode, and what is damaged by then."""
    first, damage = decoded(
        track, plan.shown, plan.timestamps[:1], lambda frame: frame, plan.damage
    )
    return next(iter(first.values()), None), damage


def pictures(media: Media, track: Track, plan: Plan, short_side: int, first: Any) -> Pictures:
    """The wanted frames, held against their times and PyAV's first frame.

    Raises:
        Unfit: it raised, or what it gave is not what is in the file.
        Failure: REFUSED, a frame is too large.
    """
    timestamps = plan.timestamps
    if first is None:
        raise Unfit("the first frame does not decode")
    if orientation(first) != (False, 0) or first.color_trc in HDR:
        raise Unfit("rotated or HDR")
    scaler = Scaler(track, (short_side,))
    expected = scaler(first).pixels[short_side]
    assert isinstance(expected, np.ndarray)
    height, width, _ = expected.shape
    if len(timestamps) * expected.nbytes > 2 * PART_BYTES:
        raise Unfit("much memory")
    at = {timestamp: k for k, timestamp in enumerate(plan.shown.timestamps)}
    pixels, seconds = _read(media, (width, height), [at[timestamp] for timestamp in timestamps])
    half = _half_a_frame(track, plan)
    if np.any(np.abs(seconds - [track.seconds(s) for s in timestamps]) > half):
        raise Unfit("decord: wrong times")
    if pixels.shape != (len(timestamps), height, width, 3):
        raise Unfit(f"decord: shape {pixels.shape}")
    if np.abs(pixels[0].astype(np.int16) - expected).mean() > MAX_DIFFERENCE:
        raise Unfit("decord: wrong pixels")
    pairs = zip(pairwise(pixels), timestamps[1:], strict=True)
    if any(_repeated(track, plan, pair, timestamp) for pair, timestamp in pairs):
        raise Unfit("decord: a frame twice")  # which may stand for one that did not decode
    return Pictures(
        frames={
            timestamp: {short_side: frame}
            for timestamp, frame in zip(timestamps, pixels, strict=True)
        },
        decoder=f"decord ({plan.share:.0%} of the frames)",
        note=scaler.cropped,
        damage=plan.damage,
    )


def _repeated(
    track: Track, plan: Plan, pair: tuple[np.ndarray, np.ndarray], timestamp: int
) -> bool:
    """Whether a frame repeats the one before although its packet says something new."""
    if track.packets[plan.shown.at[timestamp]].size < REPEAT_BYTES:
        return False
    before, now = pair
    return np.array_equal(before[::8, ::8], now[::8, ::8]) and np.array_equal(before, now)


def _half_a_frame(track: Track, plan: Plan) -> float:
    gaps = np.diff([track.seconds(s) for s in plan.shown.timestamps])
    return float(gaps.min()) / 2 if len(gaps) else 0.5


def _read(
    media: Media, size: tuple[int, int], indices: list[int]
) -> tuple[UInt8[np.ndarray, "..."], np.ndarray]:
    """Pixels and times of these frames by decord."""
    child.risk("decord")  # some files make it loop for ever
    try:
        decord = _library()
        reader = decord.VideoReader(
            str(media.file.path),
            ctx=decord.cpu(0),
            width=size[0],
            height=size[1],
            num_threads=1,
            fault_tol=1,
        )
        seconds = reader.get_frame_timestamp(indices)[:, 0]
        return reader.get_batch(indices).asnumpy(), np.asarray(seconds, np.float64)
    except Exception as error:  # its errors have no common base
        message = _PLACE.sub("", str(error).strip().partition("\n")[0])[:80]
        raise Unfit(f"decord: {type(error).__name__} {message}".strip()) from None
    finally:
        child.risk("")


def _library() -> Any:
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", _EOF_RETRIES)  # read when the library is loaded
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord
