"""Recalls of the classes of episodes, and the classes that were confused.

A pair stands beside how often it could have been confused at all, because a class meets few of the
others in an episode.

Shapes: E = episodes, M = queries, N = ways, C = classes, P = pairs of classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from learn.data.clips import Clips
from learn.evaluation.calibration import Calibration
from learn.fewshot.tasks import Episodes

PAIRS = 30  # of one result, most confused first
EXAMPLES = 3  # clips of a pair
MATRIX = 60  # classes whose confusions are kept whole
TABLE = 4_000_000  # pairs that are counted in a table; more are sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class OfClass:
    """The number of queries of one class, and of correct predictions."""

    name: str
    asked: int  # queries, over all episodes
    right: int  # so called in answers.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A clip, and how often the answer to it was the wrong class of its pair."""

    clip_id: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Clips of `truth` that were taken for `answer`."""

    truth: str
    answer: str
    times: int
    of: int  # queries of `truth` in episodes that had both classes
    clips: tuple[Example, ...]  # those most often confused


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """All answers: rows are classes, columns what they were taken for."""

    classes: tuple[str, ...]
    times: tuple[tuple[int, ...], ...]
    of: tuple[tuple[int, ...], ...]  # queries of the row's class in episodes that had both

    def to_dict(self) -> dict[str, Any]:
        """The matrix as answers.json has it."""
        return {
            "classes": list(self.classes),
            "times": [list(row) for row in self.times],
            "of": [list(row) for row in self.of],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The counts of one result: by class, of the pairs confused most, and what is kept whole."""

    classes: tuple[OfClass, ...]
    confusions: tuple[Confusion, ...]
    matrix: Matrix | None = None  # of few classes
    calibration: Calibration | None = None

    def to_dict(self) -> dict[str, Any]:
        """The tally as answers.json has it."""
        whole = {"matrix": self.matrix, "calibration": self.calibration}
        return {
            "classes": [asdict(one) for one in self.classes],
            "confusions": [asdict(one) for one in self.confusions],
            **{key: value.to_dict() for key, value in whole.items() if value is not None},
        }


EMPTY = Tally(classes=(), confusions=())  # of queries with several right answers


def tally(clips: Clips, draw: Episodes, predictions: Int[np.ndarray, "E M"]) -> Tally:
    """Count predictions, which are positions among the ways of each episode."""
    size = len(clips.classes)
    truth = draw.classes[:, draw.targets].ravel()
    answer = np.take_along_axis(draw.classes, np.maximum(predictions, 0), axis=1).ravel()
    query = draw.query.ravel()
    if query.min() < 0:
        mask = query >= 0
        truth, answer, query = truth[mask], answer[mask], query[mask]
    wrong = np.flatnonzero(truth != answer)
    asked = np.bincount(truth, minlength=size)
    correct = asked - np.bincount(truth[wrong], minlength=size)
    pair = truth[wrong].astype(np.int64) * size + answer[wrong]
    pairs, times = _counted(pair, size**2)
    most = np.lexsort((pairs, -times))[:PAIRS]
    shown = np.isin(pair, pairs[most])  # the examples are among these few
    pair, query = pair[shown], query[wrong[shown]]
    queries_of = _queries(draw, size)
    met = queries_of >= 0
    confusions = []
    for key, n in zip(pairs[most].tolist(), times[most].tolist(), strict=True):
        t, a = divmod(key, size)
        confusions.append(
            Confusion(
                truth=clips.classes[t],
                answer=clips.classes[a],
                times=n,
                of=int(queries_of[met[:, t] & met[:, a], t].sum()),
                clips=_most_often(clips.ids, query[pair == key]),
            )
        )
    return Tally(
        classes=tuple(
            OfClass(name=clips.classes[c], asked=int(asked[c]), right=int(correct[c]))
            for c in np.flatnonzero(asked)
        ),
        confusions=tuple(confusions),
        matrix=_matrix(clips.classes, truth, answer, queries_of) if size <= MATRIX else None,
    )


def matrix_of(
    classes: Sequence[str], truth: Int[np.ndarray, "_"], answer: Int[np.ndarray, "_"]
) -> Matrix | None:
    """The matrix of answers that could be any class; None of many classes."""
    size = len(classes)
    if size > MATRIX or not len(truth):
        return None
    asked = np.bincount(truth, minlength=size).astype(np.int32)
    return _matrix(classes, truth, answer, asked[None])


def _matrix(
    classes: Sequence[str],
    truth: Int[np.ndarray, "_"],
    answer: Int[np.ndarray, "_"],
    queries_of: Int[np.ndarray, "E C"],
) -> Matrix:
    """The matrix of the classes that were asked about."""
    size = len(classes)
    times = np.bincount(truth.astype(np.int64) * size + answer, minlength=size**2)
    met = queries_of >= 0
    of = np.maximum(queries_of, 0).T.astype(np.int64) @ met
    shown = np.flatnonzero(of.any(1))
    table = times.reshape(size, size)
    return Matrix(
        classes=tuple(classes[c] for c in shown.tolist()),
        times=tuple(tuple(row) for row in table[np.ix_(shown, shown)].tolist()),
        of=tuple(tuple(row) for row in of[np.ix_(shown, shown)].tolist()),
    )


def _counted(
    keys: Int[np.ndarray, "_"], size: int
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """The keys that occur, all less than `size`, and how often."""
    if size > TABLE:
        return np.unique(keys, return_counts=True)
    counts = np.bincount(keys, minlength=size)
    occurring = np.flatnonzero(counts)
    return occurring, counts[occurring]


def _queries(draw: Episodes, classes: int) -> Int[np.ndarray, "E C"]:
    """The number of queries of each class in each episode; -1 where the class is not in it."""
    counts = np.full((len(draw), classes + 1), -1, np.int32)  # the last is of no class
    np.put_along_axis(counts, draw.classes, (draw.asked >= 0).sum(2), axis=1)
    return counts[:, :-1]


def _most_often(ids: Sequence[str], queries: Int[np.ndarray, "_"]) -> tuple[Example, ...]:
    indices, times = np.unique(queries, return_counts=True)
    most = np.lexsort((indices, -times))[:EXAMPLES]
    return tuple(Example(clip_id=ids[indices[i]], times=int(times[i])) for i in most)
