"""The classic: N classes at random, K shots of each to learn from, Q queries of each to answer.

Classes are drawn uniformly among those that can give K shots and Q queries. Within a class the
shots are uniform among all sets of K clips that leave at least Q clips of other groups, and the
queries are uniform among all sets of Q clips of those other groups; without groups both are plain
draws without replacement. Shots that leave too few clips are drawn again; where that keeps failing
(a class of a few large groups) the shots come from an exact count of the sets that do not fail,
which is the same distribution.

`groups` says what is kept apart: `within`, groups of the shots from those of the queries of the
same class, while two classes may share one; `strict`, of all shots from all queries of an episode
(episodes that break it are drawn again, see `_sampler.py`, so that where classes share no groups
nothing changes); `mixed`, nothing.

Shapes: as in the package; R = draws, one for each class of each episode, P = size of a pool.
"""

import random
from collections import Counter
from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Bool, Int, Int32

from learn.data.clips import Clips
from learn.fewshot.tasks import GROUPS, Episodes, Traits, _sampler
from store.errors import ConfigError, NotEnoughClips
from store.progress import in_steps, steps
from store.settings import Settings, setting

REDRAWS = 100
POOL_ENTRIES = 1_000_000  # shuffled at a time: 4 MB, which a cache holds

TRAITS = Traits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the task `n_way_k_shot`."""

    ways: int = setting(5, at_least=2)
    shots: int = setting(1, at_least=1)
    queries: int = setting(15, at_least=1)
    episodes: int = setting(10_000, at_least=1)
    groups: str = setting(GROUPS[0], among=GROUPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The episode task of these settings."""

    config: Config

    def __call__(self, clips: Clips, *, seed: int) -> Episodes:
        """Draw all episodes; the stream belongs to (seed, ways, shots, queries) alone.

        Raises:
            NotEnoughClips: fewer classes than ways have enough clips.
        """
        ways, shots, queries = self.config.ways, self.config.shots, self.config.queries
        if seed < 0:
            raise ConfigError(f"seed={seed} is negative")
        rng = np.random.default_rng([seed, ways, shots, queries])
        if clips.roles is not None:
            return self._by_roles(rng, clips, seed)
        groups = np.arange(len(clips), dtype=np.int32)
        if clips.groups is not None and self.config.groups != "mixed":
            groups = clips.groups
        members = _members(clips.class_ids, len(clips.classes))
        eligible = np.array(
            [c for c, m in enumerate(members) if _sampler.enough(groups[m], shots, queries)],
            np.int32,
        )
        if len(eligible) < ways:
            raise NotEnoughClips(self._refusal(clips, members, eligible))
        strict = self.config.groups == "strict"
        sampler = _sampler.EpisodeSampler(clips, "strict") if strict else None
        deck = np.tile(eligible, (self.config.episodes, 1))
        classes = _shuffle(rng, deck, np.full(len(deck), len(eligible)), ways)
        drawn = _draw(rng, members, groups, classes.ravel(), shots, queries)
        drawn = drawn.reshape(len(classes), ways, shots + queries)
        if sampler:
            self._mend(rng, sampler, eligible, classes, drawn)
        return Episodes(
            indices=drawn,
            classes=classes,
            shots=shots,
            seed=seed,
            clips_sha256=clips.sha256,
            eligible=eligible,
            facts={} if self.config.groups == GROUPS[0] else {"groups": self.config.groups},
        )

    def _by_roles(self, rng: np.random.Generator, clips: Clips, seed: int) -> Episodes:
        """Episodes of clips some of which may only be shots, or only queries."""
        config = self.config
        sampler = _sampler.EpisodeSampler(clips, config.groups)
        eligible = sampler.eligible(config.shots, config.queries)
        if len(eligible) < config.ways:
            requirement = f"{config.shots} clips to learn from and {config.queries} to ask about"
            raise NotEnoughClips(
                sampler.refusal(eligible, config.ways, requirement, "ways, shots or queries")
            )

        def ask(rng: np.random.Generator, episodes: int) -> _sampler.Wanted:
            classes = rng.permuted(np.tile(eligible, (episodes, 1)), axis=1)[:, : config.ways]
            return _sampler.even(classes, config.shots, config.queries)

        wanted, drawn = sampler.draw(
            rng, ask, episodes=config.episodes, shots=config.shots, queries=config.queries
        )
        return Episodes(
            indices=drawn,
            classes=wanted.classes,
            shots=config.shots,
            seed=seed,
            clips_sha256=clips.sha256,
            eligible=eligible,
            facts={} if config.groups == GROUPS[0] else {"groups": config.groups},
        )

    def _mend(
        self,
        rng: np.random.Generator,
        sampler: _sampler.EpisodeSampler,
        eligible: Int32[np.ndarray, "_"],
        classes: Int32[np.ndarray, "E N"],
        drawn: Int32[np.ndarray, "E N C"],
    ) -> None:
        """Draw the episodes again, in place, in which a group is on both sides."""
        config = self.config

        def ask(rng: np.random.Generator, episodes: int) -> _sampler.Wanted:
            order = rng.permuted(np.tile(eligible, (episodes, 1)), axis=1)[:, : config.ways]
            return _sampler.even(order, config.shots, config.queries)

        size = sampler.at_once(config.ways)
        all_wanted = _sampler.even(classes, config.shots, config.queries)
        advance = steps("episodes drawn", len(classes))
        for start in range(0, len(classes), size):
            part = slice(start, start + size)
            left = start + np.flatnonzero(_sampler.meet(sampler.groups[drawn[part]], config.shots))
            sampler.complete(rng, all_wanted, drawn, left, config.shots, ask, redraws=0)
            advance(len(classes[part]))

    def _refusal(
        self, clips: Clips, members: list[Int[np.ndarray, "_"]], eligible: Int32[np.ndarray, "_"]
    ) -> str:
        config = self.config
        lacking = [c for c in range(len(members)) if c not in set(eligible.tolist())]
        counts = [f"{clips.classes[c]}: {_count(clips, members[c])}" for c in lacking[:8]]
        listed = ", ".join(counts) + (", …" if len(lacking) > 8 else "")
        alone = clips.groups is None or config.groups == "mixed"
        apart = "" if alone else " in groups kept apart"
        ways, shots, queries = config.ways, config.shots, config.queries
        return (
            f"{ways}-way {shots}-shot with {queries} queries needs {ways} classes with at least "
            f"{shots + queries} clips{apart}; only {len(eligible)} of {len(members)} have that many"
            f"{f' ({listed})' if listed else ''}. Lower ways, shots or queries."
        )


