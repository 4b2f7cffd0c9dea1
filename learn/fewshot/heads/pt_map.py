"""PT-MAP: class means and an optimal assignment of the queries, in turns (transductive).

Vectors are raised to the power beta and scaled to length 1; each side loses its own mean and is
scaled again. Then, `steps` times: Sinkhorn's plan from squared distances, exp(-lmd d^2) scaled
until each query gives 1 and each class takes M / N, and a move of the class means by the share
alpha towards the means weighted by that plan. The scores are the plan after the last move.

The plan takes for granted that every class has as many queries as the others. So the head refuses a
number of queries that N does not divide, and episodes whose sampling does not promise balance
(`Context.balanced`).

Means are kept as weights of the clips, so a step needs their inner products only. The power keeps
the sign of negative entries, which the paper's features (after a ReLU) do not have.

Not scale-free: 1e-6 is added to every entry before the power, as published, which is nothing for
entries about 1 and everything for entries below it.

Defaults: beta = 0.5, lmd = 10, and the published code's alpha = 0.2 and 20 steps.

Source: Hu et al., 2021 (power transform and MAP).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict
from learn.fewshot.heads._points import (
    centred_sides,
    fit_by_gram,
    inverse_root,
    shot_labels,
    with_means,
)
from learn.fewshot.heads._transform import Transform, transformed
from store.errors import ConfigError
from store.settings import Settings, setting

EPSILON = 1e-6  # added before the power, as published
SINKHORN_STEPS = 1000
TOLERANCE = 1e-6  # of what a query gives, between two Sinkhorn steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the head `pt_map`."""

    beta: float = setting(0.5, above=0)
    lmd: float = setting(10.0, above=0)  # the paper's lambda
    alpha: float = setting(0.2, above=0, at_most=1)
    steps: int = setting(20, at_least=0)


class PTMAP:
    """Power transform, and class centres found by optimal transport."""

    transductive = True
    scale_free = False
    by_gram = True
    centred_by = "episode"

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Keep the support: means and plan need the queries too (Hu et al., 2021)."""
        return fit_by_gram(self, support, context)

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Vectors as they are.

        Raises:
            ConfigError: classes may not have equally many queries.
        """
        if not context.balanced:
            raise ConfigError(
                "pt_map needs equally many queries of each class, and these episodes do not "
                "promise it; draw balanced queries or use another head"
            )
        return support, query

    def from_gram(
        self, gram: Float[Tensor, "E T T"], ways: int, shots: int
    ) -> Float[Tensor, "E M N"]:
        """The transport plan of the queries after the last move of the class means.

        Raises:
            ConfigError: the number of queries is no multiple of the classes.
        """
        clips = ways * shots
        queries = gram.shape[-1] - clips
        if queries % ways:
            raise ConfigError(
                f"pt_map needs equally many queries of each class, and {queries} queries are no "
                f"multiple of {ways} classes; draw balanced queries or use another head"
            )
        products = self._centred(gram, clips)
        square = products.diagonal(dim1=1, dim2=2)[:, None, clips:]
        target = shot_labels(gram, ways, shots)[:, :clips].expand(len(gram), -1, -1)
        mean = torch.cat([target / shots, gram.new_zeros(len(gram), ways, queries)], -1)
        for _ in range(self.config.steps):
            estimate = torch.cat([target, self._plan(mean, products, square)], -1)
            estimate = estimate / estimate.sum(-1, keepdim=True)
            mean = mean.lerp(estimate, self.config.alpha)
        return self._plan(mean, products, square).mT

    def _centred(self, gram: Float[Tensor, "E T T"], clips: int) -> Float[Tensor, "E T T"]:
        """The products less both sides' means, at length 1; 0 where only rounding is left."""
        centred = centred_sides(gram, clips)
        left = centred.diagonal(dim1=1, dim2=2)
        rounding = 32 * torch.finfo(gram.dtype).eps * gram.diagonal(dim1=1, dim2=2)
        scale = inverse_root(left.masked_fill(left <= rounding, 0))
        return scale[..., None] * centred * scale[:, None]

    def _plan(
        self,
        mean: Float[Tensor, "E N T"],
        products: Float[Tensor, "E T T"],
        square: Float[Tensor, "E 1 M"],
    ) -> Float[Tensor, "E N M"]:
        with_mean, square_of_mean = with_means(mean, products)
        cost = square_of_mean[..., None] + square - 2 * with_mean[..., -square.shape[-1] :]
        return _sinkhorn((-self.config.lmd * cost.clamp_min(0)).exp())


def _sinkhorn(plan: Float[Tensor, "E N M"]) -> Float[Tensor, "E N M"]:
    """The plan scaled until each query gives 1 and each class takes M / N."""
    ways, queries = plan.shape[1:]
    plan = plan / plan.sum((1, 2), keepdim=True)
    given = plan.sum(1, keepdim=True)
    settled = torch.zeros_like(given[..., :1], dtype=torch.bool)
    for _ in range(SINKHORN_STEPS):
        new = plan / given
        new = new * (queries / ways / new.sum(2, keepdim=True))
        now = new.sum(1, keepdim=True)
        plan = torch.where(settled, plan, new)
        settled = settled | ((now - given).abs() <= TOLERANCE).all(2, keepdim=True)
        if bool(settled.all()):
            break
        given = plan.sum(1, keepdim=True)
    return plan


def build(config: Config) -> Head:
    """The head that these settings describe."""
    transform = Transform(power=config.beta, floor=EPSILON, length="unit")
    return transformed(PTMAP(config), transform)
