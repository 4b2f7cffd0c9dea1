"""Clips with several labels: which of N labels does each clip have?

An episode has N labels; of each come K clips that have it to learn from, and Q to ask about. A clip
may have others of the N too, and counts for all of them when answers are judged: the number of an
episode is the mean over its labels of the average precision with which its queries are ranked. A
clip, or a group, is never on both sides, whichever labels it came for; `groups=mixed` keeps only
clips apart.

Labels are drawn uniformly among those that have enough clips, and clips uniformly, label by label;
labels that leave too few for one another are drawn again.

Source: Alfassy et al., 2019, "LaSO" (episodes of several labels, judged by mAP).
"""

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Int

from learn.data.clips import QUERY, SHOT, Clips
from learn.fewshot.tasks import GROUPS, Episodes, Traits
from store.errors import ConfigError, NotEnoughClips
from store.settings import Settings, setting

TRAITS = Traits(pool="targets")
MEASURE = "map"
REDRAWS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the task `multi_label`."""

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
        """Draw all episodes.

        Raises:
            ConfigError: the clips have one label each, and no targets.
            NotEnoughClips: fewer labels than ways have enough clips.
        """
        config = self.config
        if seed < 0:
            raise ConfigError(f"seed={seed} is negative")
        if clips.targets is None:
            raise ConfigError("multi_label draws from clips with all their labels; see load_clips")
        groups = np.arange(len(clips))
        if clips.groups is not None and config.groups != "mixed":
            groups = clips.groups.astype(np.int64)
        members = [np.flatnonzero(column) for column in clips.targets.T]
        able = [self._able(clips, of_label, groups) for of_label in members]
        eligible = np.flatnonzero(able)
        if len(eligible) < config.ways:
            raise NotEnoughClips(self._refusal(clips, members, np.flatnonzero(~np.array(able))))
        rng = np.random.default_rng([seed, config.ways, config.shots, config.queries])
        indices = np.empty((config.episodes, config.ways, config.shots + config.queries), np.int32)
        classes = np.empty((config.episodes, config.ways), np.int32)
        lacking: Counter[int] = Counter()
        for e in range(config.episodes):
            for _ in range(REDRAWS):
                classes[e] = rng.permutation(eligible)[: config.ways]
                short = self._fill(rng, clips, [members[c] for c in classes[e]], groups, indices[e])
                if short is None:
                    break
                lacking[int(classes[e, short])] += 1
            else:
                worst = np.array([c for c, _ in lacking.most_common(8)])
                raise NotEnoughClips(self._refusal(clips, members, worst))
        settings = {k: v for k, v in asdict(config).items() if k != "episodes"}
        return Episodes(
            indices=indices,
            classes=classes,
            shots=config.shots,
            seed=seed,
            clips_sha256=clips.sha256,
            eligible=eligible,
            facts={"task": "multi_label", "measure": MEASURE, **settings},
        )

    def _able(
        self, clips: Clips, members: Int[np.ndarray, "_"], groups: Int[np.ndarray, "V"]
    ) -> bool:
        """True if a label has enough shots and queries, in two groups at least."""
        shots, queries = (
            members[clips.has_role(SHOT)[members]],
            members[clips.has_role(QUERY)[members]],
        )
        enough = len(shots) >= self.config.shots and len(queries) >= self.config.queries
        apart = len(np.unique(groups[members])) > 1
        return enough and apart and len(members) >= self.config.shots + self.config.queries

    def _fill(
        self,
        rng: np.random.Generator,
        clips: Clips,
        members: list[Int[np.ndarray, "_"]],
        groups: Int[np.ndarray, "V"],
        drawn: Int[np.ndarray, "N C"],
    ) -> int | None:
        """Fill one episode in place; returns the position of a label that lacks clips, or None."""
        shots = self.config.shots
        used = np.zeros(len(groups), bool)
        for n, of_label in enumerate(members):
            free = _free(of_label, clips.has_role(SHOT), used)
            if len(free) < shots:
                return n
            drawn[n, :shots] = rng.permutation(free)[:shots]
            used[drawn[n, :shots]] = True
        taken = np.isin(groups, groups[drawn[:, :shots]])
        for n, of_label in enumerate(members):
            free = _free(of_label, clips.has_role(QUERY), taken)
            if len(free) < self.config.queries:
                return n
            drawn[n, shots:] = rng.permutation(free)[: self.config.queries]
            taken[drawn[n, shots:]] = True
        return None

    def _refusal(
        self, clips: Clips, members: list[Int[np.ndarray, "_"]], lacking: Int[np.ndarray, "_"]
    ) -> str:
        config = self.config
        listed = ", ".join(f"{clips.classes[c]}: {len(members[c])}" for c in lacking[:8])
        return (
            f"{config.ways} labels with {config.shots} clips to learn from and {config.queries} "
            f"others to ask about are more than there are; what lacks clips: {listed}"
            f"{', …' if len(lacking) > 8 else ''}. Lower ways, shots or queries"
        )


def _free(
    members: Int[np.ndarray, "_"], allowed: Bool[np.ndarray, "V"], taken: Bool[np.ndarray, "V"]
) -> Int[np.ndarray, "_"]:
    return members[allowed[members] & ~taken[members]]


def build(config: Config) -> Task:
    """The task that these settings describe."""
    return Task(config=config)