def build(config: Config) -> Task:
    """The task that these settings describe."""
    return Task(config=config)


def _count(clips: Clips, members: Int[np.ndarray, "_"]) -> str:
    if clips.groups is None:
        return str(len(members))
    groups = len(np.unique(clips.groups[members]))
    return f"{len(members)} in {groups} group{'s' if groups != 1 else ''}"


def _members(class_ids: Int32[np.ndarray, "V"], classes: int) -> list[Int[np.ndarray, "_"]]:
    if not classes:
        return []
    order = np.argsort(class_ids, kind="stable")
    return np.split(order, np.searchsorted(class_ids[order], np.arange(1, classes)))


def _shuffle(
    rng: np.random.Generator,
    pool: Int32[np.ndarray, "R P"],
    sizes: Int[np.ndarray, "R"],
    draws: int,
    *,
    start: int = 0,
) -> Int32[np.ndarray, "R draws"]:
    """`draws` different entries of each row's `start` to size; the others stay, further behind."""
    rows = np.arange(len(pool))
    drawn = np.empty((len(pool), draws), np.int32)
    for j in range(start, start + draws):
        pick = rng.integers(j, sizes)
        drawn[:, j - start] = pool[rows, pick]
        pool[rows, pick] = pool[:, j]
    return drawn


