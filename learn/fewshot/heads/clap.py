"""CLAP: a linear probe held to the names of classes, by as much as each knows its class's shots.

    logit of class k = scale * cos(w_k, x)
    cost = cross-entropy of the shots + penalty * mean over k of lambda_k |w_k - t_k|^2
    lambda_k = mean probability that the names alone give class k for its own shots

Weights begin at t_k, the vectors of the names, brought to one `length`. It changes no cosine, but
how far a step turns a weight and what that costs: the published code leaves CLIP's own lengths,
which are not printed. At 1 the published rate overshoots, and rounding decides some answers; at 10
it hardly does, and weights stay nearer to the names, good or bad.

Without names the class means are held to, which the paper does not know. Commands refuse that where
the clips have no names at all: it would be another head's answer.

Published: lambda, the penalty and its mean over classes, scale 100, SGD of momentum 0.9, 300 steps
of a rate that falls from 0.1 to 0 as a cosine; the state after the last step, as no validation set
is looked at. Ours: `length`, and every step sees all shots once, as stored features have no copies
that differ (the code has 20 of every image, batches of 256, and a first step of rate 1e-5).

The weights stay in the span of shots and names, so that their coordinates there are learnt.

Source: Silva-Rodriguez et al., CVPR 2024, "A closer look at the few-shot adaptation of large
vision-language models" (class-adaptive linear probe); lambda and penalty as the authors' code
computes them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict
from learn.fewshot.heads._descent import by_direction, cross_entropy_gradient, descend, sgd
from learn.fewshot.heads._transform import Transform, transformed
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the head `clap`."""

    penalty: float = setting(1.0, at_least=0)  # times lambda
    scale: float = setting(100.0, at_least=0)
    steps: int = setting(300, at_least=0)
    lr: float = setting(0.1, at_least=0)  # falls to 0 as a cosine
    momentum: float = setting(0.9, at_least=0, below=1)
    length: float = setting(10.0, above=0)  # of names and of weights at first


class CLAP:
    """A linear probe with a penalty for each class on leaving its name."""

    transductive = False
    centred_by = "none"
    scale_free = True  # every vector is made one of length 1 first
    extra_shots = ("names",)

    def __init__(self, config: Config) -> None:
        self.config = config

    @torch.no_grad()
    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Descend from the names, each held as hard as it knows its class's shots."""
        c = self.config
        ways, shots = support.shape[1:3]
        points = support.flatten(1, 2)
        anchor = context.extra_shots.get("names", support).mean(2)
        anchor = c.length * F.normalize(anchor, dim=-1)
        # Inner products decide everything, and the span of shots and names has fewer coordinates.
        basis, inner = torch.linalg.qr(torch.cat([points, anchor], 1).mT)
        points, anchor = inner.mT.split([ways * shots, ways], dim=1)
        eye = torch.eye(ways, dtype=points.dtype, device=points.device)
        target = eye.repeat_interleave(shots, dim=1)
        share = points.new_full((ways * shots,), 1 / (ways * shots))

        def logits(weights: Float[Tensor, "E N P"]) -> Float[Tensor, "E N S"]:
            return c.scale * F.normalize(weights, dim=-1) @ points.mT

        known = (logits(anchor).softmax(1) * target).sum(-1, keepdim=True) / shots
        pull = 2 * c.penalty / ways * known

        def gradient(weights: Float[Tensor, "E N P"]) -> Float[Tensor, "E N P"]:
            by_logit = cross_entropy_gradient(logits(weights), target, share)
            up = by_direction(weights, c.scale * by_logit @ points)
            return up + pull * (weights - anchor)

        step = sgd(c.lr, momentum=c.momentum, cosine=c.steps)
        weights = descend(anchor, gradient, step, c.steps) @ basis.mT
        weights = c.scale * F.normalize(weights, dim=-1)

        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            return query @ weights.mT

        return predict


def build(config: Config) -> Head:
    """The head that these settings describe."""
    return transformed(CLAP(config), Transform(length="unit"))
