"""One modality's way into the common space: standardise the stored rows, then project.

Shapes: B = clips, T = rows (padded), D = stored size, E = embedding size.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.data.streaming import Stored
from learn.models.projections import Projection
from store import plugins


class Standardiser(nn.Module):
    """Mean and deviation of the training rows, so that features of any scale train alike. A
    dimension that never varied passes unscaled."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim_in: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("deviation", torch.ones(dim_in))

    def standardised(self, rows: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        return rows.sub(self.mean).div_(self.deviation)  # one new array, not two

    def measure(self, rows: Stored) -> None:
        """Take mean and deviation from these rows, in double precision and two passes."""
        count = int(rows.counts.sum())
        nothing = torch.zeros(rows.dim, dtype=torch.float64, device=rows.device)
        mean = sum((part.double().sum(0) for part in rows.pieces()), nothing) / count
        square = sum(((part.double() - mean).square().sum(0) for part in rows.pieces()), nothing)
        deviation = (square / count).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))


class Tower(Standardiser):
    """A projection behind the mean and deviation of its training rows."""

    def __init__(self, projection: plugins.Spec, dim_in: int) -> None:
        super().__init__(dim_in)
        self.projection: Projection = plugins.build("learn.models.projections", projection, dim_in)

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        return self.projection(self.standardised(rows), mask, seconds)
