"""A linear or a cosine classifier of the shots, by gradient descent on the cross-entropy.

    linear   logits w . x + b, from zero
    cosine   logits scale * cos(w, x), from the class means

Every step sees all shots of its episode, so neither chance nor the order of shots decides anything.

Defaults: Chen et al. take SGD of rate 0.01, momentum 0.9, decay 0.001 and 100 epochs of batches of
4 for features of the length that a ReLU leaves; ours have length 1, and 100 whole batches of rate 1
come as far.

Not scale-free where the classifier is linear and normalise=false: the rate is for that length.

Source: Chen et al., 2019, "A closer look at few-shot classification" (Baseline, Baseline++).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict
from learn.fewshot.heads._descent import (
    METHODS,
    by_direction,
    cross_entropy_gradient,
    descend,
    rule,
)
from learn.fewshot.heads._points import at_once
from learn.fewshot.heads._transform import Transform, Transforms, transformed
from store.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `finetune`."""

    classifier: str = setting("linear", among=("linear", "cosine"), main=True)
    method: str = setting("sgd", among=METHODS)
    steps: int = setting(100, at_least=0)
    lr: float = setting(1.0, at_least=0)
    momentum: float = setting(0.9, at_least=0, below=1)  # of sgd
    weight_decay: float = setting(1e-3, at_least=0)
    scale: float = setting(10.0, at_least=0)  # of cosines
    normalise: bool = True


class Finetune:
    """A linear or cosine classifier, trained on the shots."""

    transductive = False
    centred_by = "none"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.scale_free = config.classifier == "cosine"

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Train the classifier on the shots, as many episodes at a time as the cache holds."""
        size = at_once(support, support.flatten(1, 2))
        fitted = [self._weights(part) for part in torch.split(support, size)]
        weights = torch.cat(fitted)

        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            return self._logits(weights, self._points(query)).mT

        return predict

    @torch.no_grad()
    def _weights(self, support: Float[Tensor, "E N K D"]) -> Float[Tensor, "E N D_plus"]:
        c = self.config
        ways, shots = support.shape[1:3]
        points = self._points(support.flatten(1, 2))
        target = torch.eye(ways, dtype=points.dtype, device=points.device)
        target = target.repeat_interleave(shots, dim=1)
        share = points.new_full((ways * shots,), 1 / (ways * shots))
        start = points.view(len(points), ways, shots, -1).mean(2)
        if c.classifier == "linear":
            start = torch.zeros_like(start)

        def gradient(weights: Float[Tensor, "E N D"]) -> Float[Tensor, "E N D"]:
            g = cross_entropy_gradient(self._logits(weights, points), target, share)
            if c.classifier == "linear":
                return g @ points
            return by_direction(weights, c.scale * (g @ points))

        step = rule(c.method, c.lr, momentum=c.momentum, decay=c.weight_decay)
        return descend(start, gradient, step, c.steps)

    def _points(self, x: Float[Tensor, "E P D"]) -> Float[Tensor, "E P D_plus"]:
        """The clips as the classifier sees them: for the linear one with a 1 for the intercept."""
        if self.config.classifier == "cosine":
            return F.normalize(x, dim=-1)
        return F.pad(x, (0, 1), value=1.0)

    def _logits(
        self, weights: Float[Tensor, "E N D"], points: Float[Tensor, "E P D"]
    ) -> Float[Tensor, "E N P"]:
        if self.config.classifier == "cosine":
            weights = self.config.scale * F.normalize(weights, dim=-1)
        return weights @ points.mT


def build(config: Config) -> Head:
    """The head that these settings describe."""
    length = "unit" if config.normalise else ""
    transform = Transform(power=config.power, centre=config.centre, length=length)
    return transformed(Finetune(config), transform)
