"""Sampling of clips: a policy of `extract/media/samplers` within the first seconds of a clip."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int

from extract.media.samplers import Footage, Sampler
from store import plugins
from store.errors import InputError

FAMILY = "extract.media.samplers"
MAX_ROWS = 65_535  # a clip's row count is stored as uint16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """`fps` frames a second, or `frames` frames a clip, or the policy of a SPEC (`sample`), within
    the first `max_seconds`. T = frames wanted.

    Raises:
        InputError: not exactly one of the three, or a value out of bounds.
        UnknownPlugin, UnknownSetting, ConfigError: a SPEC that names no policy.
    """

    fps: float | None = None
    frames: int | None = None
    sample: str | None = None
    max_seconds: float = 30.0
    sampler: Sampler = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = [v for v in (self.fps, self.frames, self.sample) if v is not None]
        if len(given) != 1:
            raise InputError(f"give one of fps, frames and sample, not {len(given)} of them")
        if not 0 < self.max_seconds <= 3600:
            raise InputError(f"max_seconds={self.max_seconds} must be above 0 and at most 3600")
        spec = self._short() if self.sample is None else plugins.parse_spec(self.sample, FAMILY)
        object.__setattr__(self, "sampler", plugins.build(FAMILY, spec))
        if (most := self.sampler.most_frames(self.max_seconds)) > MAX_ROWS:
            raise InputError(
                f"{self._spec()} wants up to {most} frames of max_seconds={self.max_seconds:g}; "
                f"at most {MAX_ROWS} can be stored"
            )

    def _short(self) -> plugins.Spec:
        if self.fps is not None:
            return plugins.Spec("fps", {"rate": self.fps})
        return plugins.Spec("uniform", {"frames": self.frames})

    def _spec(self) -> str:
        return self.sample or (f"fps={self.fps:g}" if self.fps else f"frames={self.frames}")

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that decides which frames are taken, as JSON."""
        return {**self.sampler.identity, "max_seconds": self.max_seconds}

    def most_frames(self) -> int:
        """The most frames that a clip may give."""
        return self.sampler.most_frames(self.max_seconds)

    def __call__(self, footage: Footage) -> Int[np.ndarray, "T"]:
        """Indices of the frames that the policy picks, within the first seconds of a clip."""
        return self.sampler(footage.until(self.max_seconds))


def sampling(
    *,
    fps: float | None = None,
    frames: int | None = None,
    sample: str | None = None,
    max_seconds: float = 30.0,
    usual: Callable[[], float] = lambda: 1.0,
) -> Sampling:
    """The sampling that these options mean; `usual` frames a second if they say nothing."""
    fps = usual() if fps is None and frames is None and sample is None else fps
    return Sampling(fps=fps, frames=frames, sample=sample, max_seconds=max_seconds)
