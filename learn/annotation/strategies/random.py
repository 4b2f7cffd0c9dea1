"""Any clip, each as likely as another: what other strategies are held against."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from learn.annotation.strategies import Candidates, Strategy
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """It has no settings."""


class Random:
    """Looks at nothing."""

    def pick(
        self, candidates: Candidates, count: int, generator: torch.Generator
    ) -> Int64[Tensor, "k"]:
        """Positions drawn without putting back."""
        return torch.randperm(len(candidates.vectors), generator=generator)[:count]


def build(config: Config) -> Strategy:
    """Build the strategy."""
    return Random()
