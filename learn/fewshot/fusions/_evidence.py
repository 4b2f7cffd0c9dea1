"""What shots, or queries with known labels, say of how much each sense should count.

The class of a clip is told by its distances to class means, those of all senses mixed by weights w:
s = sum_b w_b s_b, s_b = -|x_b - mean_b|^2. Weights and a sharpness t are as likely as they make the
true classes: l(w, t) = sum log softmax(t s). A shot is compared with means that it is left out of.

    w = mean over the grid of exp(l(w, t) / 2) times the prior

Half, as two shots of a class are held against each other twice: each counts in the mean that the
other is told by. Taken whole, noise in so few clips moved the weights away from a good prior.

The prior of w is a bell around its value, plus a share spread evenly over the simplex and its
corners, where one sense has all the say: the shots can overrule the prior where it is wrong, and
the more shots a class has the larger that share is. Without the corners noise keeps some weight, as
a little of it harms no shot that is told.

Shapes: as in the package; P = clips whose classes are told.
"""

from collections.abc import Sequence
from functools import cache, lru_cache, reduce
from itertools import combinations, pairwise
from math import comb
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learn.fewshot.fusions import Prior

SHARPNESSES = (4.0, 12.0, 36.0)  # each three times the one before
MOST_WEIGHTS = 300  # of a grid: the finest step of those below that has no more
STEPS = (10, 5, 4, 3, 2, 1)  # parts of the simplex's edge
NUMBERS_AT_ONCE = 150_000  # more would be new memory time and again, which costs more than the sums
WORST = 1e4  # of a clip's log odds: what is beyond is as good as impossible
CLIPS_A_CLASS = 4  # how many clips a class of known labels counts as
EVEN_BEFORE = 0.1  # share of a prior that other classes can overrule
ALONE = 0.6  # of what is spread evenly, on weights of one sense alone: others may be noise
EACH_WAY = 0.5  # how much a shot left out counts: it is in the means of those it is held against
LEAST_EVEN = 0.02  # share of the prior that is spread evenly, at least


@cache
def grid(senses: int) -> Float[Tensor, "G B"]:
    """Weights that sum to 1, evenly over the simplex."""
    parts = next((n for n in STEPS if comb(n + senses - 1, senses - 1) <= MOST_WEIGHTS), 1)
    bars = np.array(list(combinations(range(parts + senses - 1), senses - 1)), dtype=int)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=-1)
    edges[:, -1] = parts + senses - 1
    return torch.from_numpy((np.diff(edges, axis=1) - 1) / parts).float()


class Scored(NamedTuple):
    """Minus squared distances of clips to class means, up to what all classes of a clip share."""

    to_means: Float[Tensor, "E P N"]
    to_own: Float[Tensor, "E P"]  # to the mean of the clip's class


def mixture(scored: Sequence[Scored], weights: Sequence[float]) -> Scored:
    """The distances in all senses together, mixed by these weights."""
    parts = list(zip(scored, weights, strict=True))
    return Scored(
        sum((w * s.to_means for s, w in parts), torch.zeros_like(scored[0].to_means)),
        sum((w * s.to_own for s, w in parts), torch.zeros_like(scored[0].to_own)),
    )


def left_out(
    products: Float[Tensor, "E S S"],
    ways: int,
    mask: Bool[Tensor, "E N K"] | None = None,
    average: Float[Tensor, "E"] | None = None,
) -> tuple[Scored, Bool[Tensor, "*E S"]]:
    """Distances of shots to class means, that of its own without the shot; and which shots have
    another of their class.

    Where counts are uneven, distances are as they would be on average with the `average` number of
    shots in every class, which senses share: else that of this mask.
    """
    shots = products.shape[-1] // ways
    count = products.new_full((1, ways), float(shots))
    if mask is not None:
        present = mask.flatten(1).to(products)
        products = products * present[..., None] * present[:, None]
        count = mask.sum(2).to(products)
    there = count.clamp_min(1)  # a class without any stands where the mean of all does
    rows = products.view(len(products), ways, shots, -1)  # of a class: as good as its columns
    sums = reduce(torch.add, rows.unbind(2))  # E N S
    of_own = sums.view(-1, ways, ways, shots).diagonal(dim1=1, dim2=2).mT  # E N K
    square = of_own.sum(2)
    own = products.diagonal(dim1=1, dim2=2).reshape(-1, ways, shots)
    others = (count - 1)[..., None]
    least = others.clamp_min(1)
    to_own = 2 * (of_own - own) / least - (square[..., None] - 2 * of_own + own) / least.square()
    known = (others > 0).expand(-1, -1, shots)
    to_means = (sums * (2 / there)[..., None] - (square / there.square())[..., None]).mT
    if mask is not None:
        known = known & mask
        if average is None:
            average = count.sum(1) / (count > 0).sum(1).clamp_min(1)
        of_all, of_own_class = _for_few(own, square, count, average)
        to_means = to_means + of_all[:, None]
        to_own = to_own + of_own_class[..., None]
    return Scored(to_means, to_own.flatten(1)), known.flatten(1)


def _for_few(
    own: Float[Tensor, "E N K"],
    square: Float[Tensor, "E N"],
    count: Float[Tensor, "E N"],
    average: Float[Tensor, "E"],
) -> tuple[Float[Tensor, "E N"], Float[Tensor, "E N"]]:
    """What minus squared distances to means of uneven counts lack beside those of the average one:
    to the mean of all shots of a class, and of one less.

    A mean of k shots is off by their variance / k, which says nothing of the sense.
    """
    there = count.clamp_min(1)
    within = (own.sum(2) - square / there).sum(1)
    variance = within / (count - 1).clamp_min(0).sum(1).clamp_min(1)
    of_all = 1 / there - 1 / average.clamp_min(1)[:, None]
    of_rest = 1 / (count - 1).clamp_min(1) - 1 / (average - 1).clamp_min(1)[:, None]
    return variance[:, None] * of_all, variance[:, None] * of_rest


