"""What shots, or queries with known labels, say of how much each sense should count.

The class of a clip is told by its distances to class means, those of all senses mixed by weights w:
s = sum_b w_b s_b, s_b = -|x_b - mean_b|^2. Weights and a sharpness t are as likely as they make the
true classes: l(w, t) = sum log softmax(t s). A shot is compared with means that it is left out of.

    w = mean over the grid of exp l(w, t) times the prior

The prior of w is a bell around its value, plus a share of it spread evenly over the simplex: the
shots can overrule it where it is wrong, and the more shots a class has the larger that share is.

Shapes: as in the package; P = clips whose classes are told.
"""

from functools import cache, reduce
from itertools import combinations
from math import comb

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learn.fewshot.fusions import Prior

SHARPNESSES = (4.0, 12.0, 36.0)  # each three times the one before
MOST_WEIGHTS = 300  # of a grid: the finest step of those below that has no more
STEPS = (10, 5, 4, 3, 2, 1)  # parts of the simplex's edge
WORST = 1e4  # of a clip's log odds: what is beyond is as good as impossible
CLIPS_A_CLASS = 4  # how many clips a class of known labels counts as
EVEN_BEFORE = 0.1  # share of a prior that other classes can overrule
LEAST_EVEN = 0.02  # share of the prior that is spread evenly, at least


@cache
def grid(senses: int) -> Float[Tensor, "G B"]:
    """Weights that sum to 1, evenly over the simplex."""
    parts = next((n for n in STEPS if comb(n + senses - 1, senses - 1) <= MOST_WEIGHTS), 1)
    bars = np.array(list(combinations(range(parts + senses - 1), senses - 1)), dtype=int)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=-1)
    edges[:, -1] = parts + senses - 1
    return torch.from_numpy((np.diff(edges, axis=1) - 1) / parts).float()


def left_out(
    products: Float[Tensor, "E S S"], ways: int, mask: Bool[Tensor, "E S"] | None = None
) -> tuple[Float[Tensor, "E S N"], Bool[Tensor, "*E S"]]:
    """Minus squared distances of shots to class means without them, up to what is the same for all
    classes of a shot; and which shots have another of their class."""
    shots = products.shape[-1] // ways
    eye = torch.eye(ways, dtype=products.dtype, device=products.device)
    own_SN = eye.repeat_interleave(shots, dim=0)
    if mask is not None:
        present = mask.to(products)
        products = products * present[..., None] * present[:, None]
    count = (own_SN if mask is None else own_SN * present[..., None]).sum(-2, keepdim=True)
    sums = reduce(torch.add, products.unflatten(-1, (ways, shots)).unbind(-1))
    square = (own_SN * sums).sum(1, keepdim=True)
    own = products.diagonal(dim1=1, dim2=2)[..., None]
    sums, count, square = (
        sums - own_SN * own,
        count - own_SN,
        square - own_SN * (2 * sums - own),
    )
    least = count.clamp_min(1)
    known = ((count * own_SN).sum(-1) > 0) & (True if mask is None else mask)
    return 2 * sums / least - square / least.square(), known


def to_means(
    products: Float[Tensor, "E S S"], across: Float[Tensor, "E M S"], ways: int
) -> Float[Tensor, "E M N"]:
    """The same for queries, by their products with shots."""
    shots = products.shape[-1] // ways
    eye = torch.eye(ways, dtype=products.dtype, device=products.device)
    share = eye.repeat_interleave(shots, dim=0) / shots
    square = (share * (products @ share)).sum(1, keepdim=True)
    return 2 * across @ share - square


def log_likelihood(
    scores: Float[Tensor, "B E P N"],
    truth: Int[Tensor, "P"],
    known: Bool[Tensor, "*E P"],
    weights: Float[Tensor, "G B"],
) -> Float[Tensor, "E G T"]:
    """l(w, t) of the true classes, for every w of the grid and every t."""
    senses, episodes, clips, _ = scores.shape
    place = truth[None, None, :, None].expand(senses, episodes, -1, 1)
    behind = (scores - scores.gather(-1, place)).permute(0, 3, 1, 2).contiguous()  # B N E P
    counted = known.expand(episodes, clips).to(scores)
    found = scores.new_empty(episodes, len(weights), len(SHARPNESSES))
    first = SHARPNESSES[0]
    for g, w in enumerate(weights):
        mixed = (first * w[0]) * behind[0]
        for sense, part in zip(w[1:], behind[1:], strict=True):
            mixed.add_(part, alpha=float(first * sense))
        odds = mixed.exp_()
        for t in range(len(SHARPNESSES)):  # the odds at three times the sharpness are these cubed
            odds = odds if t == 0 else odds * odds * odds
            against = reduce(torch.add, odds.unbind(0)).log_().clamp_max_(WORST)
            found[:, g, t] = torch.linalg.vecdot(against, counted).neg_()
    return found


def weights_of(
    likelihood: Float[Tensor, "E G T"], prior: Prior, shots: float
) -> Float[Tensor, "E B"]:
    """The mean weights of each episode, from what its shots say and the prior."""
    weights = grid(len(prior.value)).to(likelihood)
    even = max(LEAST_EVEN, 1 - 2 / shots)
    log_prior = prior_of_grid(weights, prior, even)
    posterior = (likelihood + log_prior[:, None]).flatten(1).softmax(1)
    return posterior.view(likelihood.shape).sum(2) @ weights


def prior_of_grid(weights: Float[Tensor, "G B"], prior: Prior, even: float) -> Float[Tensor, "G"]:
    """The prior's logarithm on the grid, of which the share `even` knows nothing."""
    middle = weights.new_tensor(prior.value)
    distance = (weights - middle).square().sum(1) / 2  # of two senses: of either's weight
    bell = (-distance / (2 * prior.spread**2)).softmax(0)
    return ((1 - even) * bell + even / len(weights)).log()


def from_classes(likelihood: Float[Tensor, "G T"], classes: int, before: Prior) -> Prior:
    """The prior that other classes give, drawn towards the one before the fewer they are.

    `likelihood` is the mean of one clip. Clips of a class are alike, so a class counts as few.
    """
    weights = grid(len(before.value)).to(likelihood)
    log_prior = prior_of_grid(weights, before, EVEN_BEFORE)
    posterior = (CLIPS_A_CLASS * classes * likelihood + log_prior[:, None]).flatten().softmax(0)
    mean = (posterior.view(likelihood.shape).sum(1) @ weights).tolist()
    total = sum(mean)
    return Prior(
        value=tuple(w / total for w in mean),
        origin=f"{classes} other classes, drawn towards {before.origin}",
    )
