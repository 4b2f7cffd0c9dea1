"""The middle of every shot: one frame for what the camera saw between two cuts.

A cut is where the picture changes by at least `threshold` of full scale and by `contrast` times as
much as around it (so that fast motion is none); a shot shorter than `shortest_seconds` belongs to
the one before. Of more than `most` shots the longest are taken. Every frame is decoded to find the
cuts, so this costs what decoding the whole clip costs, and the frames wanted a second time.

Source: the ratio to the neighbourhood is that of adaptive detectors such as PySceneDetect's.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from extract.media.samplers import Footage, Sampler, SamplerSettings
from store.settings import setting

AROUND = 5  # frames on each side that say what is usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(SamplerSettings):
    """Settings of the sampler `shots`: what a cut is, and the number of frames."""

    threshold: float = setting(0.06, above=0, below=1)  # of full scale
    contrast: float = setting(3.0, at_least=1)
    shortest_seconds: float = setting(0.3, at_least=0)
    most: int = setting(32, at_least=1)  # frames a clip


def build(config: Config) -> Sampler:
    """The policy of a `Config`."""
    return _Shots(config)


class _Shots:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.identity = {
            "policy": "shots",
            "threshold": config.threshold,
            "contrast": config.contrast,
            "shortest_seconds": config.shortest_seconds,
            "most": config.most,
        }

    def __call__(self, footage: Footage) -> Int[np.ndarray, "T"]:
        cut = cuts(footage.changes(), self.config.threshold, self.config.contrast)
        starts = [0.0]
        for second in footage.seconds[cut]:
            if min(second - starts[-1], footage.duration - second) >= self.config.shortest_seconds:
                starts.append(float(second))
        edges = np.array([*starts, footage.duration])
        longest = np.argsort(-np.diff(edges), kind="stable")[: self.config.most]
        middles = (edges[:-1] + edges[1:]) / 2
        return footage.on_screen(middles[np.sort(longest)])

    def most_frames(self, seconds: float) -> int:
        return self.config.most


def cuts(
    changes: Float[np.ndarray, "N"], threshold: float, contrast: float
) -> Bool[np.ndarray, "N"]:
    """Mask of the frames that begin a shot, as far as the picture tells."""
    padded = np.pad(changes.astype(np.float64), AROUND)
    near = np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1)
    usual = (near.sum(axis=1) - changes) / (2 * AROUND)
    return (changes >= threshold) & (changes >= contrast * usual)
