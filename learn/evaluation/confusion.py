"""What was answered in episodes: how each class fared, and which pairs of classes were confused.

A pair is told beside how often it could have been confused at all, because a class meets few of the
others in an episode.

Shapes: E = episodes, M = queries, N = ways, C = classes, P = pairs of classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from learn.data.clips import Clips
from learn.fewshot.tasks import Episodes

PAIRS = 30  # of one result, most confused first
EXAMPLES = 3  # clips of a pair
TABLE = 4_000_000  # pairs that are counted in a table; more are sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class OfClass:
    """One class that was asked about."""

    name: str
    asked: int  # queries, over all episodes
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A clip, and how often the answer to it was the wrong class of its pair."""

    clip_id: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Clips of `truth` that were called `answer`."""

    truth: str
    answer: str
    times: int
    of: int  # queries of `truth` in episodes that had both classes
    clips: tuple[Example, ...]  # those most often confused


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Of one result."""

    classes: tuple[OfClass, ...]
    confusions: tuple[Confusion, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {key: list(value) for key, value in asdict(self).items()}


NOTHING = Answers(classes=(), confusions=())  # of queries with several right answers


def tally(clips: Clips, draw: Episodes, predictions: Int[np.ndarray, "E M"]) -> Answers:
    """How the classes fared, where `predictions` are positions among the ways of each episode."""
    size = len(clips.classes)
    truth = draw.classes[:, draw.targets].ravel()
    answer = np.take_along_axis(draw.classes, np.maximum(predictions, 0), axis=1).ravel()
    query = draw.query.ravel()
    if query.min() < 0:
        mask = query >= 0
        truth, answer, query = truth[mask], answer[mask], query[mask]
    wrong = np.flatnonzero(truth != answer)
    asked = np.bincount(truth, minlength=size)
    right = asked - np.bincount(truth[wrong], minlength=size)
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
    return Answers(
        classes=tuple(
            OfClass(name=clips.classes[c], asked=int(asked[c]), right=int(right[c]))
            for c in np.flatnonzero(asked)
        ),
        confusions=tuple(confusions),
    )


def _counted(
    keys: Int[np.ndarray, "_"], size: int
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """The keys that occur, all less than `size`, and how often."""
    if size > TABLE:
        return np.unique(keys, return_counts=True)
    counts = np.bincount(keys, minlength=size)
    there = np.flatnonzero(counts)
    return there, counts[there]


def _queries(draw: Episodes, classes: int) -> Int[np.ndarray, "E C"]:
    """How many queries each class has in each episode; -1 where the class is not in it."""
    found = np.full((len(draw), classes + 1), -1, np.int32)  # the last is of no class
    np.put_along_axis(found, draw.classes, (draw.asked >= 0).sum(2), axis=1)
    return found[:, :-1]


def _most_often(ids: Sequence[str], queries: Int[np.ndarray, "_"]) -> tuple[Example, ...]:
    places, times = np.unique(queries, return_counts=True)
    most = np.lexsort((places, -times))[:EXAMPLES]
    return tuple(Example(clip_id=ids[places[i]], times=int(times[i])) for i in most)
