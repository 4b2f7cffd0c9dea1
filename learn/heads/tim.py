"""TIM-GD: class weights that make the queries' answers informative (transductive).

Minimises lmd * cross-entropy of the shots - H(Y) + alpha * H(Y | X) of the queries over the
weights, from the class means on, by Adam. A class's logit is minus half its squared distance times
the temperature. The H(Y) term pulls towards as many answers of one class as of another: where
queries are unbalanced, that prior is wrong.

Gradients are written out: one product of weights and clips forward and one back a step. They are
worked through a few episodes at a time on a CPU, whose cache would not hold them all.

Defaults: the paper's: temperature 15, lmd = alpha = 0.1, 150 steps of rate 1e-4, vectors of
length 1.

Source: Boudiaf et al., 2020, equations 1 to 4 and section 4 (TIM-GD).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.heads import Context, Predict, one_of
from learn.heads._points import CENTRES, at_once, prepare
from store.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    temperature: float = 15.0
    lmd: float = 0.1  # the paper's lambda
    alpha: float = 0.1
    steps: int = 150
    lr: float = 1e-4
    normalise: bool = True
    centre: str = "none"

    def __post_init__(self) -> None:
        one_of("tim", "centre", self.centre, CENTRES)
        for key in ("temperature", "lmd", "alpha", "lr"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ConfigError(f"tim: {key}={getattr(self, key)} is not 0 or more and finite")
        if self.steps < 0:
            raise ConfigError(f"tim: steps={self.steps} is less than 0")


class TIM:
    transductive = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.centred_by = config.centre

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        c = self.config

        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            size = at_once(support, query)
            parts = []
            for first in range(0, len(query), size):
                few = slice(first, first + size)
                s, q = prepare(
                    support[few], query[few], context, centre=c.centre, normalise=c.normalise
                )
                parts.append(self._adapt(s, q))
            return torch.cat(parts)

        return predict

    @torch.no_grad()
    def _adapt(
        self, support: Float[Tensor, "E N K D"], query: Float[Tensor, "E M D"]
    ) -> Float[Tensor, "E M N"]:
        """Log probabilities after the last step."""
        points_DT = torch.cat([support.flatten(1, 2), query], 1).mT
        weights = support.mean(2)
        adam = torch.optim.Adam([weights], lr=self.config.lr, fused=True)
        for _ in range(self.config.steps):
            weights.grad = self._gradient(weights, points_DT, support.shape[2])
            adam.step()
        return self._logits(weights, query.mT).log_softmax(1).mT

    def _logits(
        self, weights: Float[Tensor, "E N D"], points: Float[Tensor, "E D T"]
    ) -> Float[Tensor, "E N T"]:
        """Up to what is the same for all classes of a point."""
        half = weights.square().sum(-1, keepdim=True) / 2
        return self.config.temperature * (weights @ points - half)

    def _gradient(
        self, weights: Float[Tensor, "E N D"], points: Float[Tensor, "E D T"], shots: int
    ) -> Float[Tensor, "E N D"]:
        c = self.config
        ways = weights.shape[1]
        clips = ways * shots
        log_p = self._logits(weights, points).log_softmax(1)
        p = log_p.exp()
        answer = torch.eye(ways, dtype=p.dtype, device=p.device).repeat_interleave(shots, dim=1)
        of_shots = c.lmd / clips * (p[..., :clips] - answer)
        of_queries = self._of_queries(p[..., clips:], log_p[..., clips:])
        g = c.temperature * torch.cat([of_shots, of_queries], -1)
        return torch.baddbmm(g.sum(-1, keepdim=True) * weights, g, points.mT, beta=-1)

    def _of_queries(
        self, p: Float[Tensor, "E N M"], log_p: Float[Tensor, "E N M"]
    ) -> Float[Tensor, "E N M"]:
        """How -H(Y) + alpha H(Y|X) grows with the queries' logits."""
        tiny = torch.finfo(p.dtype).tiny
        slope = p.mean(-1, keepdim=True).clamp_min(tiny).log() - self.config.alpha * log_p
        return p * (slope - (p * slope).sum(1, keepdim=True)) / p.shape[-1]


def build(config: Config) -> TIM:
    return TIM(config)
