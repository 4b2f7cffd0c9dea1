"""Which frames to look at: pure planning from times to indices. Knows no file.

Shapes: N = frames of the clip in presentation order, T = frames wanted.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from store.errors import InputError

MAX_ROWS = 65_535  # a clip's row count is stored as uint16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """When to look: `fps` looks a second, or `frames` looks a clip, within the first `max_seconds`.

    Looks fall on bin centres, so that none lands on the ambiguous edge of a frame.

    Raises:
        InputError: not exactly one of `fps` and `frames`, or a value out of bounds.
    """

    fps: float | None = None
    frames: int | None = None
    max_seconds: float = 30.0

    def __post_init__(self) -> None:
        if (self.fps is None) == (self.frames is None):
            raise InputError(f"give fps or frames, not {'both' if self.fps else 'neither'}")
        if not 0 < self.max_seconds <= 3600:
            raise InputError(f"max_seconds={self.max_seconds} must be above 0 and at most 3600")
        if self.fps is not None and not 0 < self.fps * self.max_seconds <= MAX_ROWS:
            most = MAX_ROWS / self.max_seconds
            raise InputError(
                f"fps={self.fps} must be above 0 and at most {most:.0f} for this max_seconds"
            )
        if self.frames is not None and not 1 <= self.frames <= MAX_ROWS:
            raise InputError(f"frames={self.frames} must be between 1 and {MAX_ROWS}")

    def wanted_seconds(self, duration: float) -> Float[np.ndarray, "T"]:
        """The moments to look at in a clip of `duration` seconds; at least one, all inside it.

        At `fps` F: (k + 0.5) / F, or the middle of a clip too short for the first of them.
        With `frames` N: the centres of N equal segments.
        """
        if not duration > 0:
            raise ValueError(f"duration is {duration} s; only a clip that lasts can be sampled")
        duration = min(duration, self.max_seconds)
        if self.frames is not None:
            return (np.arange(self.frames) + 0.5) * (duration / self.frames)
        assert self.fps is not None
        centres = (np.arange(np.ceil(duration * self.fps) + 1) + 0.5) / self.fps
        inside = centres[centres < duration]
        return inside if len(inside) else np.array([duration / 2])

    def __call__(self, times: Float[np.ndarray, "N"], duration: float) -> Int[np.ndarray, "T"]:
        """Index of the frame on screen at each wanted moment; it repeats where a frame stays."""
        return on_screen(times, self.wanted_seconds(duration))


def on_screen(
    times: Float[np.ndarray, "N"], wanted: Float[np.ndarray, "T"]
) -> Int[np.ndarray, "T"]:
    """Index of the last frame shown at or before each wanted time; the first frame before that.

    Nothing is assumed of the frame rate, so clips with a variable one come out right.
    """
    if not len(times) or np.any(np.diff(times) < 0):
        raise ValueError("presentation times must be given, and in order")
    return np.maximum(np.searchsorted(times, wanted, side="right") - 1, 0)
