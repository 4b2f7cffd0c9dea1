"""A memory bank: a unit vector for every clip of the training split, of each modality.

Row i is clip i, whatever the order of the epochs. The vectors take no gradient; after each step
those of the batch move towards the embeddings that gave it. `z` is the constant of binary NCE, the
mean of exp(similarity / temperature) over the negatives of the first step, nan before it. Bank and
constant are buffers: checkpointed, and written into the run.

Shapes: B = clips of a batch, V = clips of the training split, E = embedding size, K = negatives,
P = positives.

Source: Wu et al., 2018; Morgado et al., 2021 (AVID).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from learn.training.objectives import Batch, ObjectiveContext


class Bank(nn.Module):
    """Remembered vectors, at first random directions, the same for every seed of the training."""

    z: Tensor

    def __init__(self, outputs: Mapping[str, int], clips: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, dim in outputs.items():
            rows = torch.randn(clips, dim, generator=generator)
            self.register_buffer(name, F.normalize(rows, dim=-1))
        self.register_buffer("z", torch.tensor(torch.nan))

    def of(self, name: str) -> Float[Tensor, "V E"]:
        """The remembered vectors of one output."""
        rows: Tensor = self.get_buffer(name)
        return rows

    @torch.no_grad()
    def move(self, batch: Batch, momentum: float | Mapping[str, Tensor]) -> None:
        """m <- norm(momentum m + (1 - momentum) z) for the clips of the batch; the momentum may be
        another one for each output."""
        known = batch.clips >= 0
        indices = batch.clips[known]
        for name, x in batch.embeddings.items():
            share = momentum if isinstance(momentum, float) else momentum[name]
            self.of(name)[indices] = moved(self.of(name)[indices], x.detach()[known], share)

    def positives(
        self, batch: Batch, name: str, momentum: Float[Tensor, ""] | None = None
    ) -> Float[Tensor, "B E"]:
        """The remembered vectors of the batch's clips, moved already where a momentum is given; the
        present ones for another split's."""
        live = F.normalize(batch.embeddings[name].detach(), dim=-1)
        known = (batch.clips >= 0)[:, None]
        remembered = self.of(name)[batch.clips.clamp_min(0)]
        if momentum is not None:
            remembered = moved(remembered, live, momentum)
        return torch.where(known, remembered, live)


def moved(
    remembered: Float[Tensor, "B E"], fresh: Float[Tensor, "B E"], momentum: float | Tensor
) -> Float[Tensor, "B E"]:
    """norm(momentum m + (1 - momentum) norm z)."""
    rows = momentum * remembered + (1 - momentum) * F.normalize(fresh, dim=-1)
    return F.normalize(rows, dim=-1)


def claim(context: ObjectiveContext) -> Bank:
    """The training's one bank, of this stage or an earlier one."""
    _ = context.dim  # vectors of one size
    return context.state("bank", lambda: Bank(context.outputs, context.clips))


def similarities(
    anchor: Float[Tensor, "B E"], rows: Float[Tensor, "V E"], indices: Int[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """Cosines of each anchor with its own choice of the bank's rows."""
    unit = F.normalize(anchor, dim=-1)
    if rows.shape[0] <= 4 * indices.shape[1]:  # all products cost less than the rows of the choice
        return (unit @ rows.T).gather(1, indices)
    return torch.einsum("be,bke->bk", unit, rows[indices])


def softmax_nce(
    positive: Float[Tensor, "B P"], negative: Float[Tensor, "B K"]
) -> Float[Tensor, "B"]:
    """-log of each positive's share of itself and all negatives, as a mean over positives."""
    rest = negative.logsumexp(1, keepdim=True)
    return (torch.logaddexp(positive, rest) - positive).mean(1)


def binary_nce(
    positive: Float[Tensor, "B P"], negative: Float[Tensor, "B K"], z: Float[Tensor, ""]
) -> Float[Tensor, "B"]:
    """-log P(true | positive) - sum_k log P(noise | negative_k), as a mean over positives.

    P(true | s) = e^s / (e^s + K Z), after Gutmann and Hyvärinen, 2010.
    """
    noise = (negative.shape[1] * z).log()
    return F.softplus(noise - positive).mean(1) + F.softplus(negative - noise).sum(1)
