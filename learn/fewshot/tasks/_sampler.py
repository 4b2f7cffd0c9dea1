"""Draws clips for episodes whose classes and counts are decided: shots and queries, groups apart.

An episode first draws its shots, uniformly within each class, and then its queries uniformly among
the clips of groups that no shot has; where too few are left it does so again. Where that keeps
failing it deals all groups to two sides, and deals those of classes that came off badly again,
until every class has its shots on the one side and its queries on the other; both are then uniform,
each on its side. A group goes to the shots' side with the share that shots have in the episode, or,
after `EVEN` deals without success, with one that is drawn for each deal.

The setting `groups` decides what a group is: its number within each class, across all of them, or
each clip by itself. Clips may be shots or queries as their roles say.

Shapes: as in the package; V = clips, P = clips of the largest class, G = groups, e = episodes
at a time.

Source: Moser and Tardos, 2010 (drawing again only what a broken condition depends on).
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32

from learn.data.clips import QUERY, SHOT, UNLABELLED, Clips
from store.errors import NotEnoughClips
from store.progress import steps

REDRAWS = 20
EVEN = 40
DEALS = 200
CLASS_DRAWS = 25
NUMBERS_AT_ONCE = 1_000_000


class Wanted(NamedTuple):
    """Classes of each episode, and how many clips of them; beyond its last class -1, 0 and 0."""

    classes: Int32[np.ndarray, "E N"]
    shots: Int32[np.ndarray, "E N"]
    queries: Int32[np.ndarray, "E N"]


def even(classes: Int32[np.ndarray, "E N"], shots: int, queries: int) -> Wanted:
    """The same number of shots, and of queries, from every class."""
    counts = (np.full(classes.shape, n, np.int32) for n in (shots, queries))
    return Wanted(classes, *counts)


Ask = Callable[[np.random.Generator, int], Wanted]


class EpisodeSampler:
    """Draws clips of each class so that no group has both shots and queries."""

    def __init__(self, clips: Clips, groups: str) -> None:
        """
        Raises:
            NotEnoughClips: groups are to be kept apart across classes, and none is known.
        """
        if groups == "strict" and clips.groups is None:
            raise NotEnoughClips(
                "groups=strict needs to know which clips are of one source: give the manifest a "
                "column 'group', or name one as `group`"
            )
        labelled = clips.class_ids != UNLABELLED
        self.clips = clips
        self.can_support, self.can_query = (
            clips.has_role(SHOT) & labelled,
            clips.has_role(QUERY) & labelled,
        )
        group = np.arange(len(clips))
        if groups != "mixed" and clips.groups is not None:
            group = clips.groups.astype(np.int64)
            if groups == "within":
                group += clips.class_ids.astype(np.int64) * (int(group.max(initial=0)) + 1)
        self.groups = np.unique(group, return_inverse=True)[1].reshape(-1)
        self.count = int(self.groups.max(initial=0)) + 1
        order = np.flatnonzero(labelled)
        order = order[np.argsort(clips.class_ids[order], kind="stable")]
        sizes = np.bincount(clips.class_ids[order], minlength=len(clips.classes))
        self.table = np.zeros((len(sizes), max(1, sizes.max(initial=0))), np.int32)
        self.mask = np.arange(self.table.shape[1]) < sizes[:, None]
        self.table[self.mask] = order
        self.lacking: Counter[int] = Counter()

    def draw(
        self, rng: np.random.Generator, ask: Ask, *, episodes: int, shots: int, queries: int
    ) -> tuple[Wanted, Int32[np.ndarray, "E N C"]]:
        """The classes and counts drawn in the end, and the clips: `shots` columns, then `queries`,
        -1 where fewer are wanted.

        Raises:
            NotEnoughClips: names the classes that lack clips.
        """
        wanted = ask(rng, episodes)
        drawn = np.full((*wanted.classes.shape, shots + queries), -1, np.int32)
        at_once = self.at_once(wanted.classes.shape[1])
        advance = steps("episodes drawn", episodes)
        for start in range(0, episodes, at_once):
            left = np.arange(start, min(start + at_once, episodes))
            self.complete(rng, wanted, drawn, left, shots, ask)
            advance(len(left))
        return wanted, drawn

    def at_once(self, ways: int) -> int:
        """Number of episodes that are drawn at a time, so that memory stays bounded."""
        return max(1, NUMBERS_AT_ONCE // max(ways * self.table.shape[1], self.count))

    def complete(
        self,
        rng: np.random.Generator,
        wanted: Wanted,
        drawn: Int32[np.ndarray, "E N C"],
        left: Int[np.ndarray, "_"],
        shots: int,
        ask: Ask,
        *,
        redraws: int = REDRAWS,
    ) -> None:
        """Fill the episodes `left`, asking again for those that cannot be filled, in place.

        Raises:
            NotEnoughClips: names the classes that lack clips.
        """
        for _ in range(CLASS_DRAWS):
            for _ in range(redraws if len(left) else 0):
                left = self._uniform(rng, wanted, drawn, left, shots)
            left = self._deal(rng, wanted, drawn, left, shots)
            if not len(left):
                return
            for old, new in zip(wanted, ask(rng, len(left)), strict=True):
                old[left] = new
        worst = ", ".join(self.describe(c) for c, _ in self.lacking.most_common(8))
        raise NotEnoughClips(
            f"these episodes cannot be filled with groups of support and query apart; what lacks "
            f"clips: {worst}. Lower ways, shots or queries, or use less strict `groups`"
        )

    def eligible(self, shots: int, queries: int) -> Int32[np.ndarray, "_"]:
        """Classes that have so many shots and, of other groups, so many queries."""
        classes = range(len(self.clips.classes))
        return np.array([c for c in classes if self.able(c, shots, queries)], np.int32)

    def able(self, c: int, shots: int, queries: int) -> bool:
        """True if this class by itself has so many shots, and so many queries of other groups."""
        members = self.table[c, self.mask[c]]
        can_support, can_query = self.can_support[members], self.can_query[members]
        if can_support.all() and can_query.all():
            return enough(self.groups[members], shots, queries)
        return self.most_queries(c, shots) >= queries

    def most_queries(self, c: int, shots: int) -> int:
        """The most queries left beside so many shots; -1 if there are not enough shots."""
        members = self.table[c, self.mask[c]]
        groups, can_support = self.groups[members], self.can_support[members]
        free = int(self.can_query[members].sum())
        # By group: what it gives in shots, what it costs in queries; a knapsack over shots.
        least = {0: 0}
        for group in np.unique(groups[can_support]):
            in_group = groups == group
            shots_gained, queries_lost = (
                int((in_group & can_support).sum()),
                int(self.can_query[members[in_group]].sum()),
            )
            for shots_so_far, cost in list(least.items()):
                reached = min(shots, shots_so_far + shots_gained)
                least[reached] = min(least.get(reached, free + 1), cost + queries_lost)
        return free - least[shots] if shots in least else -1

    def refusal(
        self,
        eligible: Int[np.ndarray, "_"],
        ways: int,
        requirement: str,
        lower: str,
        *,
        among: Int[np.ndarray, "_"] | None = None,
    ) -> str:
        """One line that names the classes that lack what is required."""
        classes = list(range(len(self.mask))) if among is None else among.tolist()
        lacking = [c for c in classes if c not in set(eligible.tolist())]
        listed = ", ".join(map(self.describe, lacking[:8])) + (", …" if len(lacking) > 8 else "")
        known = self.clips.groups is not None
        apart, mixed = (" in groups kept apart", ", or use `groups` mixed") if known else ("", "")
        return (
            f"these episodes need {ways} classes with {requirement}{apart}; only "
            f"{len(eligible)} of {len(classes)} have that{f' ({listed})' if listed else ''}. Lower "
            f"{lower}{mixed}"
        )

    def describe(self, c: int) -> str:
        """A class with its numbers of clips and groups."""
        members = self.table[c, self.mask[c]]
        if self.clips.groups is None:
            return f"{self.clips.classes[c]}: {len(members)}"
        groups = len(np.unique(self.groups[members]))
        return f"{self.clips.classes[c]}: {len(members)} in {groups} group{'s' * (groups != 1)}"

    def _uniform(
        self,
        rng: np.random.Generator,
        wanted: Wanted,
        drawn: Int32[np.ndarray, "E N C"],
        left: Int[np.ndarray, "_"],
        shots: int,
    ) -> Int[np.ndarray, "_"]:
        """Draw the episodes `left` once; returns those that have too few queries."""
        if not len(left):
            return left
        classes, of_support, of_query = (part[left] for part in wanted)
        clips, mask = self.table[classes], self.mask[classes] & (classes >= 0)[..., None]
        may_support = mask & self.can_support[clips]
        support = _chosen(rng, clips, may_support, of_support, shots)
        taken = np.zeros((len(left), self.count + 1), bool)
        of_shots = np.where(support >= 0, self.groups[support], self.count).reshape(len(left), -1)
        np.put_along_axis(taken, of_shots, True, axis=1)
        rows = np.arange(len(left))[:, None, None]
        may_query = mask & self.can_query[clips] & ~taken[rows, self.groups[clips]]
        short = (may_support.sum(2) < of_support) | (may_query.sum(2) < of_query)
        done = ~short.any(1)
        drawn[left[done], :, :shots] = support[done]
        most = drawn.shape[2] - shots
        drawn[left[done], :, shots:] = _chosen(
            rng, clips[done], may_query[done], of_query[done], most
        )
        return left[~done]

    def _deal(
        self,
        rng: np.random.Generator,
        wanted: Wanted,
        drawn: Int32[np.ndarray, "E N C"],
        left: Int[np.ndarray, "_"],
        shots: int,
    ) -> Int[np.ndarray, "_"]:
        """Deal groups to the two sides, again and again; returns the episodes never filled."""
        again = np.ones((len(left), self.count), bool)
        side = np.zeros_like(again)
        for deal in range(DEALS if len(left) else 0):
            classes, of_support, of_query = (part[left] for part in wanted)
            share = of_support.sum(1) / (of_support.sum(1) + of_query.sum(1))
            if deal >= EVEN:
                share = rng.random(len(left))
            side = np.where(again, rng.random(side.shape) < share[:, None], side)
            clips, mask = self.table[classes], self.mask[classes] & (classes >= 0)[..., None]
            theirs = side[np.arange(len(left))[:, None, None], self.groups[clips]]
            may_support, may_query = (
                mask & theirs & self.can_support[clips],
                mask & ~theirs & self.can_query[clips],
            )
            short = (may_support.sum(2) < of_support) | (may_query.sum(2) < of_query)
            done = ~short.any(1)
            for allowed, count, first, last in (
                (may_support, of_support, 0, shots),
                (may_query, of_query, shots, drawn.shape[2]),
            ):
                chosen = _chosen(rng, clips[done], allowed[done], count[done], last - first)
                drawn[left[done], :, first:last] = chosen
            if done.all():
                return left[:0]
            self.lacking = Counter(classes[short].tolist())
            bad = (short[..., None] & mask)[~done]
            left, side = left[~done], side[~done]
            again = np.zeros_like(side)
            again[np.nonzero(bad)[0], self.groups[clips[~done][bad]]] = True
        return left


def _chosen(
    rng: np.random.Generator,
    clips: Int32[np.ndarray, "e N P"],
    allowed: Bool[np.ndarray, "e N P"],
    counts: Int32[np.ndarray, "e N"],
    most: int,
) -> Int32[np.ndarray, "e N most"]:
    """`counts` of the allowed clips, each equally likely, then -1."""
    key = np.where(allowed, rng.random(allowed.shape), 2.0)
    order = np.argsort(key, axis=2)[:, :, :most]  # only clips not allowed tie
    chosen = np.full((*counts.shape, most), -1, np.int32)
    chosen[:, :, : order.shape[2]] = np.take_along_axis(clips, order, axis=2)
    return np.where(np.arange(most) < counts[..., None], chosen, np.int32(-1))


def enough(groups: Int[np.ndarray, "_"], shots: int, queries: int) -> bool:
    """True if whole groups can be set aside for the support that hold K clips and leave Q.

    That is a subset sum in [K, n - Q]. Adding groups one by one until there are K clips ends at
    K - 1 + the largest at most; where even that fits there is nothing to search, else bit s of
    `sums` says that s can be reached.
    """
    sizes = np.unique(groups, return_counts=True)[1].tolist()
    most = sum(sizes) - queries
    if most < shots:
        return False
    if shots - 1 + max(sizes) <= most:
        return True
    sums = 1
    for size in sizes:
        sums |= sums << size
    return bool((sums & ((1 << (most + 1)) - 1)) >> shots)


def meet(groups: Int[np.ndarray, "E N C"], shots: int) -> Bool[np.ndarray, "E"]:
    """A mask of the episodes in which a group is on both sides."""
    support = groups[:, :, :shots].reshape(len(groups), -1)
    query = groups[:, :, shots:].reshape(len(groups), -1)
    met = np.zeros(len(groups), bool)
    for shot in support.T:
        met |= (query == shot[:, None]).any(1)
    return met
