"""The number that sums up an episode: accuracy, harmonic mean or mean average precision.

    accuracy        the share of right answers
    harmonic_mean   of generalised episodes: 2 S U / (S + U), S and U the shares of right answers to
                    queries of base and of new classes, any class being a possible answer
    map             of clips with several labels: the mean over the episode's labels of the average
                    precision with which its queries are ranked

Beta is taken off the scores of base classes before an answer is given (calibrated stacking). It is
what is best in episodes of the val split, of all values between those scores, 0 among them.

No tie is decided by where a clip or a class stands. Queries of equal scores are ranked at once, as
in scikit-learn's average precision. Of classes with equal scores the first of the episode is
predicted, and episodes hold their classes in random order; only base and new classes keep to their
sides, and between these a coin decides that has as many sides as there are equals.

Shapes: E and e = episodes, M and m = queries, N and n = ways, C = classes.

Source: Chao et al., 2016 (calibrated stacking).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from learn.data.clips import Clips
from learn.fewshot.fused import FusedPredictor
from learn.fewshot.heads import Context, Head
from learn.fewshot.kept import Kept
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import MEMORY, NUMBERS_AT_ONCE, Score, accuracies, fitter, scorer
from learn.fewshot.tasks import EpisodeBatch, Episodes
from store.errors import ConfigError

BETAS = 200
ROUNDING = 16  # units in the last place of the largest score: scores that are closer are equal


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A head on some clips: its predictions for episodes of them, and the scores behind these."""

    head: Head
    pair: Pair
    context: Context
    queries: int = (
        0  # of all episodes to come (`queries_of`): decides whether a table of products pays
    )
    memory: int = MEMORY  # bytes
    kept: Kept = field(default_factory=Kept)  # what other heads may have in common with this one

    @cached_property
    def predict(self) -> Score:
        """A function from episodes to predictions, as positions among the ways."""
        return scorer(
            self.head, self.pair, self.context, queries=self.queries, memory=self.memory,
            kept=self.kept,
        )  # fmt: skip

    @torch.inference_mode()
    def scores(self, episodes: Episodes) -> Iterator[tuple[EpisodeBatch, slice, np.ndarray]]:
        """Scores of a few episodes at a time, as precise as the head's: [e, m, n]."""
        score = fitter(self.head, self.pair, self.context)
        for batch in episodes.batches():
            size = max(1, NUMBERS_AT_ONCE // (batch.clips * self.pair.support.shape[1]))
            for first in range(0, len(batch), size):
                part = slice(first, first + size)
                yield batch, part, score(batch, part).cpu().numpy()


AnyPredictor = Predictor | FusedPredictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The number of every episode, and what else must be known to read it."""

    of_episodes: Float[np.ndarray, "E"]
    predictions: Int[np.ndarray, "E M"] | None  # None where a query has several answers
    parts: Mapping[str, Any] = field(default_factory=dict)


def measure(
    clips: Clips,
    episodes: Episodes,
    predictor: AnyPredictor,
    *,
    tuned: tuple[Episodes, AnyPredictor] | None = None,
) -> Measured:
    """The number of each episode that its task asks for.

    `tuned` are episodes of the val split under the same head, to choose beta on.
    """
    if episodes.measure == "accuracy":
        predictions = predictor.predict(episodes)
        return Measured(of_episodes=accuracies(episodes, predictions), predictions=predictions)
    if episodes.measure == "map":
        precisions = average_precisions(clips, episodes, predictor)
        return Measured(of_episodes=precisions, predictions=None)
    if episodes.measure == "harmonic_mean":
        return _generalised(episodes, predictor, tuned)
    raise ConfigError(f"these episodes ask for {episodes.measure!r}, which nobody here measures")


class Margins(NamedTuple):
    """The best new and the best base class for each query, and by how much base is ahead."""

    ahead: Float[np.ndarray, "E M"]
    new: Int[np.ndarray, "E M"]
    base: Int[np.ndarray, "E M"]
    coin: Bool[np.ndarray, "E M"]  # is it a base class where both are equal?

    def predictions(self, beta: float) -> Int[np.ndarray, "E M"]:
        """The predictions, with beta taken off the scores of base classes."""
        ahead = (self.ahead > beta) | ((self.ahead == beta) & self.coin)
        return np.where(ahead, self.base, self.new)


def margins(episodes: Episodes, predictor: AnyPredictor) -> Margins:
    """The margins of all queries; new classes are the first of each episode."""
    ways, shape = episodes.facts["ways"], episodes.query.shape
    new_best, base_best = (np.full(shape, -1) for _ in range(2))
    all_margins = Margins(np.zeros(shape), new_best, base_best, np.zeros(shape, bool))
    thrown = np.random.default_rng([episodes.seed, len(episodes)]).random(shape)
    for batch, part, scores in predictor.scores(episodes):
        rows, columns = batch.indices[part][:, None], batch.columns[part]
        rounding = _rounding(scores, axis=2)
        scores = scores.astype(np.float64)
        new, base = scores[..., :ways], scores[..., ways:]
        ahead = base.max(-1) - new.max(-1)
        ahead[np.abs(ahead) <= rounding[..., 0]] = 0
        all_margins.ahead[rows, columns] = ahead
        equal = scores >= scores.max(-1, keepdims=True) - rounding
        share = equal[..., ways:].sum(-1) / equal.sum(-1)  # of base classes among the equals
        all_margins.coin[rows, columns] = thrown[rows, columns] < share
        all_margins.new[rows, columns] = new.argmax(-1)
        all_margins.base[rows, columns] = ways + base.argmax(-1)
    return all_margins


def seen_and_unseen(
    episodes: Episodes, predictions: Int[np.ndarray, "E M"]
) -> tuple[Float[np.ndarray, "E"], Float[np.ndarray, "E"]]:
    """S and U of each episode: the accuracies on base and on new classes."""
    correct, new = predictions == episodes.targets, episodes.targets < episodes.facts["ways"]
    return correct[:, ~new].mean(1), correct[:, new].mean(1)


def harmonic(
    seen: Float[np.ndarray, "*shape"], unseen: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """The harmonic mean of both; 0 where either is."""
    return np.asarray(2 * seen * unseen / np.maximum(seen + unseen, 1e-12))


def best_beta(episodes: Episodes, margins: Margins) -> float:
    """The beta with the best mean harmonic mean; of equals the one nearest to zero."""
    quantiles = np.unique(np.quantile(margins.ahead, np.linspace(0, 1, BETAS)))
    betas = [0.0, *((quantiles[1:] + quantiles[:-1]) / 2).tolist()]
    rated = [
        (
            float(harmonic(*seen_and_unseen(episodes, margins.predictions(beta))).mean()),
            -abs(beta),
            beta,
        )
        for beta in betas
    ]
    return max(rated)[2]


def _generalised(
    episodes: Episodes, predictor: AnyPredictor, tuned: tuple[Episodes, AnyPredictor] | None
) -> Measured:
    margins_of_queries = margins(episodes, predictor)
    beta, chosen_on = 0.0, "nothing: no val split has base and other new classes"
    if tuned:
        beta, chosen_on = best_beta(tuned[0], margins(*tuned)), "val"
    predictions = margins_of_queries.predictions(beta)
    s, u = seen_and_unseen(episodes, predictions)
    new = episodes.targets < episodes.facts["ways"]
    alone = (margins_of_queries.new == episodes.targets)[:, new].mean()
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


def average_precisions(
    clips: Clips, episodes: Episodes, predictor: AnyPredictor
) -> Float[np.ndarray, "E"]:
    """The mean average precision of each episode."""
    assert clips.targets is not None
    means = np.zeros(len(episodes))
    for batch, part, scores in predictor.scores(episodes):
        classes, query = batch.classes[part], batch.query[part]
        truth = clips.targets[query[:, :, None], classes[:, None, :]]
        means[batch.indices[part]] = ranked(scores, truth).mean(1)
    return means


def ranked(
    scores: Float[np.ndarray, "e m n"], truth: Bool[np.ndarray, "e m n"]
) -> Float[np.ndarray, "e n"]:
    """The average precision of each label; queries of equal scores are found at once."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked_scores = np.take_along_axis(scores, order, axis=1)
    hit = np.take_along_axis(truth, order, axis=1)
    last = np.ones(hit.shape, bool)
    last[:, :-1] = ranked_scores[:, :-1] - ranked_scores[:, 1:] > _rounding(scores, axis=1)
    stop = np.where(last, np.arange(1, hit.shape[1] + 1)[:, None], hit.shape[1])
    stop = np.minimum.accumulate(stop[:, ::-1], axis=1)[:, ::-1]
    precision = np.take_along_axis(hit.cumsum(1), stop - 1, axis=1) / stop
    return np.asarray((precision * hit).sum(1) / np.maximum(hit.sum(1), 1))


def _rounding(scores: Float[np.ndarray, "e m n"], axis: int) -> Float[np.ndarray, "e _ _"]:
    """The difference along an axis that is no more than rounding, in the scores' own precision."""
    largest = np.abs(scores).max(axis=axis, keepdims=True)
    return np.asarray(ROUNDING * np.finfo(scores.dtype).eps * largest)
