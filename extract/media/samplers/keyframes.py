"""The key frames only: the cheapest frames there are, for each decodes without any other.

How many there are is the encoder's doing, one every few seconds as a rule and often one at a cut.
Of more than `most`, as many are taken, evenly spread. A piece in which none falls gives its first
frame.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from extract.media.samplers import Footage, Sampler, thinned
from store.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    most: int = 32  # frames a clip

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InputError(f"keyframes: most={self.most} must be at least 1")


def build(config: Config) -> Sampler:
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
