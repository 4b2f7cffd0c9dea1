"""What was answered in episodes: how each class fared, and which pairs of classes were confused.

A pair is told beside how often it could have been confused at all, because a class meets few of the
others in an episode.

Shapes: E = episodes, M = queries, N = ways, C = classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from learn.data import Clips
from learn.episodes import Episodes

PAIRS = 30  # of one result, most confused first
EXAMPLES = 3  # clips of a pair


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

    def as_json(self) -> dict[str, Any]:
        return {key: list(value) for key, value in asdict(self).items()}


NOTHING = Answers(classes=(), confusions=())  # of queries with several right answers


def tally(clips: Clips, draw: Episodes, answered: Int[np.ndarray, "E M"]) -> Answers:
    """How the classes fared, where `answered` are positions among the ways of each episode."""
    real = draw.query >= 0
    truth = draw.classes[:, draw.answers]
    answer = np.take_along_axis(draw.classes, np.maximum(answered, 0), axis=1)
    asked = np.bincount(truth[real], minlength=len(clips.classes))
    right = np.bincount(truth[real & (truth == answer)], minlength=len(clips.classes))
    wrong = np.flatnonzero((real & (truth != answer)).ravel())
    pairs, times = np.unique(
        np.stack([truth.ravel()[wrong], answer.ravel()[wrong]]), axis=1, return_counts=True
    )
    most = np.lexsort((pairs[1], pairs[0], -times))[:PAIRS]
    queries_of = _queries(draw, len(clips.classes))
    met = queries_of >= 0
    queries = draw.query.ravel()[wrong]
    confusions = []
    for t, a, n in zip(*pairs[:, most].tolist(), times[most].tolist(), strict=True):
        of_pair = (truth.ravel()[wrong] == t) & (answer.ravel()[wrong] == a)
        confusions.append(
            Confusion(
                truth=clips.classes[t],
                answer=clips.classes[a],
                times=n,
                of=int(queries_of[met[:, t] & met[:, a], t].sum()),
                clips=_most_often(clips.ids, queries[of_pair]),
            )
        )
    return Answers(
        classes=tuple(
            OfClass(name=clips.classes[c], asked=int(asked[c]), right=int(right[c]))
            for c in np.flatnonzero(asked)
        ),
        confusions=tuple(confusions),
    )


def _queries(draw: Episodes, classes: int) -> Int[np.ndarray, "E C"]:
    """How many queries each class has in each episode; -1 where the class is not in it."""
    found = np.full((len(draw), classes + 1), -1, np.int32)  # the last is of no class
    np.put_along_axis(found, draw.classes, (draw.asked >= 0).sum(2), axis=1)
    return found[:, :-1]


def _most_often(ids: Sequence[str], queries: Int[np.ndarray, "_"]) -> tuple[Example, ...]:
    places, times = np.unique(queries, return_counts=True)
    most = np.lexsort((places, -times))[:EXAMPLES]
    return tuple(Example(clip_id=ids[places[i]], times=int(times[i])) for i in most)
