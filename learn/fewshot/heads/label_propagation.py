"""Labels spread from the shots over a graph of all clips of the episode (transductive).

The graph joins each clip with its k nearest others, in either direction, with weight
exp(-d^2 / 2 (sigma r)^2), where r is the root mean squared distance along the graph's edges. With
S = D^-1/2 W D^-1/2 the scores are (I - alpha S)^-1 Y; Y is one-hot for shots and 0 for queries.

Defaults are ours, for frozen features: Zhou et al. have alpha = 0.99, no limit on k, and sigma by
data set; Liu et al. have alpha = 0.99, k = 20, and learn sigma with the features. Near 1, alpha
lets the classes whose shots lie most centrally take nearly all queries.

Source: Zhou et al., 2004 (closed form); Liu et al., 2019 (few-shot).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict
from learn.fewshot.heads._points import (
    fit_by_gram,
    neighbours,
    shot_labels,
    squared_distances,
)
from learn.fewshot.heads._transform import Transform, Transforms, transformed
from store.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `label_propagation`."""

    k: int = setting(10, at_least=1, main=True)
    alpha: float = setting(0.8, above=0, below=1)
    sigma: float = setting(0.5, above=0)  # in units of the root mean squared length of an edge
    normalise: bool = True


class LabelPropagation:
    """Labels spread over a graph of shots and queries."""

    transductive = True
    scale_free = True  # distances count in units of the graph's own edges
    by_gram = True
    centred_by = "none"

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Keep the support: the graph needs the queries too."""
        return fit_by_gram(self, support, context)

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Vectors as they are."""
        return support, query

    def from_gram(
        self, gram: Float[Tensor, "E T T"], ways: int, shots: int
    ) -> Float[Tensor, "E M N"]:
        """The rows of (I - alpha S)^-1 Y for the queries (Zhou et al., 2004)."""
        smooth = self._smoothing(squared_distances(gram))
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        factor = torch.linalg.cholesky(eye - self.config.alpha * smooth)
        target = shot_labels(gram, ways, shots).mT.expand(len(gram), -1, -1)
        return torch.cholesky_solve(target, factor)[:, ways * shots :]

    def _smoothing(self, distance: Float[Tensor, "E T T"]) -> Float[Tensor, "E T T"]:
        one_way = neighbours(distance, self.config.k)
        edge = torch.maximum(one_way, one_way.mT)
        tiny = torch.finfo(distance.dtype).tiny
        mean = (edge * distance).sum((1, 2)) / edge.sum((1, 2)).clamp_min(1)
        width = (2 * self.config.sigma**2 * mean).clamp_min(tiny)[:, None, None]
        weight = edge * (-distance / width).exp()
        # A clip without neighbours has weight 0 throughout; `tiny` keeps its root finite.
        root = weight.sum(-1).clamp_min(tiny).rsqrt()
        return root[..., None] * weight * root[:, None]


def build(config: Config) -> Head:
    """The head that these settings describe."""
    length = "unit" if config.normalise else ""
    transform = Transform(power=config.power, centre=config.centre, length=length)
    return transformed(LabelPropagation(config), transform)
