"""The mean over rows, whitened by how clips of one class differ: solved, not learnt.

    y = W L2(sign(x)·|x|^power - centre),   W = ((1 - a) S / t + a I)^(-1/2)

S is the covariance within the classes of training, t the mean of its diagonal, and `a` how far it
is shrunk towards the identity: 1 changes nothing. Directions in which clips of one class differ
count less. `learn/training/closed_form.py` solves it.

Shapes: B = clips, T = rows (padded), D = stored size, E = embedding size, V = clips of training.

Source: linear discriminant analysis with shrinkage (Friedman, 1989); the power, Yang et al., 2021.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from learn.models.projections import Traits
from learn.models.projections._solved import Solved
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(closed_form=True)
SHRINKAGES = (1.0, 0.8, 0.5, 0.2)  # that are tried, in this order


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the projection."""

    # same: as many as the rows have; of several modalities, the sum
    dim_out: int = setting(0, at_least=0, words={"same": 0})
    # 1: rows as they are, which is also what is done where the power is surely worse
    power: float = setting(0.5, above=0, at_most=1)


class Whiten(Solved):
    """A fixed linear map of a clip's mean row; the identity until it is solved."""

    shrinkage: Tensor

    def __init__(self, config: Config, dim_in: int) -> None:
        super().__init__(dim_in, config.dim_out or dim_in, config.power)
        if self.dim_out < dim_in:
            raise ConfigError(
                f"whiten: dim_out={self.dim_out} is less than the {dim_in} of the rows; use same"
            )
        self.register_buffer("shrinkage", torch.ones(()))

    def solve(
        self, means: Float[Tensor, "V D"], classes: Int[Tensor, "V"]
    ) -> tuple[Float[Tensor, "D"], Float[Tensor, "D D"]]:
        """Centre at these clips; the eigenvalues of S / t and their vectors, in columns."""
        self.settle(means)
        units = self.units(means).double()
        _, of_clip, sizes = torch.unique(classes, return_inverse=True, return_counts=True)
        sums = units.new_zeros(len(sizes), units.shape[1]).index_add_(0, of_clip, units)
        apart = units - (sums / sizes[:, None])[of_clip]
        within = apart.T @ apart / max(1, len(units) - len(sizes))
        values, vectors = torch.linalg.eigh(within / within.diagonal().mean().clamp_min(1e-30))
        return values.clamp_min(0), vectors

    def place(
        self,
        values: Float[Tensor, "D"],
        vectors: Float[Tensor, "D D"],
        shrinkage: float,
        first: int,
    ) -> None:
        """Take the map of this shrinkage, into the dimensions from `first` on."""
        self.matrix.zero_()
        self.matrix[first : first + len(values)] = map_of(values, vectors, shrinkage)
        self.shrinkage.fill_(shrinkage)


def map_of(
    values: Float[Tensor, "D"], vectors: Float[Tensor, "D D"], shrinkage: float
) -> Float[Tensor, "D D"]:
    """W of these eigenvalues and vectors; the identity itself for 1."""
    if shrinkage == 1:
        return torch.eye(len(values))
    scales = ((1 - shrinkage) * values + shrinkage).rsqrt()
    return ((vectors * scales) @ vectors.T).float()


def build(config: Config, dim_in: int) -> Whiten:
    """The projection with these settings."""
    return Whiten(config, dim_in)
