"""The nearest class mean: ProtoNet's classifier and SimpleShot's CL2N.

    euclidean   minus the squared distance to the mean of the shots
    cosine      cosine between the query and the mean of the shots
    cl2n        centre, scale each modality's block to length 1, then as euclidean; the means are
                not scaled again

Source: Snell et al., 2017 (prototypes); Wang et al., 2019 (SimpleShot, CL2N).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Predict, PredictFromProducts, normalise_blocks
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the head `prototypes`."""

    metric: str = setting("euclidean", among=("euclidean", "cosine", "cl2n"))
    # none, support or base; auto is base for cl2n and none for the others
    centre: str = setting("auto", among=("auto", "none", "support", "base"))


class Prototypes:
    """The class whose mean shot is nearest."""

    transductive = False
    scale_free = True
    ragged = True

    def __init__(self, config: Config) -> None:
        self.metric = config.metric
        default = "base" if config.metric == "cl2n" else "none"
        self.centred_by = default if config.centre == "auto" else config.centre
        self.by_products = self.centred_by != "support"  # else the map depends on the episode

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Average the mapped shots of each class; returns the comparison with these means."""
        of_support, of_query = self._centres(support, context)
        share = _shares(support, context)
        if self.centred_by == "support" or (self.centred_by, self.metric) == ("none", "euclidean"):
            weight = share / share.sum((1, 2), keepdim=True)  # euclidean: only rounding changes
            of_support = (support * weight).sum((1, 2), keepdim=True)
            of_query = of_support[:, 0]
        shots = self._map(support - of_support, context)
        mean = (shots * share / share.sum(2, keepdim=True)).sum(2)

        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            q = self._map(query - of_query, context)
            if self.metric == "cosine":
                return F.normalize(q, dim=-1) @ F.normalize(mean, dim=-1).mT
            return 2 * q @ mean.mT - _square(mean)[:, None, :] - _square(q)[..., None]

        return predict

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Centred vectors, for cl2n with each modality at length 1."""
        of_support, of_query = self._centres(support, context)
        return self._map(support - of_support, context), self._map(query - of_query, context)

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
            if self.metric == "cosine":
                length = square_of_mean.clamp_min(0).sqrt().clamp_min(1e-12)
                return with_mean / length / square.sqrt().clamp_min(1e-12)[..., None]
            return torch.add(-square_of_mean, with_mean, alpha=2).sub_(square[..., None])

        return predict

    def _centres(
        self, like: Float[Tensor, "... D"], context: Context
    ) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
        if self.centred_by == "base":
            return context.base_means()
        if self.metric == "euclidean" and context.origin is not None:
            return context.origin, context.origin
        zero = like.new_zeros(like.shape[-1])
        return zero, zero

    def _map(self, x: Float[Tensor, "... D"], context: Context) -> Float[Tensor, "... D"]:
        return normalise_blocks(x, context.modality_dims) if self.metric == "cl2n" else x


def _shares(support: Float[Tensor, "E N K D"], context: Context) -> Float[Tensor, "E N K 1"]:
    """The weight of each shot: 1, and 0 for padding."""
    if context.mask is None:
        return support.new_ones(*support.shape[:3], 1)
    return context.mask.to(support)[..., None]


def _square(x: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
    return x.square().sum(-1)


def build(config: Config) -> Prototypes:
    """The head that these settings describe."""
    return Prototypes(config)
