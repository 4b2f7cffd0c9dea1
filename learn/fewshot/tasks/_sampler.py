"""Draws clips for episodes whose classes and counts are decided: shots and queries, groups apart.

An episode first draws its shots, uniformly within each class, and then its queries uniformly among
the clips of groups that no shot has; where too few are left it does so again. Where that keeps
failing it deals all groups to two sides, and deals those of classes that came off badly again,
until every class has its shots on the one side and its queries on the other; both are then uniform,
each on its side. A group goes to the shots' side with the share that shots have in the episode, or,
after `EVEN` deals without success, with one that is drawn for each deal.

The setting `groups` decides what a group is: its number within each class, across all of them, or
each clip by itself. Clips may be shots or queries as their roles say.

Most draws that fail do so in the classes that want the largest share of their groups. So these are
looked at first, and no number is made for the other classes of an episode unless these get what
they want (`_keys.py`).

Shapes: as in the package; V = clips, P = clips of the largest class, G = groups, L = groups of the
class that has most, e = episodes at a time, R = classes of these, one after the other.

Source: Moser and Tardos, 2010 (drawing again only what a broken condition depends on).
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32

from learn.data.clips import QUERY, SHOT, UNLABELLED, Clips
from learn.fewshot.tasks._keys import Keys, first
from store.errors import NotEnoughClips
from store.progress import steps

REDRAWS = 20
EVEN = 40
DEALS = 200
CLASS_DRAWS = 25
LOOKED_AT_FIRST = 3  # classes of an episode
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
        # Of every place of the table; `count` stands for the group of no clip.
        self.may_support, self.may_query = (
            self.mask & can[self.table] for can in (self.can_support, self.can_query)
        )
        self.group_of = np.where(self.mask, self.groups[self.table], self.count)
        self._tally()
        self.lacking: Counter[int] = Counter()

    def _tally(self) -> None:
        """List the groups of each class, with the clips of each that may be shots and queries."""
        rows, columns = np.nonzero(self.mask)
        pairs = rows * self.count + self.group_of[rows, columns]
        known, of_clip = np.unique(pairs, return_inverse=True)
        c, group = np.divmod(known, self.count)
        column = np.arange(len(known)) - np.searchsorted(c, c)
        shape = (len(self.table), int(column.max(initial=0)) + 1)
        self.group_table = np.full(shape, self.count)
        self.group_table[c, column] = group
        self.shots_of, self.queries_of = (np.zeros(shape, np.int32) for _ in range(2))
        for counts, may in ((self.shots_of, self.may_support), (self.queries_of, self.may_query)):
            counts[c, column] = np.bincount(of_clip, may[rows, columns], minlength=len(known))

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
        asked = Wanted(*(part[left] for part in wanted))
        ways, keys = asked.classes.shape[1], Keys(rng, self.table.shape[1])
        enough = (self.shots_of.sum(1)[asked.classes] >= asked.shots) | (asked.classes < 0)
        done = enough.all(1)
        for hard in self._hardest(asked):
            rows = _Rows.of(asked, np.flatnonzero(done), hard[done])
            done[done] = ~self._shots(keys, rows, len(left), ways, shots).short
        rows = _Rows.all(asked, done)
        chosen = self._shots(keys, rows, len(left), ways, shots)
        done[rows.episode[chosen.short]] = False
        kept = done[rows.episode]
        rows, places = rows.only(kept), chosen.places[kept]
        drawn[left[done]] = -1
        self._put(drawn[:, :, :shots], left, rows, places, rows.shots)
        keys.next_table(len(left) * ways)
        allowed = self.may_query[rows.classes]
        allowed &= ~_at(chosen.taken, rows, self.group_of)
        self._choose(keys, drawn[:, :, shots:], left, rows, allowed, rows.queries)
        keys.close()
        return left[~done]

    def _hardest(self, asked: Wanted) -> Int[np.ndarray, "_ e"]:
        """Positions of the classes of each episode that are most likely to have no queries left."""
        groups = (self.group_table < self.count).sum(1)
        share = np.where(asked.classes < 0, -1, asked.shots / groups[asked.classes])
        return np.argsort(-share, axis=1)[:, :LOOKED_AT_FIRST].T

    def _shots(self, keys: Keys, rows: "_Rows", episodes: int, ways: int, shots: int) -> "_Shots":
        """Shots of these classes, and whether they leave too few queries of other groups."""
        of_row = keys.rows(rows.episode * ways + rows.way)
        places = first(of_row, self.may_support[rows.classes], shots)
        wanted = np.arange(places.shape[1]) < rows.shots[:, None]
        counts = wanted.sum(1)
        slot = np.repeat(rows.classes * self.table.shape[1], counts) + places[wanted]
        taken = np.zeros((episodes, self.count + 1), bool)
        of_shot = np.repeat(rows.episode * (self.count + 1), counts) + self.group_of.take(slot)
        taken.reshape(-1)[of_shot] = True
        free = ~_at(taken, rows, self.group_table) * self.queries_of[rows.classes]
        short = free.sum(1, dtype=np.int32) < rows.queries
        return _Shots(places, taken, short)

    def _choose(
        self,
        keys: Keys,
        drawn: Int32[np.ndarray, "E N most"],
        left: Int[np.ndarray, "_"],
        rows: "_Rows",
        allowed: Bool[np.ndarray, "R P"],
        counts: Int[np.ndarray, "R"],
    ) -> None:
        """Choose `counts` of the allowed clips of each class, each equally likely, by a table of
        keys for these episodes alone."""
        ways, most = drawn.shape[1:]
        episodes, rank = np.unique(rows.episode, return_inverse=True)
        places = first(keys.rows(rank * ways + rows.way), allowed, most)
        self._put(drawn, left, rows, places, counts)
        keys.next_table(len(episodes) * ways)

    def _put(
        self,
        drawn: Int32[np.ndarray, "E N most"],
        left: Int[np.ndarray, "_"],
        rows: "_Rows",
        places: Int[np.ndarray, "R _"],
        counts: Int[np.ndarray, "R"],
    ) -> None:
        """Write the clips of the first `counts` places of each class."""
        wanted = np.arange(places.shape[1]) < counts[:, None]
        clips = self.table.take(rows.classes[:, None] * self.table.shape[1] + places)
        clips = np.where(wanted, clips, np.int32(-1))
        drawn[left[rows.episode], rows.way, : places.shape[1]] = clips

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
            asked = Wanted(*(part[left] for part in wanted))
            share = asked.shots.sum(1) / (asked.shots.sum(1) + asked.queries.sum(1))
            if deal >= EVEN:
                share = rng.random(len(left))
            side = np.where(again, rng.random(side.shape) < share[:, None], side)
            short = self._lacks(asked, side)
            done = np.asarray(~short.any(1))
            if done.any():
                drawn[left[done]] = -1
                keys = Keys(rng, self.table.shape[1])
                rows = _Rows.all(asked, done)
                theirs = _at(_padded(side), rows, self.group_of)
                for allowed, counts, columns in (
                    (self.may_support[rows.classes] & theirs, rows.shots, drawn[:, :, :shots]),
                    (self.may_query[rows.classes] & ~theirs, rows.queries, drawn[:, :, shots:]),
                ):
                    self._choose(keys, columns, left, rows, allowed, counts)
                keys.close()
            if done.all():
                return left[:0]
            self.lacking = Counter(asked.classes[short].tolist())
            left, side = left[~done], side[~done]
            episode, way = np.nonzero(short[~done])
            again = _padded(np.zeros_like(side))
            again[episode[:, None], self.group_table[asked.classes[~done][episode, way]]] = True
            again = again[:, :-1]
        return left

    def _lacks(self, asked: Wanted, side: Bool[np.ndarray, "e G"]) -> Bool[np.ndarray, "e N"]:
        """A mask of classes with too few shots on the one side, or queries on the other."""
        theirs = _padded(side)[np.arange(len(side))[:, None, None], self.group_table[asked.classes]]
        have_shots = (theirs * self.shots_of[asked.classes]).sum(2)
        have_queries = (~theirs * self.queries_of[asked.classes]).sum(2)
        return (have_shots < asked.shots) | (have_queries < asked.queries)


class _Rows(NamedTuple):
    """Classes of some episodes, one after the other: where they stand, what they shall give."""

    episode: Int[np.ndarray, "R"]
    way: Int[np.ndarray, "R"]
    classes: Int[np.ndarray, "R"]
    shots: Int[np.ndarray, "R"]
    queries: Int[np.ndarray, "R"]

    @classmethod
    def of(cls, asked: Wanted, episode: Int[np.ndarray, "R"], way: Int[np.ndarray, "R"]) -> "_Rows":
        """The classes at these positions."""
        return cls(episode, way, *(part[episode, way] for part in asked))

    @classmethod
    def all(cls, asked: Wanted, which: Bool[np.ndarray, "e"]) -> "_Rows":
        """All classes of these episodes."""
        return cls.of(asked, *np.nonzero((asked.classes >= 0) & which[:, None]))

    def only(self, wanted: Bool[np.ndarray, "R"]) -> "_Rows":
        """Some of them."""
        return _Rows(*(part[wanted] for part in self))


class _Shots(NamedTuple):
    """Shots of some classes."""

    places: Int[np.ndarray, "R _"]  # in their order; as many as are wanted count
    taken: Bool[np.ndarray, "e G_plus_1"]  # groups of each episode that have a shot
    short: Bool[np.ndarray, "R"]  # of a class: too few queries are left


def _at(
    of_group: Bool[np.ndarray, "e G_plus_1"], rows: _Rows, groups: Int[np.ndarray, "classes W"]
) -> Bool[np.ndarray, "R W"]:
    """What is said of each of these groups of a class in the episode of the class."""
    first_of_episode = rows.episode * of_group.shape[1]
    return of_group.reshape(-1).take(first_of_episode[:, None] + groups[rows.classes])


def _padded(of_group: Bool[np.ndarray, "e G"]) -> Bool[np.ndarray, "e G_plus_1"]:
    """With a column for the group that stands where there is none."""
    return np.pad(of_group, ((0, 0), (0, 1)))


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
