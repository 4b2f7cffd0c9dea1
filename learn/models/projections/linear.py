"""The mean over rows, then one matrix: the baseline every other projection must beat."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.models.projections import mean_of_rows
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the projection."""

    dim_out: int = setting(128, at_least=1)


class Linear(nn.Module):
    """One linear layer over the mean of a clip's rows."""

    def __init__(self, config: Config, dim_in: int) -> None:
        super().__init__()
        self.dim_out = config.dim_out
        self.matrix = nn.Linear(dim_in, config.dim_out, bias=False)

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        """The mean of each clip's rows, through one matrix."""
        return self.matrix(mean_of_rows(rows, mask))


def build(config: Config, dim_in: int) -> Linear:
    """The projection with these settings."""
    return Linear(config, dim_in)
