"""Alpha-TIM: informative predictions for the queries, without the prior of balance (transductive).

As `tim`, with Tsallis entropies of the order a in place of Shannon's for the queries:
cross-entropy of the shots - H_a(Y) + H_a(Y | X), H_a(p) = (1 - sum p^a) / (a - 1). The larger a,
the less H_a(Y) pulls towards as many answers of one class as of another.

Defaults: the published code's: temperature 15, weights 1, 1000 steps of rate 1e-4, vectors of
length 1. alpha=0 is the published order by shots a class, 2 at one and 7 at five and more, on a
straight line between.

Not scale-free with normalise=false: temperature and rate are for vectors about that long.

Source: Veilleux et al., 2021 (realistic evaluation of transductive few-shot learning).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Head
from learn.fewshot.heads._informed import Informed
from learn.fewshot.heads._transform import Transform, Transforms, transformed
from store.errors import ConfigError
from store.settings import setting

FEW, MANY = (1, 2.0), (5, 7.0)  # shots, and the order that goes with them


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `alpha_tim`."""

    alpha: float = setting(0.0, at_least=0)  # the entropies' order; 0: by the number of shots
    temperature: float = setting(15.0, at_least=0)
    lmd: float = setting(1.0, at_least=0)  # weight of the shots
    steps: int = setting(1000, at_least=0)
    lr: float = setting(1e-4, at_least=0)
    normalise: bool = True

    def check(self) -> None:
        """Refuse the order 1, which is Shannon's."""
        if self.alpha == 1:
            raise ConfigError(f"{self.prefix()}alpha=1 is Shannon's entropy: use the head tim")


def order(alpha: float, shots: int) -> float:
    """The entropies' order for so many shots a class."""
    share = (min(shots, MANY[0]) - FEW[0]) / (MANY[0] - FEW[0])
    return alpha or FEW[1] + share * (MANY[1] - FEW[1])


def _of_queries(p: Float[Tensor, "E N M"], alpha: float) -> Float[Tensor, "E N M"]:
    """The gradient of -H_a(Y) + H_a(Y | X) by the queries' logits."""
    tiny = torch.finfo(p.dtype).tiny
    marginal = p.mean(-1, keepdim=True).clamp_min_(tiny) ** (alpha - 1)
    slope = (marginal - p.clamp_min(tiny) ** (alpha - 1)).mul_(alpha / (alpha - 1))
    return slope.sub_((p * slope).sum(1, keepdim=True)).mul_(p).div_(p.shape[-1])


def build(config: Config) -> Head:
    """The head that these settings describe."""
    core = Informed(
        name="alpha_tim", temperature=config.temperature, weight=config.lmd, steps=config.steps,
        lr=config.lr,
        of_queries=lambda p, log_p, shots: _of_queries(p, order(config.alpha, shots)),
    )  # fmt: skip
    length = "unit" if config.normalise else ""
    transform = Transform(power=config.power, centre=config.centre, length=length)
    return transformed(core, transform)
