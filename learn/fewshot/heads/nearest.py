"""The k nearest shots vote.

A class's score is its number of votes; between equals the class of the nearer shot wins, and
between equally near ones the class that comes first. `backend=faiss` finds the distances with an
exact FAISS index for each episode: the same answers, for comparison and for many shots.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict, PredictFromProducts, fit_by_products
from learn.fewshot.heads._transform import Transform, Transforms, transformed
from store.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `nearest`."""

    k: int = setting(1, at_least=1, main=True)
    metric: str = setting("euclidean", among=("euclidean", "cosine"))
    backend: str = setting("matmul", among=("matmul", "faiss"))
    unit: bool = False  # scale each modality's part to one length


class Nearest:
    """A vote of the nearest shots."""

    transductive = False
    centred_by = "none"
    scale_free = True

    def __init__(self, config: Config) -> None:
        self.k = config.k
        self.metric = config.metric
        self.by_products = config.backend == "matmul"
        self.ragged = config.k == 1

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Keep the embedded shots, to be compared with queries by products or by FAISS."""
        if context.mask is not None:  # padding by a copy of a shot changes no vote
            first = support[:, :, :1]
            support = torch.where(context.mask[..., None], support, first)
        if self.by_products:
            return fit_by_products(self, support, context)
        return self._fit_faiss(support, context)

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Vectors as they are, of length 1 for cosine; else less the origin."""
        if self.metric == "cosine" or context.origin is None:
            return support, query
        return support - context.origin, query - context.origin

    def fit_products(self, products: Float[Tensor, "E S S"], ways: int) -> PredictFromProducts:
        """Keep the shots' squared lengths; returns the vote over distances from products."""
        square_of_shot = products.diagonal(dim1=1, dim2=2)[:, None, :]

        def predict(
            query: Float[Tensor, "E M S"], square: Float[Tensor, "E M"]
        ) -> Float[Tensor, "E M N"]:
            if self.metric == "cosine":
                return self._vote(-query, ways)
            scores = self._vote(torch.add(square_of_shot, query, alpha=-2), ways)
            return scores.sub_(square[..., None]) if self.k == 1 else scores

        return predict

    def _fit_faiss(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        episodes, ways, _, dim = support.shape
        nothing = support.new_zeros(0, dim)
        shots = self.embed(support.reshape(-1, dim), nothing, context)[0].view(episodes, -1, dim)
        import faiss  # seconds, which no other setting should pay

        kind = faiss.IndexFlatIP if self.metric == "cosine" else faiss.IndexFlatL2

        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            q = self.embed(nothing, query.reshape(-1, dim), context)[1].view(query.shape)
            distance = np.empty((*q.shape[:2], shots.shape[1]), np.float32)
            for out, s, qs in zip(
                distance, shots.float().cpu().numpy(), q.float().cpu().numpy(), strict=True
            ):
                index = kind(dim)
                index.add(np.ascontiguousarray(s))
                distances, indices = index.search(np.ascontiguousarray(qs), len(s))
                np.put_along_axis(out, indices, distances, axis=1)
            sign = -1.0 if self.metric == "cosine" else 1.0
            return self._vote(sign * torch.from_numpy(distance).to(query), ways)

        return predict

    def _vote(self, distance: Float[Tensor, "E M S"], ways: int) -> Float[Tensor, "E M N"]:
        shots = distance.shape[-1] // ways
        of_shots = distance.view(*distance.shape[:2], ways, shots).unbind(-1)
        nearest = reduce(torch.minimum, of_shots)  # an amin along the shots is many times slower
        if self.k == 1:
            return -nearest
        order = distance.argsort(dim=-1, stable=True)[..., : self.k]
        votes = F.one_hot(order // shots, ways).sum(-2)
        rank = nearest.argsort(dim=-1, stable=True).argsort(dim=-1)
        return votes + (ways - rank).to(distance.dtype) / (ways + 1)


def build(config: Config) -> Head:
    """The head that these settings describe."""
    length = "unit" if config.unit else "whole" if config.metric == "cosine" else ""
    transform = Transform(power=config.power, centre=config.centre, length=length)
    return transformed(Nearest(config), transform)
