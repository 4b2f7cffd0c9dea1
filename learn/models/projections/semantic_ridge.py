"""Ridge regression from a clip's mean row to the vector of its class's name: solved, not learnt.

    y = W L2(sign(x)·|x|^power - centre),   W = argmin sum_c mean_c |W u - t_c|^2 + a r |W|^2

u are the clips of class c, t_c the vector of its name at length 1 less the mean of the names', each
class counts the same, and r is the mean eigenvalue of what is regressed on, so that the penalty `a`
means the same for features of any size. A clip lands near the name of its class, and near those of
classes whose names mean something alike, also where no clip of these was seen: which is what makes
names one more sense (`learn/fewshot/guard.py`). `learn/training/name_regression.py` solves it.

Shapes: D = stored size, E = size of a name's vector, V = clips of training, C = classes.

Source: linear semantic output codes (Palatucci et al., 2009); the name's space as in ESZSL
(Romera-Paredes and Torr, 2015), whose second penalty changed nothing here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from learn.models.projections import Traits
from learn.models.projections._solved import Solved
from store.settings import Settings, setting

TRAITS = Traits(closed_form=True, texts=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the projection."""

    # same: as the vectors of class names have; it is settled before a training begins
    dim_out: int = setting(0, at_least=0, words={"same": 0})
    penalty: float = setting(20.0, above=0)  # in mean eigenvalues of the clips' second moment


class SemanticRidge(Solved):
    """A fixed linear map of a clip's mean row into the space of names."""

    def __init__(self, config: Config, dim_in: int) -> None:
        super().__init__(dim_in, config.dim_out or dim_in, 1.0)
        self.penalty = config.penalty

    def solve(
        self,
        means: Float[Tensor, "V D"],
        classes: Int[Tensor, "V"],
        texts: Float[Tensor, "C E"],
        power: float,
    ) -> None:
        """Take the map from these clips to the vectors of their classes' names, row by class id."""
        self.power.fill_(power)
        self.settle(means)
        units = self.units(means).double()
        share = 1 / torch.bincount(classes, minlength=len(texts)).clamp_min(1).double()[classes]
        weighed = units * share[:, None]
        moment = units.T @ weighed
        moment.diagonal().add_(self.penalty * moment.diagonal().mean().clamp_min(1e-30))
        solved = torch.linalg.solve(moment, weighed.T @ texts.double()[classes])
        self.matrix.copy_(solved.T)


def build(config: Config, dim_in: int) -> SemanticRidge:
    """The projection with these settings."""
    return SemanticRidge(config, dim_in)
