"""What an episode comes to: the number that its task is after.

    accuracy        the share of right answers
    harmonic_mean   of generalised episodes: 2 S U / (S + U), S and U the shares of right answers to
                    queries of base and of new classes, any class being a possible answer
    map             of clips with several labels: the mean over the episode's labels of the average
                    precision with which its queries are ranked

Beta is taken off the scores of base classes before an answer is given (calibrated stacking). It is
what is best in episodes of the val split, of all values between those scores, 0 among them.

Shapes: E and e = episodes, M and m = queries, N and n = ways, C = classes.

Source: Chao et al., 2016 (calibrated stacking).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from learn.data.clips import Clips
from learn.fewshot.heads import Context, Head
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import NUMBERS_AT_ONCE, Score, accuracies, fitter
from learn.fewshot.tasks import Block, Episodes
from store.errors import ConfigError

BETAS = 200


class View(NamedTuple):
    """What a head gets to see of some clips, and how many numbers that is."""

    head: Head
    pair: Pair
    context: Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of every episode, and what else must be known to read it."""

    of_episodes: Float[np.ndarray, "E"]
    predictions: Int[np.ndarray, "E M"] | None  # None where a query has several answers
    parts: Mapping[str, Any] = field(default_factory=dict)


def measure(
    clips: Clips,
    draw: Episodes,
    view: View,
    *,
    score: Score | None,
    tuned: tuple[Episodes, View] | None,
) -> Measured:
    """What the draw is after. `tuned` are episodes of the val split under the same head."""
    if draw.measure == "accuracy" and score:
        predictions = score(draw)
        return Measured(of_episodes=accuracies(draw, predictions), predictions=predictions)
    if draw.measure == "map":
        return Measured(of_episodes=average_precisions(clips, draw, view), predictions=None)
    if draw.measure == "harmonic_mean":
        return _generalised(draw, view, tuned)
    raise ConfigError(f"these episodes ask for {draw.measure!r}, which nobody here measures")


@torch.inference_mode()
def _scores(draw: Episodes, view: View) -> Iterator[tuple[Block, slice, np.ndarray]]:
    """Scores of a few episodes at a time: [e, m, n]."""
    few = fitter(*view)
    for block in draw.blocks():
        size = max(1, NUMBERS_AT_ONCE // (block.clips * view.pair.support.shape[1]))
        for first in range(0, len(block), size):
            part = slice(first, first + size)
            yield block, part, few(block, part).double().numpy()


class Margins(NamedTuple):
    """The best of new and of base classes for each query, and by how much base is ahead."""

    ahead: Float[np.ndarray, "E M"]
    new: Int[np.ndarray, "E M"]
    base: Int[np.ndarray, "E M"]

    def predictions(self, beta: float) -> Int[np.ndarray, "E M"]:
        return np.where(self.ahead > beta, self.base, self.new)


def margins(draw: Episodes, view: View) -> Margins:
    """New classes are the first of each episode."""
    ways = draw.facts["ways"]
    found = Margins(np.zeros(draw.query.shape), *(np.full(draw.query.shape, -1) for _ in range(2)))
    for block, part, scores in _scores(draw, view):
        rows, columns = block.places[part][:, None], block.columns[part]
        new, base = scores[..., :ways], scores[..., ways:]
        found.ahead[rows, columns] = base.max(-1) - new.max(-1)
        found.new[rows, columns] = new.argmax(-1)
        found.base[rows, columns] = ways + base.argmax(-1)
    return found


def shares(
    draw: Episodes, predictions: Int[np.ndarray, "E M"]
) -> tuple[Float[np.ndarray, "E"], Float[np.ndarray, "E"]]:
    """S and U of each episode."""
    right, new = predictions == draw.targets, draw.targets < draw.facts["ways"]
    return right[:, ~new].mean(1), right[:, new].mean(1)


def harmonic(
    one: Float[np.ndarray, "*shape"], other: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """0 where either is."""
    return np.asarray(2 * one * other / np.maximum(one + other, 1e-12))


def best_beta(draw: Episodes, found: Margins) -> float:
    """With the best mean harmonic mean; of equals the least."""
    quantiles = np.unique(np.quantile(found.ahead, np.linspace(0, 1, BETAS)))
    tried = [0.0, *((quantiles[1:] + quantiles[:-1]) / 2).tolist()]
    rated = [
        (float(harmonic(*shares(draw, found.predictions(beta))).mean()), -abs(beta), beta)
        for beta in tried
    ]
    return max(rated)[2]


def _generalised(draw: Episodes, view: View, tuned: tuple[Episodes, View] | None) -> Measured:
    found = margins(draw, view)
    beta, chosen_on = 0.0, "nothing: no val split has base and other new classes"
    if tuned:
        beta, chosen_on = best_beta(tuned[0], margins(*tuned)), "val"
    predictions = found.predictions(beta)
    s, u = shares(draw, predictions)
    new = draw.targets < draw.facts["ways"]
    alone = (found.new == draw.targets)[:, new].mean()
    seen, unseen = np.asarray(s.mean()), np.asarray(u.mean())
    return Measured(
        of_episodes=harmonic(s, u),
        predictions=predictions,
        parts={
            "seen": float(seen),
            "unseen": float(unseen),
            "harmonic_mean_of_means": float(harmonic(seen, unseen)),
            "unseen_alone": float(alone),
            "beta": beta,
            "beta_chosen_on": chosen_on,
        },
    )


def average_precisions(clips: Clips, draw: Episodes, view: View) -> Float[np.ndarray, "E"]:
    """The mean over the labels of an episode; of equal scores the first query comes first."""
    assert clips.targets is not None
    found = np.zeros(len(draw))
    for block, part, scores in _scores(draw, view):
        classes, query = block.classes[part], block.query[part]
        truth = clips.targets[query[:, :, None], classes[:, None, :]]
        found[block.places[part]] = ranked(scores, truth).mean(1)
    return found


def ranked(
    scores: Float[np.ndarray, "e m n"], truth: Bool[np.ndarray, "e m n"]
) -> Float[np.ndarray, "e n"]:
    """The average precision of each label."""
    order = np.argsort(-scores, axis=1, kind="stable")
    hit = np.take_along_axis(truth, order, axis=1)
    precision = hit.cumsum(1) / np.arange(1, hit.shape[1] + 1)[:, None]
    return np.asarray((precision * hit).sum(1) / np.maximum(hit.sum(1), 1))
