"""TIM-GD: class weights that make the predictions for the queries informative (transductive).

Minimises lmd * cross-entropy of the shots - H(Y) + alpha * H(Y | X) of the queries over the
weights, from the class means on, by Adam. A class's logit is minus half its squared distance times
the temperature. The H(Y) term pulls towards as many answers of one class as of another: where
queries are unbalanced, that prior is wrong.

Gradients are written out: one product of weights and clips forward and one back a step. They are
worked through a few episodes at a time on a CPU, whose cache would not hold them all.

Defaults: the paper's: temperature 15, lmd = alpha = 0.1, 150 steps of rate 1e-4, vectors of
length 1.

Not scale-free with normalise=false: temperature and rate are for vectors about that long.

Source: Boudiaf et al., 2020 (TIM-GD).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict
from learn.fewshot.heads._descent import adam, descend
from learn.fewshot.heads._points import at_once
from learn.fewshot.heads._transform import Transform, Transforms, transformed
from store.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `tim`."""

    temperature: float = setting(15.0, at_least=0)
    lmd: float = setting(0.1, at_least=0)  # the paper's lambda
    alpha: float = setting(0.1, at_least=0)
    steps: int = setting(150, at_least=0)
    lr: float = setting(1e-4, at_least=0)
    normalise: bool = True


class TIM:
    """Class weights that make predictions sure for each query and balanced over all."""

    transductive = True
    centred_by = "none"
    scale_free = False  # but for vectors brought to one length

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Keep the support: the weights learn from the queries too (Boudiaf et al., 2020)."""

        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            size = at_once(support, query)
            parts = []
            for first in range(0, len(query), size):
                part = slice(first, first + size)
                parts.append(self._adapt(support[part], query[part]))
            return torch.cat(parts)

        return predict

    @torch.no_grad()
    def _adapt(
        self, support: Float[Tensor, "E N K D"], query: Float[Tensor, "E M D"]
    ) -> Float[Tensor, "E M N"]:
        """Log probabilities after the last step."""
        points = torch.cat([support.flatten(1, 2), query], 1)
        ways, shots = support.shape[1:3]
        target = torch.eye(ways, dtype=points.dtype, device=points.device)
        target = target.repeat_interleave(shots, dim=1)
        weights = descend(
            support.mean(2),
            lambda weights: self._gradient(weights, points, target),
            adam(self.config.lr),
            self.config.steps,
        )
        return self._logits(weights, query).log_softmax(1).mT

    def _logits(
        self, weights: Float[Tensor, "E N D"], points: Float[Tensor, "E T D"]
    ) -> Float[Tensor, "E N T"]:
        """Logits up to what is the same for all classes of a point."""
        half = torch.linalg.vecdot(weights, weights)[..., None] / 2
        return (weights @ points.mT).sub_(half).mul_(self.config.temperature)

    def _gradient(
        self,
        weights: Float[Tensor, "E N D"],
        points: Float[Tensor, "E T D"],
        target: Float[Tensor, "N S"],
    ) -> Float[Tensor, "E N D"]:
        c = self.config
        clips = target.shape[1]
        log_p = self._logits(weights, points).log_softmax(1)
        p = log_p.exp()
        g = torch.empty_like(p)
        torch.sub(p[..., :clips], target, out=g[..., :clips]).mul_(c.temperature * c.lmd / clips)
        g[..., clips:] = c.temperature * _of_queries(p[..., clips:], log_p[..., clips:], c.alpha)
        return (g @ points).sub_(g.sum(-1, keepdim=True) * weights)


def _of_queries(
    p: Float[Tensor, "E N M"], log_p: Float[Tensor, "E N M"], alpha: float
) -> Float[Tensor, "E N M"]:
    """The gradient of -H(Y) + alpha H(Y|X) by the queries' logits."""
    tiny = torch.finfo(p.dtype).tiny
    slope = p.mean(-1, keepdim=True).clamp_min_(tiny).log_() - alpha * log_p
    return slope.sub_((p * slope).sum(1, keepdim=True)).mul_(p).div_(p.shape[-1])


def build(config: Config) -> Head:
    """The head that these settings describe."""
    length = "unit" if config.normalise else ""
    transform = Transform(power=config.power, centre=config.centre, length=length)
    return transformed(TIM(config), transform)
