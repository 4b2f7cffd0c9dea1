"""Stacks of a clip's frames: where each begins, and what fills one that a clip is too short for.

Shapes: N = frames of the clip as they were sampled, R = stacks, T = frames of a stack, H, W =
pixels.
"""

import numpy as np
from jaxtyping import Int64, UInt8

from extract.media.clip import DETAIL_LENGTH


def starts(frames: int, stack: int, hop: int) -> Int64[np.ndarray, "R"]:
    """The first frame of every stack: every `hop` frames, and one more that ends with the clip
    where some frames are left over. A clip that is shorter than a stack has one."""
    last = max(0, frames - stack)
    found = np.arange(0, last + 1, hop, dtype=np.int64)
    return found if found[-1] == last else np.append(found, last)


def stacked(
    pixels: UInt8[np.ndarray, "N H W 3"], start: int, stack: int
) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of one stack; the clip's last frame is held where it has too few."""
    return pixels[np.minimum(np.arange(start, start + stack), len(pixels) - 1)]


def lacking(detail: str, frames: int, stack: int) -> str:
    """The detail of a clip, which says if its last frame had to be held."""
    if frames >= stack:
        return detail
    told = f"{frames} of {stack} frames of a stack: the last one is held"
    return "; ".join(filter(None, (detail, told)))[:DETAIL_LENGTH]
