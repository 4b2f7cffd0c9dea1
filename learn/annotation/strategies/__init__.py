"""Strategies: which clips to label next, of those that are left.

Shapes: P = candidates, L = labelled clips, D = size of a vector, k = clips wanted.

Each plug-in offers `Config` and `build(config) -> Strategy`. A strategy knows neither labels nor
files: vectors of what was labelled and of what was not, and what the head makes of the latter.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

FAMILY = "learn.annotation.strategies"
DEFAULT = "uncertain_diverse"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Unit vectors of clips that are not labelled, of those that are, and how sure the head is."""

    vectors: Float[Tensor, "P D"]
    labelled: Float[Tensor, "L D"]
    # How much surer the head is of its best class than of the next, from 0 to 1; None: no head yet.
    margin: Float[Tensor, "P"] | None


@runtime_checkable
class Strategy(Protocol):
    """A way to choose clips."""

    def pick(
        self, candidates: Candidates, count: int, generator: torch.Generator
    ) -> Int64[Tensor, "k"]:
        """The positions of `count` candidates, or of all where there are fewer: first the one to
        be labelled first, no one twice."""
