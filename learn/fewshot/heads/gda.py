"""Gaussian discriminant analysis: one covariance for all classes, estimated from the shots.

    score of class k = w_k . x - w_k . mean_k / 2,  w_k = P mean_k
    P = D pinv((n - 1) C + tr(C) I), C the covariance of n shots around their class means

Nothing of D by D is made. With B = products of shots, A = queries by shots, T = what is left of
shots after their class means, R = T B T and t = tr(R) / (n - 1), products under t P / D are
B - B T (t I + R)^-1 T B and A - A T (t I + R)^-1 T B, and prototypes of these are the answer. With
one shot a class, or where shots of a class are equal, there is no covariance: it is prototypes.

Source: Wang et al., ICLR 2024 (a hard-to-beat baseline for training-free CLIP adaptation), with
equal priors of classes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict, PredictFromProducts, fit_by_products
from learn.fewshot.heads._transform import Transform, Transforms, transformed


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `gda`."""

    unit: bool = False  # scale each modality's part to one length


class GDA:
    """Classes as Gaussians of one covariance."""

    transductive = False
    centred_by = "none"
    scale_free = True  # the covariance is held against its own trace
    by_products = True

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Estimate means and covariance from the shots' inner products."""
        return fit_by_products(self, support, context)

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Vectors less the origin: only differences from means count."""
        if context.origin is None:
            return support, query
        return support - context.origin, query - context.origin

    def fit_products(self, products: Float[Tensor, "E S S"], ways: int) -> PredictFromProducts:
        """Means and covariance from products; returns the function that scores queries."""
        kernel = products.double()
        clips = kernel.shape[-1]
        shots = clips // ways
        eye = torch.eye(ways, dtype=kernel.dtype, device=kernel.device)
        share = eye.repeat_interleave(shots, dim=0) / shots  # S N
        # Differences from the mean shot: what all classes share rounds nothing away.
        row = kernel.mean(-1)
        total = row.mean(-1)[:, None]
        kernel = kernel - row[..., None] - row[:, None] + total[..., None]
        within = kernel - (kernel @ share) @ (shots * share).mT
        within = within - shots * share @ (share.mT @ within)
        trace = within.diagonal(dim1=1, dim2=2).sum(-1)
        size = kernel.diagonal(dim1=1, dim2=2).sum(-1)
        flat = trace <= 64 * torch.finfo(products.dtype).eps * size
        level = torch.where(flat, 1, trace / (clips - 1))[:, None, None]
        within = torch.where(flat[:, None, None], 0, within)
        left = within + level * torch.eye(clips, dtype=kernel.dtype, device=kernel.device)
        factor = torch.linalg.cholesky(left)
        off_means = kernel - shots * share @ (share.mT @ kernel)  # T B
        off_means = torch.where(flat[:, None, None], 0, off_means)
        solved = torch.cholesky_solve(off_means, factor)
        to_mean = (kernel - off_means.mT @ solved) @ share  # S N
        half = (share * to_mean).sum(1, keepdim=True) / 2

        def predict(
            query: Float[Tensor, "E M S"], square: Float[Tensor, "E M"]
        ) -> Float[Tensor, "E M N"]:
            across = query.double()
            across = across - across.mean(-1, keepdim=True) - (row - total)[:, None]
            of_class = across @ share
            off = across - shots * of_class @ share.mT  # A T
            return of_class - off @ (solved @ share) - half

        return predict


def build(config: Config) -> Head:
    """The head that these settings describe."""
    length = "unit" if config.unit else ""
    transform = Transform(power=config.power, centre=config.centre, length=length)
    return transformed(GDA(), transform)
