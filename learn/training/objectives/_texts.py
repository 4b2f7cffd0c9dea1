"""What the objectives of audio-visual zero-shot learning share: towers of texts, triplets of rows.

Shapes: B = clips of a batch, C = classes, W = size of a class text, E = embedding size.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

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


def text_and_back(
    width: int, hidden: int, dim: int, *, dropout: float
) -> tuple[nn.Sequential, nn.Sequential]:
    """From a class text into the space, and from the space to the text."""
    text = nn.Sequential(block(width, hidden, dropout=dropout), nn.Linear(hidden, dim))
    back = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width))
    return text, back


def of_another_class(batch: Batch) -> tuple[Int[Tensor, "B"], Bool[Tensor, "B"]]:
    """For each clip one of another class, drawn from the step's seed; and whether there is one."""
    other = ~same_class(batch.labels)
    drawn = dice(batch).masked_fill(~other, -1.0)
    return drawn.argmax(1), other.any(1)


def triplets(
    anchor: Float[Tensor, "B E"],
    positive: Float[Tensor, "B E"],
    negative: Float[Tensor, "B E"],
    *,
    margin: float,
) -> Float[Tensor, "B"]:
    """max(0, |a - p| - |a - n| + margin) of each row."""
    return (distances(anchor, positive) - distances(anchor, negative) + margin).relu()


def mean_where(costs: Float[Tensor, "B"], there: Bool[Tensor, "B"]) -> Float[Tensor, ""]:
    """The mean of those that are there; 0 of none."""
    return torch.where(there, costs, 0.0).sum() / there.sum().clamp_min(1)


def distances(left: Float[Tensor, "B E"], right: Float[Tensor, "B E"]) -> Float[Tensor, "B"]:
    """Euclidean, with a gradient where two points are one."""
    return (left - right).square().sum(1).clamp_min(1e-12).sqrt()
