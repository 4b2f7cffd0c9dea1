"""The nearest class mean: ProtoNet's classifier and SimpleShot's CL2N.

    euclidean   minus the squared distance to the mean of the shots
    cosine      cosine between the query and the mean of the shots
    cl2n        unit vectors, centred by base unless told otherwise, then as euclidean; the means
                are not scaled again

Source: Snell et al., 2017 (prototypes); Wang et al., 2019 (SimpleShot, CL2N).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict, PredictFromProducts
from learn.fewshot.heads._transform import CENTRES, Transform, Transforms, transformed
from store.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `prototypes`."""

    metric: str = setting("euclidean", among=("euclidean", "cosine", "cl2n"), main=True)
    # none, support or base; auto is base for cl2n and none for the others
    centre: str = setting("auto", among=("auto", *CENTRES))
    unit: bool = False  # scale each modality's part to one length; cl2n always does


class Prototypes:
    """The class whose mean shot is nearest."""

    transductive = False
    centred_by = "none"
    scale_free = True
    ragged = True
    by_products = True
    by_means = True  # lengths of class means and their products with queries are enough

    def __init__(self, *, cosine: bool) -> None:
        self.cosine = cosine

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Average the shots of each class; returns the comparison with these means."""
        share = _shares(support, context)
        middle = support.new_zeros(())
        if not self.cosine:  # it changes no distance, and less is lost in rounding
            middle = (support * share / share.sum((1, 2), keepdim=True)).sum((1, 2), keepdim=True)
        mean = ((support - middle) * share / share.sum(2, keepdim=True)).sum(2)

        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            if self.cosine:
                return F.normalize(query, dim=-1) @ F.normalize(mean, dim=-1).mT
            q = query - middle[:, 0]
            return 2 * q @ mean.mT - _square(mean)[:, None, :] - _square(q)[..., None]

        return predict

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Vectors as they are, for distances less the origin."""
        if self.cosine or context.origin is None:
            return support, query
        return support - context.origin, query - context.origin

    def fit_products(self, products: Float[Tensor, "E S S"], ways: int) -> PredictFromProducts:
        """Squared lengths of the class means from products; returns the comparison with them."""
        shots = products.shape[1] // ways
        share = torch.eye(ways, dtype=products.dtype, device=products.device)
        share = share.repeat_interleave(shots, dim=1) / shots  # N S: of a mean's shots
        square_of_mean = (share @ products * share).sum(-1)[:, None, :]

        def predict(
            query: Float[Tensor, "E M S"], square: Float[Tensor, "E M"]
        ) -> Float[Tensor, "E M N"]:
            with_mean = (share @ query.mT).mT if shots > 1 else query
            if self.cosine:
                length = square_of_mean.clamp_min(0).sqrt().clamp_min(1e-12)
                return with_mean / length / square.sqrt().clamp_min(1e-12)[..., None]
            return torch.add(-square_of_mean, with_mean, alpha=2).sub_(square[..., None])

        return predict


def _shares(support: Float[Tensor, "E N K D"], context: Context) -> Float[Tensor, "E N K 1"]:
    """The weight of each shot: 1, and 0 for padding."""
    if context.mask is None:
        return support.new_ones(*support.shape[:3], 1)
    return context.mask.to(support)[..., None]


def _square(x: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
    return x.square().sum(-1)


def build(config: Config) -> Head:
    """The head that these settings describe."""
    cl2n = config.metric == "cl2n"
    default = "base" if cl2n else "none"
    transform = Transform(
        power=config.power,
        centre=default if config.centre == "auto" else config.centre,
        length="parts" if cl2n else "unit" if config.unit else "",
    )
    return transformed(Prototypes(cosine=config.metric == "cosine"), transform)
