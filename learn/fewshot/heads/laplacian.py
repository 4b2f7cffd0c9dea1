"""LaplacianShot: nearest class means, smoothed over the queries' neighbours (transductive).

With a = squared distances of queries to class means and W = 1 for each of a query's k nearest
other queries, the bound updates repeat Y <- softmax(-a + lmd W Y), from Y = softmax(-a). The first
Y alone is the prototype head. All `steps` are run: no episode depends on when others settle.

`rectify` shifts queries by the difference of the two sides' means and replaces each class mean by
the mean over its shots and its predicted queries x of p(class | x) x, where p = softmax(10 cosine).

Defaults: the paper's plain method, k = 3 and 20 steps; lmd = 0.5 is ours, the published code says
1.0 and can tune it on a validation split. That code searches k neighbours among which is the query
itself, so its k = 3 is k = 2 here.

Not scale-free with normalise=false: squared distances are held against lmd as they are.

Source: Ziko et al., 2020 (bound updates; prototype rectification).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict
from learn.fewshot.heads._points import (
    cosines_to_means,
    fit_by_gram,
    neighbours,
    shifted,
    shot_labels,
    squared_distances,
    with_means,
)
from learn.fewshot.heads._transform import Transform, Transforms, transformed
from store.settings import setting

COSINE_SCALE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `laplacian`."""

    k: int = setting(3, at_least=1)
    lmd: float = setting(0.5, at_least=0)  # the paper's lambda
    steps: int = setting(20, at_least=0)
    rectify: bool = False  # as published with centre=base; without centring it shrinks the means
    normalise: bool = True


class Laplacian:
    """Nearest prototypes, with like queries held to like answers."""

    transductive = True
    by_gram = True
    scale_free = False  # but for vectors brought to one length

    def __init__(self, config: Config) -> None:
        self.config = config
        self.centred_by = "episode" if config.rectify else "none"

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Keep the support: smoothing needs the queries too."""
        return fit_by_gram(self, support, context)

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Vectors as they are."""
        return support, query

    def from_gram(
        self, gram: Float[Tensor, "E T T"], ways: int, shots: int
    ) -> Float[Tensor, "E M N"]:
        """Class probabilities of the queries after the last bound update (Ziko et al., 2020)."""
        clips = ways * shots
        mean = shot_labels(gram, ways, shots) / shots
        if self.config.rectify:
            gram = shifted(gram, clips)
            mean = _rectified(mean, gram, clips)
        products, square = with_means(mean, gram)
        of_query = gram.diagonal(dim1=1, dim2=2)[:, None, clips:]
        unary = (square[..., None] + of_query - 2 * products[..., clips:]).clamp_min(0)
        near = neighbours(squared_distances(gram[:, clips:, clips:]), self.config.k)
        pull = self.config.lmd * near.mT
        y = (-unary).softmax(1)  # E N M
        for _ in range(self.config.steps):
            y = (y @ pull - unary).softmax(1)
        return y.mT


def _rectified(
    mean: Float[Tensor, "N T"], gram: Float[Tensor, "E T T"], clips: int
) -> Float[Tensor, "E N T"]:
    cosine = cosines_to_means(mean, gram)
    member = F.one_hot(cosine.argmax(1), len(mean)).mT.to(gram.dtype)
    member[..., :clips] = (mean[:, :clips] > 0).to(gram.dtype)
    weight = member * (COSINE_SCALE * cosine).softmax(1)
    return weight / member.sum(-1, keepdim=True)


def build(config: Config) -> Head:
    """The head that these settings describe."""
    length = "unit" if config.normalise else ""
    transform = Transform(power=config.power, centre=config.centre, length=length)
    return transformed(Laplacian(config), transform)