def _draw(
    rng: np.random.Generator,
    members: list[Int[np.ndarray, "_"]],
    groups: Int32[np.ndarray, "V"],
    classes: Int32[np.ndarray, "R"],
    shots: int,
    queries: int,
) -> Int32[np.ndarray, "R C"]:
    """Shots and queries for each row's class."""
    sizes = np.array([len(m) for m in members])
    table = np.zeros((len(members), sizes.max()), np.int32)
    for row, clips in zip(table, members, strict=True):
        row[: len(clips)] = clips
    drawn = np.empty((len(classes), shots + queries), np.int32)
    at_once = max(1, POOL_ENTRIES // table.shape[1])
    for start in range(0, len(classes), at_once):
        left = np.arange(start, min(start + at_once, len(classes)))
        for _ in range(REDRAWS):
            of_class = classes[left]
            pool = table[of_class]
            support = _shuffle(rng, pool, sizes[of_class], shots)
            drawn[left, :shots] = support
            drawn[left, shots:], done = _queries(
                rng, pool, sizes[of_class], groups, support, queries
            )
            left = left[~done]
            if not len(left):
                break
        exact = random.Random(int(rng.integers(2**63)))
        counters = {
            c: _FeasibleSets(members[c], groups, shots, queries)
            for c in set(classes[left].tolist())
        }
        for row in in_steps("classes of episodes drawn exactly", left, len(left)):
            support = np.array([counters[classes[row]].draw(exact)], np.int32)
            pool = np.setdiff1d(members[classes[row]], support).astype(np.int32)[None]
            pool = np.concatenate([support, pool], axis=1)
            drawn[row, :shots] = support
            drawn[row, shots:] = _queries(
                rng, pool, sizes[classes[[row]]], groups, support, queries
            )[0][0]
    return drawn


def _queries(
    rng: np.random.Generator,
    pool: Int32[np.ndarray, "R P"],
    sizes: Int[np.ndarray, "R"],
    groups: Int32[np.ndarray, "V"],
    support: Int32[np.ndarray, "R K"],
    queries: int,
) -> tuple[Int32[np.ndarray, "R Q"], Bool[np.ndarray, "R"]]:
    """Clips of groups that the support lacks, and a mask of the rows that have enough of them.

    Goes on with a shuffle whose first K places are spent, passing over the support's groups.
    """
    shots, clips = support.shape[1], pool.shape[1]
    taken = groups[support]
    drawn = _shuffle(rng, pool, sizes, queries, start=shots)
    apart = (groups[drawn][:, :, None] != taken[:, None]).all(2)
    count = apart.sum(1)
    busy = np.flatnonzero(count < queries)
    first = np.argsort(~apart[busy], axis=1, kind="stable")
    drawn[busy] = np.take_along_axis(drawn[busy], first, axis=1)
    for j in range(shots + queries, clips):
        busy = busy[(count[busy] < queries) & (j < sizes[busy])]
        if not len(busy):
            break
        pick = rng.integers(j, sizes[busy])
        clip = pool[busy, pick]
        pool[busy, pick] = pool[busy, j]
        fits = (groups[clip][:, None] != taken[busy]).all(1)
        drawn[busy[fits], count[busy[fits]]] = clip[fits]
        count[busy] += fits
    return drawn, count == queries


class _FeasibleSets:
    """All sets of K clips of a class that leave Q clips of other groups, by exact counting.

    `ways[i][k, s]` counts how groups i, i + 1, … can give k more shots when groups of s clips in
    all are already touched.
    """

    def __init__(
        self,
        members: Int[np.ndarray, "_"],
        groups: Int32[np.ndarray, "V"],
        shots: int,
        queries: int,
    ) -> None:
        self.groups = [members[groups[members] == g].tolist() for g in np.unique(groups[members])]
        self.shots = shots
        most = len(members) - queries
        reached = [{(shots, 0)}]
        for clips in self.groups:
            steps = ((k, s, j) for k, s in reached[-1] for j in range(min(k, len(clips)) + 1))
            after = {(k - j, s + len(clips) * (j > 0)) for k, s, j in steps}
            reached.append({(k, s) for k, s in after if s <= most})
        self.ways = [Counter({state: 1 for state in reached[-1] if state[0] == 0})]
        for clips, states in zip(reversed(self.groups), reversed(reached[:-1]), strict=True):
            self.ways.insert(
                0, Counter({s: sum(self._choices(clips, s, self.ways[0])) for s in states})
            )

    @staticmethod
    def _choices(
        clips: list[int], state: tuple[int, int], after: "Counter[tuple[int, int]]"
    ) -> list[int]:
        """Numbers of ways in which this group gives 0, 1, … shots and the later ones the rest."""
        k, s = state
        return [
            comb(len(clips), j) * after[k - j, s + len(clips) * (j > 0)]
            for j in range(min(k, len(clips)) + 1)
        ]

    def draw(self, rng: random.Random) -> list[int]:
        """One feasible set, each equally likely, in random order."""
        state, drawn = (self.shots, 0), list[int]()
        for clips, after in zip(self.groups, self.ways[1:], strict=True):
            choices = self._choices(clips, state, after)
            ticket, j = rng.randrange(sum(choices)), 0
            while ticket >= choices[j]:
                ticket -= choices[j]
                j += 1
            drawn += rng.sample(clips, j)
            state = (state[0] - j, state[1] + len(clips) * (j > 0))
        rng.shuffle(drawn)
        return drawn
