"""Multinomial logistic regression with an L2 penalty, fitted for all episodes at once.

Minimises C times the summed cross-entropy plus half the squared weights; the intercept is free, and
two classes are fitted by one weight vector, all as scikit-learn does. The weights lie in the span
of the shots, so only inner products are needed: with coefficients A per shot and class, an optimum
has A = Y - P, and Newton's step costs one small Cholesky factor per class.

Not scale-free with normalise=false and unit=false: C is held against squared lengths as they are.
For lengths much below 1e-5 double precision does not find the optimum's last digits.

Source: Rasmussen & Williams, 2006, algorithm 3.3 (Newton's step with a softmax).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict, PredictFromProducts, fit_by_products
from learn.fewshot.heads._transform import Transform, Transforms, transformed
from store.settings import setting

STEPS = 60
TOLERANCE = 1e-6  # of a logit, and of the largest of an episode where all are less than 1
SMALLEST = 1e-9  # logits: below it double precision has no more to give
WORTH = 0.3  # a step that leaves more than this share of the way recomputes the curvature
HALVINGS, HALVINGS_OF_START = 12, 24
INTERCEPT = 100  # how wide the intercept's prior is, in squared lengths of shots


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Transforms):
    """Settings of the head `logistic`."""

    C: float = setting(1.0, above=0)
    normalise: bool = False  # scale every vector to length 1 first
    unit: bool = False  # the same, every modality weighing the same


class Logistic:
    """Multinomial logistic regression on the shots."""

    transductive = False
    centred_by = "none"
    by_products = True
    scale_free = False  # but for vectors brought to one length

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Fit the regression from the shots' inner products."""
        return fit_by_products(self, support, context)

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Vectors less the origin."""
        if context.origin is None:  # a free intercept makes translation harmless
            return support, query
        return support - context.origin, query - context.origin

    def fit_products(self, products: Float[Tensor, "E S S"], ways: int) -> PredictFromProducts:
        """Coefficients of the shots by Newton's method; returns the logits' function."""
        shots = products.shape[-1] // ways
        # One weight vector for two classes is penalised twice as hard as a pair of opposite halves.
        strength = self.config.C / 2 if ways == 2 else self.config.C
        target = torch.eye(ways, dtype=torch.float64, device=products.device)
        target_SN = target.repeat_interleave(shots, dim=0)
        a, b = _newton(strength * products.double(), target_SN)

        def predict(
            query: Float[Tensor, "E M S"], square: Float[Tensor, "E M"]
        ) -> Float[Tensor, "E M N"]:
            return strength * query.double() @ a + b

        return predict


class _Fit(NamedTuple):
    """Coefficients, intercepts, logits and cost of one state of the fit."""

    a: Float[Tensor, "E S N"]  # coefficients of the shots
    b: Float[Tensor, "E 1 N"]
    f: Float[Tensor, "E S N"]  # kernel @ a
    log_p: Float[Tensor, "E S N"]
    cost: Float[Tensor, "E"]


def _newton(
    kernel: Float[Tensor, "E S S"], target: Float[Tensor, "S N"]
) -> tuple[Float[Tensor, "E S N"], Float[Tensor, "E 1 N"]]:
    """Coefficients and intercepts of least cost.

    The step treats the intercept as if it had a wide prior around its present value; the prior
    moves along, so it slows the last steps a little and leaves the optimum alone. The curvature,
    which is what a step costs, is kept for as long as steps with the old one go far enough.
    """
    a, f = _start(kernel, target)
    now = _at(target, a, a.new_zeros(len(a), 1, target.shape[1]), f)
    spread = INTERCEPT * (1 + kernel.diagonal(dim1=1, dim2=2).mean(-1))[:, None, None]
    wide, solve, before = kernel + spread, None, inf
    for _ in range(STEPS):
        p = now.log_p.exp()
        off = target - p - now.a  # zero at the optimum
        change = _moves(kernel, target, p, off, now.f)
        if change < TOLERANCE:
            break
        if solve is None or change > WORTH * before:
            solve = _curvature(wide, p)
        before = change
        pull = p * (spread * now.a.sum(1, keepdim=True))
        move = solve(off - pull + p * pull.sum(-1, keepdim=True))
        a = now.a + move
        now = _shorten(target, now, a, now.b + spread * a.sum(1, keepdim=True), kernel @ a)
    return now.a, now.b


def _start(
    kernel: Float[Tensor, "E S S"], target: Float[Tensor, "S N"]
) -> tuple[Float[Tensor, "E S N"], Float[Tensor, "E S N"]]:
    """Coefficients and logits as if all shots were alike, which is most of the way.

    One number a, with a = 1 - p of the correct class, then describes the fit.
    """
    ways = target.shape[1]
    direction = (ways * target - 1) / (ways - 1)
    f = kernel @ direction
    margin = (f * direction).mean(1).sum(-1)  # of the correct class's logit, for a = 1
    low, high = torch.full_like(margin, -50.0), torch.full_like(margin, log(ways - 1))
    for _ in range(HALVINGS_OF_START):  # logit(a) + margin * a = log(ways - 1)
        middle = (low + high) / 2
        over = middle + margin * middle.sigmoid() > log(ways - 1)
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    share = ((low + high) / 2).sigmoid()[:, None, None]
    return share * direction, share * f


def _at(
    target: Float[Tensor, "S N"],
    a: Float[Tensor, "E S N"],
    b: Float[Tensor, "E 1 N"],
    f: Float[Tensor, "E S N"],
) -> _Fit:
    log_p = (f + b).log_softmax(-1)
    cost = (a * f).sum((1, 2)) / 2 - (target * log_p).sum((1, 2))
    return _Fit(a, b, f, log_p, cost)


def _moves(
    kernel: Float[Tensor, "E S S"],
    target: Float[Tensor, "S N"],
    p: Float[Tensor, "E S N"],
    off: Float[Tensor, "E S N"],
    logits: Float[Tensor, "E S N"],
) -> float:
    """The largest change that the next step would make to a logit, by weights or intercept.

    Short vectors have small logits, and every one of their answers lies in what is smaller still.
    """
    by_weights = (kernel @ off).abs().amax((1, 2))
    by_intercept = (target - p).sum(1).abs() / (p * (1 - p)).sum(1).clamp_min(1e-300)
    largest = logits.abs().amax((1, 2)).clamp(SMALLEST, 1)
    return float((torch.maximum(by_weights, by_intercept.amax(1)) / largest).amax())


def _curvature(
    kernel: Float[Tensor, "E S S"], p: Float[Tensor, "E S N"]
) -> Callable[[Float[Tensor, "E S N"]], Float[Tensor, "E S N"]]:
    """(1 + W kernel)^-1, where W = diag(p) - p p^T is the softmax's curvature."""
    inner = kernel[:, None].expand(-1, p.shape[-1], -1, -1).clone()
    inner.diagonal(dim1=2, dim2=3).add_(p.mT.clamp_min(1e-100).reciprocal())
    e = torch.cholesky_inverse(torch.linalg.cholesky_ex(inner).L)  # E N S S
    total = torch.linalg.cholesky_ex(e.sum(1)).L

    def solve(target: Float[Tensor, "E S N"]) -> Float[Tensor, "E S N"]:
        c = (e @ (kernel @ target).mT[..., None])[..., 0].mT
        shared = torch.cholesky_solve(c.sum(-1, keepdim=True), total)
        return target - c + (e @ shared[:, None])[..., 0].mT

    return solve


def _shorten(
    target: Float[Tensor, "S N"],
    old: _Fit,
    a: Float[Tensor, "E S N"],
    b: Float[Tensor, "E 1 N"],
    f: Float[Tensor, "E S N"],
) -> _Fit:
    """The step from old to a, b and f, halved in each episode until the cost does not rise."""
    new = _at(target, a, b, f)
    most = old.cost + 1e-12 * old.cost.abs()
    share = torch.ones_like(a[:, :1, :1])
    for _ in range(HALVINGS):
        rises = ~(new.cost <= most)  # true for NaN too
        if not bool(rises.any()):
            break
        share = torch.where(rises[:, None, None], share / 2, share)
        parts = ((o + share * (n - o)) for o, n in zip(old[:3], (a, b, f), strict=True))
        new = _at(target, *parts)
    return new


def build(config: Config) -> Head:
    """The head that these settings describe."""
    length = "unit" if config.unit else "whole" if config.normalise else ""
    transform = Transform(power=config.power, centre=config.centre, length=length)
    return transformed(Logistic(config), transform)
