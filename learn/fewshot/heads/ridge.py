"""Ridge regression on one-hot targets with a free intercept, solved for all episodes at once.

Minimises the squared error plus alpha times the squared weights. The weights lie in the span of the
centred shots, so one Cholesky factor of S x S an episode is all there is to solve; of one support
with more clips than numbers the same weights are solved in D x D.

Not scale-free with normalise=false and unit=false: alpha is held against squared lengths as they
are.

Source: Saunders et al., 1998 (dual form); Bertinetto et al., 2019 (as a few-shot head).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict, PredictFromProducts, fit_by_products
from learn.fewshot.heads._transform import Transform, Transforms, transformed
from store.errors import ConfigError
from store.settings import setting

CLIPS_AT_ONCE = 4096
MANY = 2048  # clips of one support: below, S x S is solved in no time


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `ridge`."""

    alpha: float = setting(1.0, above=0, main=True)
    normalise: bool = False  # scale every vector to length 1 first
    unit: bool = False  # the same, every modality weighing the same


class Ridge:
    """Ridge regression onto one-hot targets."""

    transductive = False
    centred_by = "none"  # the intercept's centring changes no answer
    by_products = True
    scale_free = False  # but for vectors brought to one length
    ragged = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Solve the regression from the shots' inner products, leaving out padding."""
        clips = support.shape[1] * support.shape[2]
        if len(support) == 1 and clips > max(MANY, support.shape[-1]):
            return self._by_numbers(support, context)
        if context.mask is None:
            return fit_by_products(self, support, context)
        nothing, flat = support.new_zeros(0, support.shape[-1]), support.flatten(1, 2)
        shots = self.embed(flat.flatten(0, 1), nothing, context)[0].view(flat.shape)
        predict = self._solved(shots @ shots.mT, support.shape[1], context.mask.flatten(1))

        def of_queries(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            q = self.embed(nothing, query.flatten(0, 1), context)[1].view(query.shape)
            return predict(q @ shots.mT, q.square().sum(-1))

        return of_queries

    def _by_numbers(self, support: Float[Tensor, "1 N K D"], context: Context) -> Predict:
        """The same weights by their own normal equations, D x D."""
        origin = 0 if context.origin is None else context.origin
        flat, ways = support[0].flatten(0, 1), support.shape[1]
        labels = torch.arange(ways, device=flat.device).repeat_interleave(support.shape[2])
        if context.mask is not None:
            known = context.mask[0].flatten()
            flat, labels = flat[known], labels[known]
        count = torch.bincount(labels, minlength=ways).double()
        sums = flat.new_zeros(ways, flat.shape[1], dtype=torch.float64)
        scatter = flat.new_zeros(flat.shape[1], flat.shape[1], dtype=torch.float64)
        for first in range(0, len(flat), CLIPS_AT_ONCE):
            some = flat[first : first + CLIPS_AT_ONCE].double() - origin
            sums.index_add_(0, labels[first : first + CLIPS_AT_ONCE], some)
            scatter.addmm_(some.mT, some)
        mean, share = sums.sum(0) / count.sum(), count / count.sum()
        scatter = scatter - count.sum() * mean[:, None] * mean
        scatter.diagonal().add_(self.config.alpha)
        wanted = (sums - count[:, None] * mean).mT  # less the means, which the intercept has
        weights = torch.linalg.solve(scatter, wanted)

        def of_queries(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            return (query.double() - origin - mean) @ weights + share

        return of_queries

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Vectors less the origin."""
        if context.origin is None:  # a free intercept makes translation harmless
            return support, query
        return support - context.origin, query - context.origin

    def fit_products(self, products: Float[Tensor, "E S S"], ways: int) -> PredictFromProducts:
        """Coefficients of the shots in dual form; returns the function that scores queries.

        Raises:
            ConfigError: alpha is so small beside the products that rounding hides it.
        """
        return self._solved(products, ways, None)

    def _solved(
        self, products: Float[Tensor, "E S S"], ways: int, mask: Bool[Tensor, "E S"] | None
    ) -> PredictFromProducts:
        """Coefficients and intercepts; padded shots weigh 0 in every mean, so their coefficients
        are 0."""
        kernel = products.double()
        clips = kernel.shape[-1]
        target = torch.eye(ways, dtype=kernel.dtype, device=kernel.device)
        target_SN = target.repeat_interleave(clips // ways, dim=0)
        present_E1S = kernel.new_ones(1, 1, clips) if mask is None else mask[:, None].double()
        weight_E1S = present_E1S / present_E1S.sum(-1, keepdim=True)
        share_E1N = weight_E1S @ target_SN
        mean_E1S = kernel.mean(1, keepdim=True) if mask is None else weight_E1S @ kernel
        centred = kernel - mean_E1S - mean_E1S.mT + (mean_E1S * weight_E1S).sum(-1, keepdim=True)
        if mask is not None:
            centred = centred * present_E1S * present_E1S.mT
        # Along 1 there is nothing to solve; some weight there keeps rounding from going negative.
        along_ones = centred.diagonal(dim1=1, dim2=2).mean(-1) / clips
        centred = centred + along_ones[:, None, None] * present_E1S * present_E1S.mT
        centred.diagonal(dim1=1, dim2=2).add_(self.config.alpha)
        factor, failed = torch.linalg.cholesky_ex(centred)
        if bool(failed.any()):
            raise ConfigError(
                f"ridge: alpha={self.config.alpha} is lost in rounding beside squared lengths up "
                f"to {float(products.max()):.3g}; raise alpha or set normalise=true"
            )
        wanted = ((target_SN - share_E1N) * present_E1S.mT).expand(len(kernel), -1, -1)
        a = torch.cholesky_solve(wanted, factor)  # its columns sum to zero
        b = share_E1N - mean_E1S @ a

        def predict(
            query: Float[Tensor, "E M S"], square: Float[Tensor, "E M"]
        ) -> Float[Tensor, "E M N"]:
            # Of short vectors all scores are 1 / N and a little, which single precision rounds off.
            return query.double() @ a + b

        return predict


def build(config: Config) -> Head:
    """The head that these settings describe."""
    length = "unit" if config.unit else "whole" if config.normalise else ""
    transform = Transform(power=config.power, centre=config.centre, length=length)
    return transformed(Ridge(config), transform)
