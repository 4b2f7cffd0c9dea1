"""Encoders small enough to run in a test, and a run that can be killed."""

import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from extract.media.sampling import Sampling
from extract.pipeline.options import Options
from extract.pipeline.progress import Watch
from extract.pipeline.run import run

OPTIONS = {field.name for field in fields(Options)}
WATCH = {field.name for field in fields(Watch)}


class Frames:
    """Every frame as 32x32, through a small convolution; the row depends on every pixel."""

    name, slug, modality, dim, short_side = "fake-frames", "fake-frames", "visual", 6, 32

    def __init__(self, seed=0, pause=0.0):
        generator = torch.Generator().manual_seed(seed)
        self.kernel = torch.randn(6, 3, 5, 5, generator=generator) / 9
        self.mix = torch.randn(6, 6, generator=generator)
        self.identity, self.notes = {"network": "fake", "seed": seed}, {"licence": "none"}
        self.pause = pause

    def preprocess(self, x):
        x = x.permute(0, 3, 1, 2).float() / 255
        return torch.nn.functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)

    def forward(self, x):
        time.sleep(self.pause)
        return torch.nn.functional.conv2d(x, self.kernel, stride=2).relu().mean((2, 3)) @ self.mix

    def __call__(self, x):
        return self.forward(self.preprocess(x))


class Windows:
    """Loudness and crossings of every half second of sound."""

    name, slug, modality, dim, sample_rate = "fake-windows", "fake-windows", "audio", 2, 8000
    window_seconds, hop_seconds = 0.5, 0.5

    def __init__(self):
        self.identity, self.notes = {"network": self.slug}, {}

    def window_starts_seconds(self, samples):
        return np.arange(max(1, samples // 4000)) * 0.5

    def preprocess(self, x):
        x = torch.nn.functional.pad(x, (0, max(0, 4000 - x.shape[1])))
        return x.unfold(1, 4000, 4000).flatten(0, 1)

    def forward(self, x):
        return torch.stack([x.square().mean(1), (x.diff(dim=1).sign().abs()).mean(1)], 1)

    def __call__(self, x):
        return self.forward(self.preprocess(x))


class Whole(Windows):
    """One row over the whole sound, whatever its length."""

    slug, window_seconds = "fake-whole", 0.0

    def window_starts_seconds(self, samples):
        return np.zeros(1)

    def preprocess(self, x):
        return x


def quick(manifest, directory, **given):
    """A run on two decode processes in small units; what is not an option is `run`'s own."""
    options = {"workers": 2, "clips_per_unit": 4, "batch_size": 4, "device": "cpu"}
    rest, watch = {"visual": [Frames()], "sampling": Sampling(fps=4.0)}, {}
    for name, value in given.items():
        (options if name in OPTIONS else watch if name in WATCH else rest)[name] = value
    return run(manifest, directory, options=Options(**options), watch=Watch(**watch), **rest)


if __name__ == "__main__":  # a run that another process can kill
    quick(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        visual=[Frames(pause=0.05)],
        audio=[Windows()],
        workers=1,
        clips_per_unit=3,
    )
