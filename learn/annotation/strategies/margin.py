"""The clips that the head can least decide about: the smallest margin of its two best classes.

Before there is a head, any clip. Clips that look alike are as uncertain as each other, so several
picked at once repeat each other; `uncertain_diverse` does not.

Source: Scheffer et al., 2001, "Active hidden Markov models for information extraction" (margin).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from learn.annotation.strategies import Candidates, Strategy
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """It has no settings."""


class Margin:
    """The least sure first."""

    def pick(
        self, candidates: Candidates, count: int, generator: torch.Generator
    ) -> Int64[Tensor, "k"]:
        """Positions by margin; equals in random order."""
        order = torch.randperm(len(candidates.vectors), generator=generator)
        if candidates.margin is not None:
            order = order[candidates.margin[order].argsort(stable=True)]
        return order[:count]


def build(config: Config) -> Strategy:
    """Build the strategy."""
    return Margin()
