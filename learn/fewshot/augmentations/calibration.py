"""Distribution calibration: features drawn around each shot, with the spread of near base classes.

A shot x lends its place to a Gaussian whose mean is (x + the means of the `classes` nearest base
classes) / (classes + 1), and whose covariance is the mean of their covariances plus `alpha` in
every entry. Everything happens after Tukey's ladder, x ** `power`, where no number of the base is
below zero; what is drawn comes back down the ladder.

Source: Yang et al., ICLR 2021, "Free Lunch for Few-shot Learning: Distribution Calibration",
equations 3 to 7. A covariance is never written out: weights drawn for the clips of a class, times
their distances from its mean, have it. Each class draws `pool` such deviations, and features take
theirs from them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.augmentations import Base, Make, nearest
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the augmentation `calibration`; the defaults are published but for `count`."""

    count: int = setting(64, at_least=1)  # features for each class, shared by its shots
    classes: int = setting(2, at_least=1)  # base classes that lend their statistics
    alpha: float = setting(0.21, at_least=0)  # added to every entry of a covariance
    power: float = setting(0.5, above=0, at_most=1)
    pool: int = setting(256, at_least=1)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Distribution calibration with these settings."""

    config: Config

    def learn(self, base: Base, seed: int) -> Make:
        """Means and deviations of the base classes."""
        c = self.config
        power = c.power if bool((base.vectors >= 0).all()) else 1.0
        raised = Base(vectors=base.vectors**power, class_ids=base.class_ids)
        means = raised.means()
        generator = torch.Generator().manual_seed(seed)
        pools = deviations(raised, means, c.pool, generator)

        def make(support: Float[Tensor, "E N K D"]) -> Float[Tensor, "E N G D"]:
            shots = support.clamp_min(0) ** power if power < 1 else support
            near = nearest(shots, means, c.classes)  # E N K k
            of_each = near.shape[-1]
            mean = (shots + means[near].sum(-2)) / (of_each + 1)
            draws = torch.Generator().manual_seed(seed + 1)
            made = []
            for g in range(c.count):
                shot = g % support.shape[2]
                numbers = torch.randint(c.pool, (of_each,), generator=draws)
                everywhere = torch.randn((), generator=draws).item() * c.alpha**0.5
                spread = sum(pools[near[:, :, shot, i], numbers[i]] for i in range(of_each))
                made.append(mean[:, :, shot] + spread / of_each**0.5 + everywhere)
            found = torch.stack(made, 2)
            return found.clamp_min(0) ** (1 / power) if power < 1 else found

        return make


def deviations(
    base: Base, means: Float[Tensor, "C D"], count: int, generator: torch.Generator
) -> Float[Tensor, "C P D"]:
    """Draws of a Gaussian of mean 0 and each class's covariance, that of n - 1."""
    found = []
    for class_id, mean in enumerate(means):
        rows = base.vectors[torch.from_numpy(base.class_ids == class_id)] - mean
        weights = torch.randn(count, len(rows), generator=generator).to(rows)
        found.append(weights @ rows / max(1, len(rows) - 1) ** 0.5)
    return torch.stack(found)


def build(config: Config) -> Calibration:
    """The augmentation with these settings."""
    return Calibration(config)
