"""Gradient descent on the weights of many episodes at once, with the rules of torch.optim.

Shapes: as in `learn.fewshot.heads`; P = points that an episode learns from.
"""

from collections.abc import Callable
from math import cos, pi

import torch
from jaxtyping import Float
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam's own defaults
METHODS = ("adam", "adamw", "sgd")


# Moves weights in place, once for each gradient.
Rule = Callable[[Float[Tensor, "E N D"], Float[Tensor, "E N D"]], None]


def adam(lr: float, *, decay: float = 0.0, decoupled: bool = False) -> Rule:
    """Adam, or AdamW where the decay is decoupled from the gradient."""
    moments: list[Tensor] = []
    taken = 0

    def step(weights: Float[Tensor, "E N D"], gradient: Float[Tensor, "E N D"]) -> None:
        nonlocal taken
        if not moments:
            moments.extend((torch.zeros_like(weights), torch.zeros_like(weights)))
        mean, square = moments
        taken += 1
        if decay and decoupled:
            weights.mul_(1 - lr * decay)
        elif decay:
            gradient = gradient + decay * weights
        mean.lerp_(gradient, 1 - BETA_1)
        square.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
        spread = square.sqrt().mul_((1 - BETA_2**taken) ** -0.5).add_(EPSILON)
        weights.addcdiv_(mean, spread, value=-lr / (1 - BETA_1**taken))

    return step


def sgd(lr: float, *, momentum: float = 0.0, decay: float = 0.0, cosine: int = 0) -> Rule:
    """Gradient descent with momentum; over `cosine` steps, if any, the rate falls to 0 as one."""
    pushed: list[Tensor] = []
    taken = 0

    def step(weights: Float[Tensor, "E N D"], gradient: Float[Tensor, "E N D"]) -> None:
        nonlocal taken
        rate = lr * (1 + cos(pi * taken / cosine)) / 2 if cosine else lr
        taken += 1
        if decay:
            gradient = gradient + decay * weights
        if not pushed:
            pushed.append(gradient.clone())
        else:
            pushed[0].mul_(momentum).add_(gradient)
        weights.add_(pushed[0], alpha=-rate)

    return step


def rule(method: str, lr: float, *, momentum: float, decay: float) -> Rule:
    """The update rule of that name."""
    if method == "sgd":
        return sgd(lr, momentum=momentum, decay=decay)
    return adam(lr, decay=decay, decoupled=method == "adamw")


def descend(
    weights: Float[Tensor, "E N D"],
    gradient: Callable[[Float[Tensor, "E N D"]], Float[Tensor, "E N D"]],
    step: Rule,
    steps: int,
) -> Float[Tensor, "E N D"]:
    """The weights after that many steps, from a copy of these."""
    weights = weights.clone()
    for _ in range(steps):
        step(weights, gradient(weights))
    return weights


def cross_entropy_gradient(
    logits: Float[Tensor, "E N P"], target: Float[Tensor, "*E N P"], share: Float[Tensor, "P"]
) -> Float[Tensor, "E N P"]:
    """The gradient of the cross-entropy by the logits, for points that weigh `share`."""
    return logits.softmax(1).sub_(target).mul_(share)


def by_direction(
    weights: Float[Tensor, "E N D"], gradient: Float[Tensor, "E N D"]
) -> Float[Tensor, "E N D"]:
    """The gradient by weights of which only the direction counts, from that by their directions."""
    length = weights.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    along = weights / length
    return (gradient - (gradient * along).sum(-1, keepdim=True) * along) / length
