"""BD-CSPN: class means moved towards their surest queries, compared by cosine (transductive).

Queries are shifted by the difference of the two sides' means. Then each class takes up to `top` of
the shifted queries that are nearest to its mean by cosine, and its new mean weights them and the
shots by softmax(epsilon cos(x, mean)) over the members of the class.

`top` is the paper's Z; 8 and epsilon = 10 suit vectors of length 1, as its cosine network has.

Source: Liu et al., 2020 (label propagation and feature shifting).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict
from learn.fewshot.heads._points import cosines_to_means, fit_by_gram, shifted, shot_labels
from learn.fewshot.heads._transform import Transform, Transforms, transformed
from store.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `bdcspn`."""

    # the paper's Z: queries that join a class at most; 0 takes all that are nearest to it
    top: int = setting(8, at_least=0)
    epsilon: float = setting(10.0, at_least=0)


class BDCSPN:
    """Prototypes rectified by the queries that are nearest to them."""

    transductive = True
    scale_free = True  # every vector is made one of length 1 first
    by_gram = True
    centred_by = "episode"  # the shift brings the queries' mean to the support's

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Keep the support: rectifying the class means needs the queries too (Liu et al., 2020)."""
        return fit_by_gram(self, support, context)

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Vectors as they are."""
        return support, query

    def from_gram(
        self, gram: Float[Tensor, "E T T"], ways: int, shots: int
    ) -> Float[Tensor, "E M N"]:
        """Cosines of the queries with the rectified class means."""
        clips = ways * shots
        gram = shifted(gram, clips)
        shot = shot_labels(gram, ways, shots)
        cosine = cosines_to_means(shot / shots, gram)
        member = shot.bool().repeat(len(gram), 1, 1)
        member[..., clips:] = self._surest(cosine[..., clips:])
        exponent = (self.config.epsilon * cosine).masked_fill(~member, -torch.inf)
        return cosines_to_means(exponent.softmax(-1), gram)[..., clips:].mT

    def _surest(self, cosine: Float[Tensor, "E N M"]) -> Bool[Tensor, "E N M"]:
        """A mask of the queries that join each class: of those nearest to it, the `top` surest."""
        nearest = F.one_hot(cosine.argmax(1), cosine.shape[1]).mT.bool()
        if self.config.top == 0:
            return nearest
        sure = cosine.softmax(1).masked_fill(~nearest, -1)
        order = sure.argsort(dim=-1, descending=True, stable=True)
        return nearest & (order.argsort(dim=-1) < self.config.top)


def build(config: Config) -> Head:
    """The head that these settings describe."""
    transform = Transform(power=config.power, centre=config.centre, length="unit")
    return transformed(BDCSPN(config), transform)
