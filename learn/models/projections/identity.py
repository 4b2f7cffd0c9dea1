"""The mean over standardised rows: nothing to learn."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.models.projections import Traits, mean_of_rows

TRAITS = Traits(of_means=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """There is nothing to set."""


class Identity(nn.Module):
    """The mean of a clip's rows, unchanged."""

    def __init__(self, dim_in: int) -> None:
        super().__init__()
        self.dim_out = dim_in

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B D"]:
        """The mean of each clip's rows."""
        return mean_of_rows(rows, mask)


def build(config: Config, dim_in: int) -> Identity:
    """The projection with these settings."""
    return Identity(dim_in)
