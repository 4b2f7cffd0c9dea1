"""Layers and losses shared by the objectives of audio-visual zero-shot learning.

Shapes: B = clips of a batch, C = classes, W = size of a class text, E = embedding size.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from learn.fewshot.mode_pairs import MODE_OF
from learn.training.objectives import Batch
from learn.training.objectives._pairs import dice, same_class


def block(size_in: int, size_out: int, *, dropout: float, momentum: float = 0.1) -> nn.Sequential:
    """A linear layer, batch norm, ReLU, dropout."""
    return nn.Sequential(
        nn.Linear(size_in, size_out),
        nn.BatchNorm1d(size_out, momentum=momentum),
        nn.ReLU(),
        nn.Dropout(dropout),
    )


def two_layers(size_in: int, hidden: int, size_out: int, *, dropout: float) -> nn.Sequential:
    """A block, then a linear layer."""
    return nn.Sequential(block(size_in, hidden, dropout=dropout), nn.Linear(hidden, size_out))


def plain_layers(size_in: int, hidden: int, size_out: int) -> nn.Sequential:
    """Two linear layers with a ReLU between them."""
    return nn.Sequential(nn.Linear(size_in, hidden), nn.ReLU(), nn.Linear(hidden, size_out))


def of_another_class(batch: Batch) -> tuple[Int[Tensor, "B"], Bool[Tensor, "B"]]:
    """A clip of another class for each clip, drawn from the step's seed; and which have one."""
    different = ~same_class(batch.labels)
    drawn = dice(batch).masked_fill(~different, -1.0)
    return drawn.argmax(1), different.any(1)


def triplets(
    anchor: Float[Tensor, "B E"],
    positive: Float[Tensor, "B E"],
    negative: Float[Tensor, "B E"],
    *,
    margin: float,
) -> Float[Tensor, "B"]:
    """max(0, |a - p| - |a - n| + margin) of each row."""
    return (distances(anchor, positive) - distances(anchor, negative) + margin).relu()


def by_distance(
    embeddings: Mapping[str, Float[Tensor, "V E"]], names: Float[Tensor, "C E"]
) -> dict[str, Float[Tensor, "V C"]]:
    """Minus the Euclidean distance of each output from each name, by mode."""
    return {MODE_OF[name]: -torch.cdist(x, names) for name, x in embeddings.items()}


def mean_where(costs: Float[Tensor, "B"], mask: Bool[Tensor, "B"]) -> Float[Tensor, ""]:
    """The mean of the costs in the mask; 0 if there are none."""
    return torch.where(mask, costs, 0.0).sum() / mask.sum().clamp_min(1)


def distances(left: Float[Tensor, "B E"], right: Float[Tensor, "B E"]) -> Float[Tensor, "B"]:
    """Euclidean distances, with a gradient where two points are one."""
    return (left - right).square().sum(1).clamp_min(1e-12).sqrt()
