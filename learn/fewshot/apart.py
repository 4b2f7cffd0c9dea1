"""Classes that nobody asks about, and how likely weights of senses make what is known of them.

Shapes: as in `learn.fewshot.fusions`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from learn.data.clips import Clips
from learn.fewshot.fusions.weighted import likelihood_of_queries
from learn.fewshot.heads import Context, Head
from learn.fewshot.modes import Pair
from learn.fewshot.tasks import Episodes

AT_ONCE = 10  # episodes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Apart:
    """Classes that nobody asks about, as a fusion's views show them."""

    clips: Clips
    pairs: Sequence[Pair]
    contexts: Callable[[Head], Sequence[Context]]
    unseen: bool = True  # by the training of the vectors, if there was any


@torch.inference_mode()
def likelihood(
    head: Head,
    apart: Apart,
    draw: Episodes,
    sides: Sequence[Sequence[float]] | None = None,
) -> Float[Tensor, "G T"]:
    """The mean log likelihood of a query's class, on the grid of weights (of senses, or of `sides`
    that are mixtures of them) and sharpnesses."""
    contexts, total = apart.contexts(head), None
    truth = torch.from_numpy(np.ascontiguousarray(draw.targets)).long()
    for first in range(0, len(draw), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        support, query = (
            torch.from_numpy(np.ascontiguousarray(of[part])).long()
            for of in (draw.support, draw.query)
        )
        shots = [pair.support[support] for pair in apart.pairs]
        queries = [pair.query[query] for pair in apart.pairs]
        found = likelihood_of_queries(head, shots, queries, contexts, truth, sides)
        of_part = found.double().sum(0)
        total = of_part if total is None else total + of_part
    assert total is not None
    return total / (len(draw) * len(truth))
