"""Clips that the head can hardly decide about, and that do not look like each other.

A clip counts the more the smaller the margin of its two best classes, and the less the nearer it is
to one picked just before. Those labelled already need no such distance: the head knows them. Before
there is a head, clips that stand for many others come first.

Source: Scheffer et al., 2001 (margin); Brinker, 2003, "Incorporating diversity in active learning
with support vector machines" (uncertainty against likeness within a batch); Settles and Craven,
2008 (information density).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from learn.annotation.strategies import Candidates, Strategy
from store.settings import Settings, setting

LOOKED_AT = 2000  # candidates, drawn anew for each pick, that a first clip stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """How much likeness counts."""

    distance: float = setting(0.5, at_least=0, main=True)  # a power; 0: the margin alone decides


class UncertainDiverse:
    """The least sure first, each far from those before it."""

    def __init__(self, distance: float) -> None:
        self._distance = distance

    def pick(
        self, candidates: Candidates, count: int, generator: torch.Generator
    ) -> Int64[Tensor, "k"]:
        """Positions, greedily."""
        count = min(count, len(candidates.vectors))
        if candidates.margin is None:
            return _standing_for_many(candidates, count, generator)
        x, worth = candidates.vectors, (1 - candidates.margin).clamp_min(0)
        # Nothing decides between equals but chance.
        worth = worth + 1e-6 * torch.rand(len(worth), generator=generator)
        apart = torch.ones_like(worth)
        left = torch.ones(len(worth), dtype=torch.bool)
        picked = torch.empty(count, dtype=torch.int64)
        for i in range(count):
            value = (worth * apart**self._distance).masked_fill(~left, -1)
            picked[i] = value.argmax()
            left[picked[i]] = False
            apart = torch.minimum(apart, (1 - x @ x[picked[i]]).clamp(0, 1))
        return picked


def _standing_for_many(
    candidates: Candidates, count: int, generator: torch.Generator
) -> Int64[Tensor, "k"]:
    """Clips that are near many that no clip so far is near (facility location)."""
    drawn = torch.randperm(len(candidates.vectors), generator=generator)[:LOOKED_AT]
    x: Float[Tensor, "_ D"] = candidates.vectors[drawn]
    near = x @ x.T
    covered = torch.zeros(len(x))
    if len(candidates.labelled):
        covered = (x @ candidates.labelled.T).amax(1).clamp_min(0)
    left = torch.ones(len(x), dtype=torch.bool)
    picked: list[int] = []
    for _ in range(min(count, len(x))):
        gain = (near - covered).clamp_min(0).sum(1).masked_fill(~left, -1)
        picked.append(int(gain.argmax()))
        left[picked[-1]] = False
        covered = torch.maximum(covered, near[picked[-1]])
    rest = torch.randperm(len(candidates.vectors), generator=generator)
    found = drawn[torch.tensor(picked, dtype=torch.int64)]
    more = rest[~torch.isin(rest, found)][: count - len(found)]
    return torch.cat([found, more])


def build(config: Config) -> Strategy:
    """Build the strategy."""
    return UncertainDiverse(config.distance)
