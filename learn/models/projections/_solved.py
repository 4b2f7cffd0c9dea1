"""What projections that are solved have in common: one linear map of a clip's mean row.

    y = W L2(sign(x)·|x|^power - centre)

Shapes: B = clips, T = rows (padded), D = stored size, E = embedding size, V = clips of training.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.models.projections import mean_of_rows


class Solved(nn.Module):
    """A fixed linear map of a clip's mean row; its first numbers until it is solved."""

    centre: Tensor
    matrix: Tensor
    power: Tensor

    def __init__(self, dim_in: int, dim_out: int, power: float) -> None:
        super().__init__()
        self.dim_out = dim_out
        self.register_buffer("centre", torch.zeros(dim_in))
        self.register_buffer("matrix", torch.eye(dim_out, dim_in))
        self.register_buffer("power", torch.tensor(power))

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        """The map of each clip's mean row."""
        return self.mapped(mean_of_rows(rows, mask))

    def mapped(self, means: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """The map of these means."""
        return self.units(means) @ self.matrix.T

    def units(self, means: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Means to the power, centred and of length 1."""
        return F.normalize(self.powered(means) - self.centre, dim=-1)

    def powered(self, means: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """sign(x)·|x|^power."""
        return means.sign() * means.abs() ** self.power

    def settle(self, means: Float[Tensor, "V D"]) -> None:
        """Take the centre from these clips."""
        self.centre.copy_(self.powered(means).mean(0))
