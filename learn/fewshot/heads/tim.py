"""TIM-GD: class weights that make the predictions for the queries informative (transductive).

Minimises lmd * cross-entropy of the shots - H(Y) + alpha * H(Y | X) of the queries over the
weights, from the class means on, by Adam. A class's logit is minus half its squared distance times
the temperature. The H(Y) term pulls towards as many answers of one class as of another: where
queries are unbalanced, that prior is wrong.

Defaults: the paper's: temperature 15, lmd = alpha = 0.1, 150 steps of rate 1e-4, vectors of
length 1.

Not scale-free with normalise=false: temperature and rate are for vectors about that long.

Source: Boudiaf et al., 2020 (TIM-GD).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Head
from learn.fewshot.heads._informed import Informed
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


def _of_queries(
    p: Float[Tensor, "E N M"], log_p: Float[Tensor, "E N M"], alpha: float
) -> Float[Tensor, "E N M"]:
    """The gradient of -H(Y) + alpha H(Y|X) by the queries' logits."""
    tiny = torch.finfo(p.dtype).tiny
    slope = p.mean(-1, keepdim=True).clamp_min_(tiny).log_() - alpha * log_p
    return slope.sub_((p * slope).sum(1, keepdim=True)).mul_(p).div_(p.shape[-1])


def build(config: Config) -> Head:
    """The head that these settings describe."""
    core = Informed(
        name="tim", temperature=config.temperature, weight=config.lmd, steps=config.steps,
        lr=config.lr,
        of_queries=lambda p, log_p, shots: _of_queries(p, log_p, config.alpha),
    )  # fmt: skip
    length = "unit" if config.normalise else ""
    transform = Transform(power=config.power, centre=config.centre, length=length)
    return transformed(core, transform)
