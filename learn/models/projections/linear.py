"""The mean over rows, then one matrix: the baseline every other projection must beat.

With `residual` the matrix starts at zero and adds to what is stored (`_residual.py`): before the
first step clips are as alike as their stored rows are, and `penalty` times the matrix's squared
size is the price of leaving that.

Source: the penalty, ProLIP (Fahes et al., 2024).
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.models.projections import Traits, mean_of_rows
from learn.models.projections._residual import Start
from store.settings import Settings, setting

TRAITS = Traits(of_means=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the projection."""

    # same: as many as the rows have; of several modalities, the sum
    dim_out: int = setting(0, at_least=0, words={"same": 0})
    residual: bool = True
    dropout: float = setting(0.2, at_least=0, below=1)  # of what the matrix sees
    penalty: float = setting(0.0, at_least=0)  # of the squared size of what is added


class Linear(nn.Module):
    """One linear layer over the mean of a clip's rows, or the same beside the rows themselves."""

    def __init__(self, config: Config, dim_in: int) -> None:
        super().__init__()
        self.dim_out = config.dim_out or dim_in
        self.penalty = config.penalty
        self.dropout = nn.Dropout(config.dropout)
        self.matrix = nn.Linear(dim_in, self.dim_out, bias=False)
        self.start = (
            Start(dim_in, self.dim_out, identity=not config.dim_out) if config.residual else None
        )
        if self.start:
            nn.init.zeros_(self.matrix.weight)

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        """The mean of each clip's rows, through one matrix."""
        mean = mean_of_rows(rows, mask)
        learnt = self.matrix(self.dropout(mean))
        return learnt if self.start is None else self.start(mean) + learnt

    def distance(self) -> Float[Tensor, ""]:
        """The squared size of what is added to the start."""
        return self.matrix.weight.square().sum()


def build(config: Config, dim_in: int) -> Linear:
    """The projection with these settings."""
    return Linear(config, dim_in)
