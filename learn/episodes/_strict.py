"""Draws that keep groups apart across all classes of an episode, not only within each.

Speakers who say every word, or channels that post about everything, tie classes together: a query
then has its own source among the shots of *another* class. Episodes in which that does not happen
stay as they were drawn, so that where classes share no groups nothing changes. Any other one deals
all groups to two sides, and deals those of classes that came off badly again, until each class has
K clips on the one side and Q on the other; shots and queries are then uniform, each on its side. A
group goes to the shots' side with probability K / (K + Q), or, after `EVEN` deals without success,
with one that is drawn for each deal. Classes are drawn again where `DEALS` deals fail, which shuns
sets of classes that can hardly be dealt.

Shapes: as in `learn.episodes`; P = clips of the largest class, G = groups, e = episodes at a time.

Source: Moser and Tardos, 2010 (drawing again only what a broken condition depends on).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32

EVEN = 40
DEALS = 200
CLASS_DRAWS = 25
NUMBERS_AT_ONCE = 1_000_000


class UnfilledError(Exception):
    """No deal was found: how often each class lacked clips in the last ones."""

    def __init__(self, lacking: "Counter[int]") -> None:
        super().__init__(lacking)
        self.lacking = lacking


def mend(
    rng: np.random.Generator,
    members: Sequence[Int[np.ndarray, "_"]],
    groups: Int32[np.ndarray, "V"],
    *,
    rich: Int32[np.ndarray, "_"],
    classes: Int32[np.ndarray, "E N"],
    drawn: Int32[np.ndarray, "E N C"],
    shots: int,
) -> None:
    """Draw those episodes again, in place, in which a group is on both sides; classes: `rich`.

    Raises:
        UnfilledError: names no set of classes that can be dealt.
    """
    widest = max(len(members[c]) for c in rich)
    table = np.zeros((len(members), widest), np.int32)
    real = np.zeros(table.shape, bool)
    for c in rich:
        table[c, : len(members[c])], real[c, : len(members[c])] = members[c], True
    dense = np.unique(groups, return_inverse=True)[1].reshape(-1)
    queries = drawn.shape[2] - shots
    hands = _Hands(table=table, real=real, groups=dense[table], shots=shots, queries=queries)
    ways = classes.shape[1]
    at_once = max(1, NUMBERS_AT_ONCE // max(ways * widest, int(dense.max()) + 1))
    for start in range(0, len(classes), at_once):
        part = slice(start, start + at_once)
        left = start + np.flatnonzero(_meet(groups[drawn[part]], shots))
        for _ in range(CLASS_DRAWS):
            left = hands.fill(rng, classes, drawn, left)
            if not len(left):
                break
            order = rng.permuted(np.tile(rich, (len(left), 1)), axis=1)
            classes[left] = order[:, :ways]
        else:
            raise UnfilledError(hands.lacking)


def _meet(groups: Int32[np.ndarray, "e N C"], shots: int) -> Bool[np.ndarray, "e"]:
    """Is some group on both sides?"""
    support = groups[:, :, :shots].reshape(len(groups), -1)
    query = groups[:, :, shots:].reshape(len(groups), -1)
    found = np.zeros(len(groups), bool)
    for shot in support.T:
        found |= (query == shot[:, None]).any(1)
    return found


class _Hands:
    """The clips and groups of each class, and what an episode takes of them."""

    def __init__(
        self,
        *,
        table: Int32[np.ndarray, "classes P"],
        real: Bool[np.ndarray, "classes P"],
        groups: Int[np.ndarray, "classes P"],
        shots: int,
        queries: int,
    ) -> None:
        self.table, self.real, self.groups = table, real, groups
        self.shots, self.queries = shots, queries
        self.lacking: Counter[int] = Counter()

    def fill(
        self,
        rng: np.random.Generator,
        classes: Int32[np.ndarray, "E N"],
        drawn: Int32[np.ndarray, "E N C"],
        left: Int[np.ndarray, "_"],
    ) -> Int[np.ndarray, "_"]:
        """Deal until the episodes `left` have their clips; those that never got them are given
        back."""
        again = np.ones((len(left), int(self.groups.max()) + 1), bool)
        side = np.zeros_like(again)
        for deal in range(DEALS if len(left) else 0):
            share = np.full(len(left), self.shots / (self.shots + self.queries))
            if deal >= EVEN:
                share = rng.random(len(left))
            side = np.where(again, rng.random(side.shape) < share[:, None], side)
            of_class = classes[left]
            real = self.real[of_class]
            theirs = side[np.arange(len(left))[:, None, None], self.groups[of_class]]
            short = ((theirs & real).sum(2) < self.shots) | ((~theirs & real).sum(2) < self.queries)
            done = ~short.any(1)
            for of, mine, first, last in (
                (theirs, self.shots, 0, self.shots),
                (~theirs, self.queries, self.shots, self.shots + self.queries),
            ):
                key = rng.random((int(done.sum()), *real.shape[1:]))
                order = np.argsort(np.where((of & real)[done], key, 2.0), axis=2, kind="stable")
                drawn[left[done], :, first:last] = np.take_along_axis(
                    self.table[of_class[done]], order[:, :, :mine], axis=2
                )
            if done.all():
                return left[:0]
            self.lacking = Counter(of_class[short].tolist())
            bad = (short[..., None] & real)[~done]
            left, side, of_class = left[~done], side[~done], of_class[~done]
            again = np.zeros_like(side)
            again[np.nonzero(bad)[0], self.groups[of_class][bad]] = True
        return left
