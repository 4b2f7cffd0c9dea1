"""Augmentations: features that are made for the support of an episode, from what base classes show.

Shapes: W = clips of base classes, C = base classes, E = episodes, N = ways, K = shots, G = features
made for a class, D = size of a vector.

Each plug-in offers `Config` and `build(config) -> Augmentation`. `learn(base, seed)` looks at the
base classes once and gives a function of supports; whatever is drawn is drawn there, so that a
class gets the same features whichever episodes are made together with its own. A head then learns
from shots and features alike (`AugmentedHead`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict

FAMILY = "learn.fewshot.augmentations"
Make = Callable[[Float[Tensor, "E N K D"]], Float[Tensor, "E N G D"]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Base:
    """Clips of classes that no episode asks about; two classes at least, of two clips or more."""

    vectors: Float[Tensor, "W D"]
    class_ids: Int64[np.ndarray, "W"]  # 0 to C - 1

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.class_ids.max()) + 1

    def means(self) -> Float[Tensor, "C D"]:
        """The mean of each class."""
        ids = torch.from_numpy(self.class_ids).to(self.vectors.device)
        sums = self.vectors.new_zeros(self.classes, self.vectors.shape[1])
        sums.index_add_(0, ids, self.vectors)
        return sums / torch.bincount(ids, minlength=self.classes)[:, None]


@runtime_checkable
class Augmentation(Protocol):
    """A way to make features."""

    def learn(self, base: Base, seed: int) -> Make:
        """Look at the base classes; returns what makes features of a support."""


@dataclass(slots=True, kw_only=True, eq=False)
class AugmentedHead:
    """A head that learns from the shots and from what is made of them."""

    head: Head
    make: Make
    transductive: bool = field(init=False)  # as of the head, like the next
    centred_by: str = field(init=False)
    scale_free: bool = field(default=False, init=False)  # what is made need not be

    def __post_init__(self) -> None:
        self.transductive, self.centred_by = self.head.transductive, self.head.centred_by

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Learn from the support and what is made of it."""
        return self.head.fit(torch.cat([support, self.make(support)], 2), context)


def nearest(points: Float[Tensor, "E N K D"], others: Float[Tensor, "W D"], count: int) -> Tensor:
    """Indices `[E, N, K, count]` of the others that are nearest to each point, nearest first."""
    flat = points.flatten(0, 2)
    distances = torch.cdist(flat, others, compute_mode="use_mm_for_euclid_dist")
    found = distances.topk(min(count, len(others)), largest=False).indices
    return found.reshape(*points.shape[:3], -1)
