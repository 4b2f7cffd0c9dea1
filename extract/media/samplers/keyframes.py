"""The key frames only: the cheapest frames there are, for each decodes without any other.

How many there are is the encoder's doing, one every few seconds as a rule and often one at a cut.
Of more than `most`, as many are taken, evenly spread. A piece in which none falls gives its first
frame.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from extract.media.samplers import Footage, Sampler, SamplerSettings, thinned
from store.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(SamplerSettings):
    """Settings of the sampler `keyframes`."""

    most: int = setting(32, at_least=1, main=True)  # frames a clip


def build(config: Config) -> Sampler:
    """The policy of a `Config`."""
    return _KeyFrames(config.most)


class _KeyFrames:
    def __init__(self, most: int) -> None:
        self.most = most
        self.identity = {"policy": "keyframes", "most": most}

    def __call__(self, footage: Footage) -> Int[np.ndarray, "T"]:
        keys = np.flatnonzero(footage.key)
        return thinned(keys, self.most) if len(keys) else np.zeros(1, np.int64)

    def most_frames(self, seconds: float) -> int:
        return self.most
