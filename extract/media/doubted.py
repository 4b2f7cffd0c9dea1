"""Frames of a library that is not believed: held against packets and PyAV's first frame.

Other decoders are fast at handing out every frame and wrong in many ways (docs/decoding.md). So
packets are looked at first (`reasons`), and what the library gives is held against what is known
(`check`): the time of every frame, and the pixels of the first.

Shapes: T = frames wanted, H, W = pixels.
"""

import re
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from extract.media.frames import Plan
from extract.media.stretches import decoded
from extract.media.track import Track

FORMATS = ("yuv420p",)
MAX_DIFFERENCE = 4.0  # of 255, mean over the first frame, to PyAV's
REPEAT_BYTES = 300  # a packet that only says "as before" is smaller
# Time and source line of a message, and the name of the file: they differ from run to run.
_PLACE = re.compile(r"\[[\d:]+\] \S+:\d+: |\[/.*?\]\s*|/\S+:\d+, ")


class Unfit(Exception):  # noqa: N818 (no error: PyAV takes over)
    """The library's answer cannot be trusted; the message says why."""


def reasons(track: Track, plan: Plan) -> dict[str, bool]:
    """What speaks against any library that finds frames by itself, and whether it holds."""
    whole = len(plan.shown.timestamps) == len(track.packets)
    return {
        "damage": bool(plan.damage),
        "time begins anew": bool(track.note),
        "frames not to be shown": not whole or not plan.shown.timed,
        "a negative time": whole and track.seconds(plan.shown.timestamps[0]) < 0,
        "a piece": whole and plan.shown.timestamps[0] != track.first_pts,
        "no key frame first": plan.shown.entries[0] != 0,
        "key frames that are none": plan.shown.misled,
    }


def first_frame(track: Track, plan: Plan) -> tuple[Any, str]:
    """PyAV's first wanted frame, None if it does not decode, and what is damaged by then."""
    first, damage = decoded(
        track, plan.shown, plan.timestamps[:1], lambda frame: frame, plan.damage
    )
    return next(iter(first.values()), None), damage


def check(
    track: Track,
    plan: Plan,
    expected: UInt8[np.ndarray, "H W 3"],
    pixels: UInt8[np.ndarray, "..."],
    seconds: Float64[np.ndarray, "..."],
    name: str,
) -> None:
    """Nothing, if these may be the wanted frames; `expected` is PyAV's first one.

    Raises:
        Unfit: times, shape or the first frame are others, or a frame stands for the next one.
    """
    timestamps = plan.timestamps
    gaps = np.diff([track.seconds(s) for s in plan.shown.timestamps])
    half = float(gaps.min()) / 2 if len(gaps) else 0.5
    known = np.array([track.seconds(s) for s in timestamps])
    if seconds.shape != known.shape or np.any(np.abs(seconds - known) > half):
        raise Unfit(f"{name}: wrong times")
    if pixels.shape != (len(timestamps), *expected.shape):
        raise Unfit(f"{name}: shape {pixels.shape}")
    if np.abs(pixels[0].astype(np.int16) - expected).mean() > MAX_DIFFERENCE:
        raise Unfit(f"{name}: wrong pixels")
    pairs = zip(pairwise(pixels), timestamps[1:], strict=True)
    if any(_repeated(track, plan, pair, timestamp) for pair, timestamp in pairs):
        raise Unfit(f"{name}: a frame twice")  # which may stand for one that did not decode


def raised(name: str, error: Exception) -> Unfit:
    """What a library raised, in one short line without places."""
    message = _PLACE.sub("", str(error).strip().partition("\n")[0])[:80]
    return Unfit(f"{name}: {type(error).__name__} {message}".strip())


def _repeated(
    track: Track, plan: Plan, pair: tuple[np.ndarray, np.ndarray], timestamp: int
) -> bool:
    """Whether a frame repeats the one before although its packet says something new."""
    if track.packets[plan.shown.at[timestamp]].size < REPEAT_BYTES:
        return False
    before, now = pair
    return np.array_equal(before[::8, ::8], now[::8, ::8]) and np.array_equal(before, now)
