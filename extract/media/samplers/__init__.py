"""Samplers: which frames of a clip to look at, one policy a file.

Each plug-in offers `Config` and `build(config)`, which gives a `Sampler`. A sampler is pure: it
sees the times of the frames, which of them are key frames, and, if it asks, how much the picture
changes; it knows no file. It answers with indices of frames, at least one, in order; a frame may
come twice.

Shapes: N = frames of the clip in presentation order, T = frames wanted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from store.errors import ConfigError, InputError
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Footage:
    """Facts of a clip before its frames are decoded; times are seconds of the clip.

    `changes` decodes every frame, small: the mean difference to the frame before, from 0 (the same)
    to 1 (black to white); 0 for the first. Ask for it only where nothing cheaper will do.
    """

    seconds: Float64[np.ndarray, "N"]  # when each frame appears
    duration: float  # when the last one goes
    key: Bool[np.ndarray, "N"]  # frames that decode without any other
    changes: Callable[[], Float[np.ndarray, "N"]]
    gone: Float64[np.ndarray, "N"] | None = None  # when each frame is no longer to be looked at

    def __post_init__(self) -> None:
        if not len(self.seconds) == len(self.key) > 0 or np.any(np.diff(self.seconds) < 0):
            raise ValueError("presentation times must be given, and in order")
        if not self.duration > 0:
            raise ValueError(f"duration is {self.duration} s; only a clip that lasts has frames")

    def until(self, second: float) -> "Footage":
        """The clip cut off at that second."""
        if second >= self.duration:
            return self
        count = max(1, int(np.searchsorted(self.seconds, second)))
        return Footage(
            seconds=self.seconds[:count],
            duration=second,
            key=self.key[:count],
            changes=lambda: self.changes()[:count],
            gone=None if self.gone is None else self.gone[:count],
        )

    def on_screen(self, moments: Float[np.ndarray, "_"]) -> Int[np.ndarray, "T"]:
        """Index of the frame on screen at each moment; the first frame before it appears.

        Nothing is assumed of the frame rate, so clips with a variable one come out right. Moments
        at which frames are missing are left out, unless it is all of them.
        """
        index = np.maximum(np.searchsorted(self.seconds, moments, side="right") - 1, 0)
        if self.gone is None:
            return index
        there = moments < self.gone[index]
        return index[there] if there.any() else index[:1]


@runtime_checkable
class Sampler(Protocol):
    """A policy; its `identity` is part of the feature's digest."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that decides which frames it picks, as JSON."""
        ...

    def __call__(self, footage: Footage) -> Int[np.ndarray, "T"]:
        """Indices of the frames to look at."""

    def most_frames(self, seconds: float) -> int:
        """The most frames that it may want of a clip of that length."""
        ...


class SamplerSettings(Settings):
    """Base of a sampler's `Config`: how to look at clips is what the user handed us.

    Raises:
        InputError: names the setting, its value and its bounds.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        try:
            Settings.__post_init__(self)
        except ConfigError as error:
            raise InputError(str(error)) from None


def thinned(chosen: Int[np.ndarray, "T"], most: int) -> Int[np.ndarray, "_"]:
    """At most `most` of the indices: those in the middle of as many equal groups."""
    if len(chosen) <= most:
        return chosen
    return chosen[((np.arange(most) + 0.5) * (len(chosen) / most)).astype(np.int64)]
