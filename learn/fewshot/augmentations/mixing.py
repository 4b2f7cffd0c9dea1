"""Mixing: features between a shot and another one of its class, or a base clip near it.

A feature is l x + (1 - l) y, of two vectors of one modality; l is drawn from Beta(`beta`, `beta`).
With several shots y is another shot of the class in `share` of the draws; else it is one of the
`near` base clips nearest to x, and l is 1/2 or more, so that the feature stays the shot's.

Source: Zhang et al., ICLR 2018, "mixup: Beyond Empirical Risk Minimization", equation 1, between
features (Verma et al., ICML 2019, "Manifold Mixup") and within a class.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.augmentations import Base, Make, nearest
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the augmentation `mixing`."""

    count: int = setting(32, at_least=1)  # features for each class
    beta: float = setting(1.0, above=0)
    share: float = setting(0.5, at_least=0, at_most=1)  # of features between two shots
    near: int = setting(16, at_least=1)  # base clips


@dataclass(frozen=True, slots=True)
class Mixing:
    """Mixing with these settings."""

    config: Config

    def learn(self, base: Base, seed: int) -> Make:
        """Keep the base clips: they are looked up by nearness."""
        c = self.config

        def make(support: Float[Tensor, "E N K D"]) -> Float[Tensor, "E N G D"]:
            shots = support.shape[2]
            rng = np.random.default_rng(seed)
            near = nearest(support, base.vectors, c.near)
            made = []
            for g in range(c.count):
                own, of_shots = rng.beta(c.beta, c.beta), rng.random() < c.share
                first, step, place = g % shots, rng.random(), rng.random()
                x = support[:, :, first]
                if of_shots and shots > 1:
                    y = support[:, :, (first + 1 + int(step * (shots - 1))) % shots]
                else:
                    y = base.vectors[near[:, :, first, int(place * near.shape[-1])]]
                    own = max(own, 1 - own)
                made.append(own * x + (1 - own) * y)
            return torch.stack(made, 2)

        return make


def build(config: Config) -> Mixing:
    """The augmentation with these settings."""
    return Mixing(config)
