"""A fixed number of frames a clip, at the centres of equal segments.

Source: Wang et al., Temporal Segment Networks, 2016 (the rule for testing). A frame that stays on
screen for several segments is taken for each of them, so every clip has the same number of rows.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from extract.media.samplers import Footage, Sampler, SamplerSettings
from store.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(SamplerSettings):
    """Settings of the sampler `uniform`."""

    frames: int = setting(8, at_least=1, main=True)


def build(config: Config) -> Sampler:
    """The policy of a `Config`."""
    return _Uniform(config.frames)


class _Uniform:
    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.identity = {"frames": frames}

    def __call__(self, footage: Footage) -> Int[np.ndarray, "T"]:
        return footage.on_screen((np.arange(self.frames) + 0.5) * (footage.duration / self.frames))

    def most_frames(self, seconds: float) -> int:
        return self.frames
