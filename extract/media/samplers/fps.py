"""A fixed number of frames a second, at the centres of equal bins: `(k + 0.5) / rate` seconds.

A look never lands on the ambiguous edge of a frame, and stands for its whole bin. A clip too short
for the first look is looked at in its middle.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from extract.media.samplers import Footage, Sampler, SamplerSettings
from store.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(SamplerSettings):
    """Settings of the sampler `fps`."""

    rate: float = setting(1.0, above=0, at_most=1000, main=True)  # looks a second


def build(config: Config) -> Sampler:
    """The policy of a `Config`."""
    return _Fps(config.rate)


class _Fps:
    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.identity = {"fps": rate}

    def __call__(self, footage: Footage) -> Int[np.ndarray, "T"]:
        return footage.on_screen(moments(footage.duration, self.rate))

    def most_frames(self, seconds: float) -> int:
        return int(np.ceil(seconds * self.rate)) + 1


def moments(duration: float, rate: float) -> Float[np.ndarray, "T"]:
    """Seconds at which to look; at least one."""
    centres = (np.arange(np.ceil(duration * rate) + 1) + 0.5) / rate
    inside = centres[centres < duration]
    return inside if len(inside) else np.array([duration / 2])
