"""Stacks of a clip's frames: where each begins, and what fills one that a clip is too short for.

Shapes: N = frames of a clip, R = stacks, T = frames of a stack, H, W = pixels.
"""

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from extract.media.clip import DETAIL_LENGTH


def starts(frames: int, stack: int, hop: int) -> Int64[np.ndarray, "R"]:
    """The first frame of every stack: every `hop` frames, and one more that ends with the clip
    where some frames are left over. A clip that is shorter than a stack has one."""
    last = max(0, frames - stack)
    found = np.arange(0, last + 1, hop, dtype=np.int64)
    return found if found[-1] == last else np.append(found, last)


def stacked(frames: int, start: int, stack: int) -> Int64[np.ndarray, "T"]:
    """Which frames are in one stack; the clip's last frame is held where it has too few."""
    return np.minimum(np.arange(start, start + stack), frames - 1)


def all_stacks(
    frames: Shaped[Tensor, "N H W 3"], stack: int, hop: int
) -> Shaped[Tensor, "R T H W 3"]:
    """All stacks of a clip, of frames that a network at rest is given at once."""
    first = starts(len(frames), stack, hop).tolist()
    return torch.stack([frames[stacked(len(frames), start, stack)] for start in first])


def lacking(detail: str, frames: int, stack: int) -> str:
    """The detail of a clip, which says if its last frame had to be held."""
    if frames >= stack:
        return detail
    told = f"{frames} of {stack} frames of a stack: the last one is held"
    return "; ".join(filter(None, (detail, told)))[:DETAIL_LENGTH]
