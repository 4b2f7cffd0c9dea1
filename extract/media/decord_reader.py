"""The frames of a clip by decord, where that is safe and pays.

decord is fast at handing out every frame and wrong in many ways: it counts frames that are not to
be shown, loops for ever on some cuts, ignores mirrors and pixel aspects, skews odd widths, and
repeats frames that do not decode (the table is in docs/decoding.md). So it is doubted
(`doubted.py`). Only decode processes import it, never beside a GPU.
"""

import math
import os
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import UInt8

from extract.media import doubted
from extract.media.doubted import Unfit
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
from extract.media.track import Track
from extract.processes import child

DENSE = 0.75  # share of the frames from which on decord is faster, where none is scaled;
MANY = 100  # and how many they must be to make up for opening the file twice
MOST_BYTES = 128 << 20  # of frames: memory for more comes anew for each clip, and twice
CONTAINERS = ("mov", "matroska")
CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9")
# decord's default, 10240, burns seconds at the end of a damaged file; at 128 every second good one
# is given up.
_EOF_RETRIES = "2048"


def not_for(
    media: Media, track: Track, plan: Plan, short_sides: tuple[int, ...], *, must: bool
) -> str:
    """The reason why not decord, or nothing. `must`: decord may also be slower than PyAV."""
    context = track.stream.codec_context
    size = (context.width, context.height)
    shrunk = any(scaled(size, side) != size for side in short_sides)
    reasons = {
        "few of the frames": plan.share < DENSE and not must,
        "few frames": len(plan.timestamps) < MANY and not must,
        "frames are scaled": shrunk and not must,
        "many large frames": 3 * math.prod(size) * len(plan.timestamps) > MOST_BYTES and not must,
        "no decord here": find_spec("decord") is None,
        "several sizes": len(short_sides) != 1,
        "the container": not media.container.format.name.startswith(CONTAINERS),
        "the codec": context.name not in CODECS or context.pix_fmt not in doubted.FORMATS,
        "several video streams": len(media.container.streams.video) != 1,
        "pixels not square": pixel_aspect(track) != 1,
        **doubted.reasons(track, plan),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


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
    doubted.check(track, plan, expected, pixels, seconds, "decord")
    return Pictures(
        frames={
            timestamp: {short_side: frame}
            for timestamp, frame in zip(timestamps, pixels, strict=True)
        },
        decoder=f"decord ({plan.share:.0%} of the frames)",
        note=scaler.cropped,
        damage=plan.damage,
    )


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
        raise doubted.raised("decord", error) from None
    finally:
        child.risk("")


def _library() -> Any:
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", _EOF_RETRIES)  # read when the library is loaded
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord
