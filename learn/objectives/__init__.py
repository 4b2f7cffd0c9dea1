"""Objectives: what a batch of embeddings costs.

Shapes: B = clips, E = embedding size.

Each plug-in offers `Config`, `build(config, scene)` and `SUPERVISED`: must every clip have a label?
An objective is an `nn.Module`: parameters it owns (a classifier) are trained with the projections
and saved beside them, as are its buffers. The cost is a function of the batch and of that state,
and computing it changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What an objective may know before the first batch."""

    modalities: tuple[str, ...]
    dim: int  # of every embedding
    classes: int
    clips: int  # in the training split


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Row i of everything belongs to one clip."""

    embeddings: Mapping[str, Float[Tensor, "B E"]]  # per modality, as the projections gave them
    labels: Int[Tensor, "B"]  # class codes; -1: unknown
    clips: Int[Tensor, "B"]  # positions in the training split

    def __post_init__(self) -> None:
        sizes = {len(self.labels), len(self.clips), *(len(x) for x in self.embeddings.values())}
        if len(sizes) != 1:
            raise ValueError(f"a batch of one size has parts of {sorted(sizes)}")


@runtime_checkable
class Objective(Protocol):
    """The mean cost of a batch; right pairings cost less than wrong ones."""

    def __call__(self, batch: Batch) -> Float[Tensor, ""]: ...