def of_queries(
    products: Float[Tensor, "E S S"],
    across: Float[Tensor, "E M S"],
    truth: Int[Tensor, "M"],
    ways: int,
) -> Scored:
    """The same for queries whose class is known, by their products with shots."""
    shots = products.shape[-1] // ways
    eye = torch.eye(ways, dtype=products.dtype, device=products.device)
    share = eye.repeat_interleave(shots, dim=0) / shots
    square = (share * (products @ share)).sum(1, keepdim=True)
    to_means = 2 * across @ share - square
    return Scored(to_means, to_means[:, torch.arange(len(truth)), truth])


def log_likelihood(
    scored: Sequence[Scored],
    truth: Int[Tensor, "P"],
    known: Bool[Tensor, "*E P"],
    weights: Float[Tensor, "G B"],
) -> Float[Tensor, "E G T"]:
    """l(w, t) of the true classes, for every w of the grid and every t."""
    episodes, clips, ways = scored[0].to_means.shape
    behind = scored[0].to_means.new_empty(len(scored), ways, episodes, clips)
    for place, of_sense in zip(behind, scored, strict=True):
        torch.sub(of_sense.to_means.permute(2, 0, 1), of_sense.to_own, out=place)
    behind[:, truth, :, torch.arange(clips)] = 0
    counted = known.expand(episodes, clips).to(behind)
    found = behind.new_empty(episodes, len(weights), len(SHARPNESSES))
    odds_of = _on_a_line if len(scored) == 2 else _anywhere
    size = max(1, NUMBERS_AT_ONCE // (len(weights) * ways * clips))
    for first in range(0, episodes, size):
        part = slice(first, first + size)
        odds = odds_of(behind[:, :, part], weights)
        for t in range(len(SHARPNESSES)):  # the odds at three times the sharpness are these cubed
            odds = odds if t == 0 else odds.mul_(odds * odds)
            against = reduce(torch.add, odds.unbind(1)).log_().clamp_max_(WORST)
            found[part, :, t] = -(against.mul_(counted[part])).sum(-1).T
    return found


def _anywhere(
    behind: Float[Tensor, "B N E P"], weights: Float[Tensor, "G B"]
) -> Float[Tensor, "G N E P"]:
    """How likely each class is beside the true one at the least sharpness, for every w."""
    shape = len(weights), *behind.shape[1:]
    return (SHARPNESSES[0] * weights @ behind.flatten(1)).view(shape).exp_()


def _on_a_line(
    behind: Float[Tensor, "B N E P"], weights: Float[Tensor, "G B"]
) -> Float[Tensor, "G N E P"]:
    """The same for weights at even distances on a line, as all those of two senses are: each step
    multiplies the odds by the same. Logarithms of vectors of length 1 are 16 at most.
    """
    one, other = behind
    first, step_of = (SHARPNESSES[0] * weights[:2]).diff(dim=0, prepend=0 * weights[:1]).tolist()
    odds = behind.new_empty(len(weights), *one.shape)
    torch.mul(one, first[0], out=odds[0]).add_(other, alpha=first[1]).exp_()
    step = (one * step_of[0]).add_(other, alpha=step_of[1]).exp_()
    for before, after in pairwise(odds):
        torch.mul(before, step, out=after)
    return odds


def weights_of(
    likelihood: Float[Tensor, "E G T"], prior: Prior, shots: Float[Tensor, "*E"]
) -> Float[Tensor, "E B"]:
    """The mean weights of each episode, from what its shots say and the prior; `shots` of a class,
    on average."""
    even = (prior.doubt * (1 - 2 / shots)).clamp_min(LEAST_EVEN)[..., None]
    log_prior = prior_of_grid(prior, even).to(likelihood)
    posterior = (EACH_WAY * likelihood + log_prior[..., None]).flatten(1).softmax(1)
    mean = posterior.view(likelihood.shape).sum(2) @ grid(len(prior.value)).to(likelihood)
    return torch.where(shots[..., None] > prior.alone_until, mean, mean.new_tensor(prior.value))


def prior_of_grid(prior: Prior, even: Float[Tensor, "*E 1"]) -> Float[Tensor, "*E G"]:
    """The prior's logarithm on the grid, of which the share `even` knows nothing."""
    bell = _bell(prior).to(even)
    alone = (grid(len(prior.value)).amax(1) == 1).to(even) / len(prior.value)
    return ((1 - even) * bell + even * ((1 - ALONE) / len(bell) + ALONE * alone)).log()


@lru_cache(1024)
def _bell(prior: Prior) -> Float[Tensor, "G"]:
    weights = grid(len(prior.value)).double()
    distance = (weights - weights.new_tensor(prior.value)).square().sum(1) / 2  # of two: of either
    return (-distance / (2 * prior.spread**2)).softmax(0)


def from_classes(likelihood: Float[Tensor, "G T"], classes: int, before: Prior) -> Prior:
    """The prior that other classes give, drawn towards the one before the fewer they are.

    `likelihood` is the mean of one clip. Clips of a class are alike, so a class counts as few.
    """
    weights = grid(len(before.value)).to(likelihood)
    log_prior = prior_of_grid(before, likelihood.new_tensor([EVEN_BEFORE]))
    posterior = (CLIPS_A_CLASS * classes * likelihood + log_prior[:, None]).flatten().softmax(0)
    mean = (posterior.view(likelihood.shape).sum(1) @ weights).tolist()
    total = sum(mean)
    return Prior(
        value=tuple(w / total for w in mean),
        origin=f"{classes} other classes, drawn towards {before.origin}",
    )
