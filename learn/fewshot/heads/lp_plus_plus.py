"""LP++: a linear probe whose weights are blends of what it learns and of the names of classes.

    logit of class k = x . (w_k + alpha_k t_k),  t_k the vector of the class's name, all of length 1

Full-batch descent on the cross-entropy of the shots in two blocks: w at every step, alpha at every
tenth. With F the n shots, nothing is searched for:

    w        begins at the sum of the class's shots; rate 4 n / (largest eigenvalue of F^T F)
    alpha    begins at `blend` times the mean of x . t_y, the same for all classes; rate
             n / (4 max_k sum (x . t_k)^2)

The weights stay in the span of the shots, so that their coefficients are learnt, from products.

Without names there is no alpha, and this is a linear probe begun at the classes' sums. Commands
refuse that where the clips have no names at all: it would be another head's answer.

Published: both rates, both starts, blend 250, 300 steps, momentum 0.9 (of w). Ours: the state after
the last step, where the published code keeps the best by a validation set, which an episode does
not have; no intercept, as in the paper (the code has one, begun at random); and alpha moves by the
gradient of its own step (the code never clears it, so that every move repeats all before).

Source: Huang et al., CVPR 2024, "LP++: A surprisingly strong linear probe for few-shot CLIP" (block
majorise-minimise descent); rates and starts as the authors' code computes them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict
from learn.fewshot.heads._descent import cross_entropy_gradient, sgd
from learn.fewshot.heads._transform import Transform, transformed
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the head `lp_plus_plus`."""

    blend: float = setting(250.0, at_least=0)  # alpha at first, over the mean cosine with names
    steps: int = setting(300, at_least=0)
    alpha_every: int = setting(10, at_least=1)  # steps of w to one of alpha
    momentum: float = setting(0.9, at_least=0, below=1)  # of w


class LPPlusPlus:
    """A linear probe that blends the shots with the names."""

    transductive = False
    centred_by = "none"
    scale_free = True  # every vector is made one of length 1 first
    extra_shots = ("names",)

    def __init__(self, config: Config) -> None:
        self.config = config

    @torch.no_grad()
    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Learn coefficients of the shots, and how much of each name is added."""
        c = self.config
        ways, shots = support.shape[1:3]
        points = support.flatten(1, 2)
        clips = ways * shots
        names = support.new_zeros(len(support), ways, support.shape[-1])
        if "names" in context.extra_shots:
            names = context.extra_shots["names"].mean(2)
        eye = torch.eye(ways, dtype=points.dtype, device=points.device)
        target = eye.repeat_interleave(shots, dim=1)
        share = points.new_full((clips,), 1 / clips)

        products = points @ points.mT
        of_names = names @ points.mT  # E N S
        largest = torch.linalg.eigvalsh(products)[:, -1]
        rate = (4 * clips * _inverse(largest))[:, None, None]
        rate_of_alpha = clips / 4 * _inverse(of_names.square().sum(-1).amax(-1, keepdim=True))
        coefficients = target.expand(len(support), -1, -1).clone()
        own = (of_names * target).sum((1, 2)) / clips
        alpha = (c.blend * own)[:, None].expand(-1, ways).clone()

        step = sgd(1.0, momentum=c.momentum)
        for taken in range(1, c.steps + 1):
            logits = (coefficients @ products).addcmul_(alpha[..., None], of_names)
            gradient = cross_entropy_gradient(logits, target, share)
            step(coefficients, rate * gradient)
            if taken % c.alpha_every == 0:
                alpha -= rate_of_alpha * (gradient * of_names).sum(-1)
        weights = coefficients @ points + alpha[..., None] * names

        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            return query @ weights.mT

        return predict


def _inverse(x: Float[Tensor, "*E"]) -> Float[Tensor, "*E"]:
    """1 / x, and 0 where nothing but rounding is left: there is then nothing to learn from."""
    floor = torch.finfo(x.dtype).eps
    return torch.where(x > floor, x.clamp_min(floor).reciprocal(), 0)


def build(config: Config) -> Head:
    """The head that these settings describe."""
    return transformed(LPPlusPlus(config), Transform(length="unit"))
