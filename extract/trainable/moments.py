"""Looks at moments that are drawn anew: shares of a clip's length.

Shapes: N = frames of the clip, T = frames wanted.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from extract.media.samplers import Footage


@dataclass(frozen=True, slots=True)
class Moments:
    """The frames on screen at these shares of a clip, one for each, which must not fall."""

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.shares or list(self.shares) != sorted(self.shares):
            raise ValueError(f"moments {self.shares} are none, or fall")
        if not 0 <= self.shares[0] <= self.shares[-1] < 1:
            raise ValueError(f"moments {self.shares} are not shares of a clip")

    def __call__(self, footage: Footage) -> Int[np.ndarray, "T"]:
        """Indices of the frames, as many as moments."""
        seconds = np.array(self.shares) * footage.duration
        return np.concatenate([footage.on_screen(seconds[i : i + 1]) for i in range(len(seconds))])
