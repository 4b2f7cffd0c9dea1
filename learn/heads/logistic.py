"""Multinomial logistic regression with an L2 penalty, fitted for all episodes at once.

Minimises C times the summed cross-entropy plus half the squared weights; the intercept is free, and
two classes are fitted by one weight vector, all as scikit-learn does. The weights lie in the span
of the shots, so only inner products are needed: with coefficients A per shot and class, an optimum
has A = Y - P, and Newton's step costs one small Cholesky factor per class.

Source: Rasmussen & Williams, 2006, algorithm 3.3 (Newton's step with a softmax).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.heads import Context, Predict, PredictFromProducts, fit_by_products
from store.errors import ConfigError

STEPS = 50
TOLERANCE = 1e-6
HALVINGS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    C: float = 1.0
    normalise: bool = False  # scale every vector to length 1 first

    def __post_init__(self) -> None:
        if not 0 < self.C < float("inf"):
            raise ConfigError(f"logistic: C={self.C} is not above 0 and finite")


class Logistic:
    transductive = False
    centred_by = "none"
    by_products = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        return fit_by_products(self, support, context)

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        if self.config.normalise:
            return F.normalize(support, dim=-1), F.normalize(query, dim=-1)
        if context.origin is None:  # a free intercept makes translation harmless
            return support, query
        return support - context.origin, query - context.origin

    def fit_products(self, products: Float[Tensor, "E S S"], ways: int) -> PredictFromProducts:
        shots = products.shape[-1] // ways
        # One weight vector for two classes is penalised twice as hard as a pair of opposite halves.
        strength = self.config.C / 2 if ways == 2 else self.config.C
        answer = torch.eye(ways, dtype=torch.float64, device=products.device)
        answer_SN = answer.repeat_interleave(shots, dim=0)
        a, b = _newton(strength * products.double(), answer_SN)

        def predict(
            query: Float[Tensor, "E M S"], square: Float[Tensor, "E M"]
        ) -> Float[Tensor, "E M N"]:
            return (strength * query.double() @ a + b).to(query.dtype)

        return predict


def _newton(
    kernel: Float[Tensor, "E S S"], answer: Float[Tensor, "S N"]
) -> tuple[Float[Tensor, "E S N"], Float[Tensor, "E 1 N"]]:
    """Coefficients and intercepts that minimise `_cost`.

    The step treats the intercept as if it had a wide prior around its present value; the prior
    moves along, so it slows the last steps a little and leaves the optimum alone.
    """
    a = kernel.new_zeros(len(kernel), *answer.shape)
    b = a.new_zeros(len(kernel), 1, answer.shape[1])
    spread = 100 * (1 + kernel.diagonal(dim1=1, dim2=2).mean(-1))[:, None, None]
    wide = kernel + spread
    for _ in range(STEPS):
        logits = kernel @ a + b
        p = logits.softmax(-1)
        if _settled(kernel, answer, a, p):
            break
        of_weights = p * (kernel @ a)
        target = of_weights - p * of_weights.sum(-1, keepdim=True) + answer - p
        new_a = _solve(wide, p, target)
        new_b = b + spread * new_a.sum(1, keepdim=True)
        a, b = _shorten(kernel, answer, (a, b), (new_a, new_b))
    return a, b


def _settled(
    kernel: Float[Tensor, "E S S"],
    answer: Float[Tensor, "S N"],
    a: Float[Tensor, "E S N"],
    p: Float[Tensor, "E S N"],
) -> bool:
    """Would the next step move no logit, by weights or intercept, by more than `TOLERANCE`?"""
    by_weights = (kernel @ (a - answer + p)).abs()
    by_intercept = (answer - p).sum(1).abs() / (p * (1 - p)).sum(1).clamp_min(1e-300)
    return bool((by_weights < TOLERANCE).all() and (by_intercept < TOLERANCE).all())


def _solve(
    kernel: Float[Tensor, "E S S"], p: Float[Tensor, "E S N"], target: Float[Tensor, "E S N"]
) -> Float[Tensor, "E S N"]:
    """(1 + W kernel)^-1 target, where W = diag(p) - p p^T is the softmax's curvature."""
    root_ENS = p.mT.sqrt()
    eye = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    inner = eye + root_ENS[..., None] * kernel[:, None] * root_ENS[..., None, :]
    factor = torch.linalg.cholesky(inner)
    half = torch.linalg.solve_triangular(factor, torch.diag_embed(root_ENS), upper=False)
    e = half.mT @ half  # E N S S
    c = (e @ (kernel @ target).mT[..., None])[..., 0].mT
    total = torch.linalg.cholesky(e.sum(1))
    shared = torch.cholesky_solve(c.sum(-1, keepdim=True), total)
    return target - c + (e @ shared[:, None])[..., 0].mT


def _cost(
    kernel: Float[Tensor, "E S S"],
    answer: Float[Tensor, "S N"],
    a: Float[Tensor, "E S N"],
    b: Float[Tensor, "E 1 N"],
) -> Float[Tensor, "E"]:
    f = kernel @ a
    return (a * f).sum((1, 2)) / 2 - (answer * (f + b).log_softmax(-1)).sum((1, 2))


def _shorten(
    kernel: Float[Tensor, "E S S"],
    answer: Float[Tensor, "S N"],
    old: tuple[Float[Tensor, "E S N"], Float[Tensor, "E 1 N"]],
    new: tuple[Float[Tensor, "E S N"], Float[Tensor, "E 1 N"]],
) -> tuple[Float[Tensor, "E S N"], Float[Tensor, "E 1 N"]]:
    """The step from old to new, halved in each episode until the cost does not rise."""
    before = _cost(kernel, answer, *old)
    slack = 1e-12 * before.abs()
    share = torch.ones_like(before)[:, None, None]
    for _ in range(HALVINGS):
        a, b = (o + share * (n - o) for o, n in zip(old, new, strict=True))
        rises = _cost(kernel, answer, a, b) > before + slack
        if not bool(rises.any()):
            break
        share = torch.where(rises[:, None, None], share / 2, share)
    return a, b


def build(config: Config) -> Logistic:
    return Logistic(config)
