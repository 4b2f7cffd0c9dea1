"""Pairs of vectors of a batch, and random numbers that follow clips, not their positions.

Shapes: B = clips of a batch, E = embedding size, K = draws for each clip.
"""

from collections.abc import Iterator
from itertools import permutations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learn.data.devices import sent
from learn.training.objectives import Batch


def crossings(batch: Batch) -> Iterator[tuple[str, Float[Tensor, "B E"], Float[Tensor, "B E"]]]:
    """Every ordered pair of different outputs; or the only output with itself."""
    names = list(batch.embeddings)
    for left, right in permutations(names, 2) if len(names) > 1 else [(names[0], names[0])]:
        yield f"{left}_{right}", batch.embeddings[left], batch.embeddings[right]


def same_class(labels: Int[Tensor, "B"]) -> Bool[Tensor, "B B"]:
    """A mask of pairs of clips of one known class, and of every clip with itself."""
    same = (labels[:, None] == labels) & (labels >= 0)
    return same | torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def by_clip(batch: Batch, drawn: Tensor) -> Tensor:
    """Random rows by clip, so that a clip keeps its own wherever it stands in the batch."""
    rank = batch.clips.argsort(stable=True).argsort(stable=True)
    return sent(drawn, batch.clips.device)[rank]


def dice(batch: Batch) -> Float[Tensor, "B B"]:
    """A number in 0..1 for every pair of clips, from the step's seed."""
    drawn = torch.rand(len(batch), len(batch), generator=batch.generator())
    return by_clip(batch, by_clip(batch, drawn).T).T


def others(
    batch: Batch, count: int, total: int, spared: Int[Tensor, "B P"] | None = None
) -> Int[Tensor, "B K"]:
    """Clips of the training split, drawn uniformly for each clip of the batch, never itself and
    none of those that are `spared`; of all, for a clip of another split."""
    if total < 2:
        return torch.zeros(len(batch), 0, dtype=torch.long, device=batch.clips.device)
    itself = batch.clips[:, None]
    drawn = torch.rand(len(batch), count, generator=batch.generator(), dtype=torch.float64)
    drawn = by_clip(batch, drawn)
    never = itself if spared is None else torch.cat([itself, spared], dim=1).sort(1).values
    again = F.pad(never[:, 1:] == never[:, :-1], (1, 0))
    none = total + never.shape[1]  # in the place of a clip named twice
    never = never.masked_fill(again | (itself < 0), none).sort(1).values
    choices = total - (never < total).sum(1, keepdim=True)
    indices = (drawn * choices).long()
    # The i-th clip never drawn is stepped over by all that would be at its place or behind it.
    steps = torch.arange(never.shape[1], device=never.device)
    return indices + torch.searchsorted((never - steps).contiguous(), indices, right=True)
