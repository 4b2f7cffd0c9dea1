"""N classes and K shots of each as usual, but queries whose classes are anything but balanced.

An episode has N * Q queries; their shares by class are drawn from a Dirichlet distribution, all of
whose parameters are `alpha`: the smaller, the less balanced; a class may have none. Shares that
some class has too few clips for are drawn again, and after `REDRAWS` times what is too much for it
goes to the others.

Source: Veilleux et al., 2021, "Realistic evaluation of transductive few-shot learning" (alpha-TIM),
section 3.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int32

from learn.data.clips import Clips
from learn.fewshot.tasks import GROUPS, Episodes, Traits, _sampler
from store.errors import ConfigError, NotEnoughClips
from store.settings import Settings, setting

REDRAWS = 20

TRAITS = Traits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the task `imbalanced`."""

    ways: int = setting(5, at_least=2)
    shots: int = setting(1, at_least=1)
    queries: int = setting(15, at_least=1)  # of a class, on average
    alpha: float = setting(2.0, above=0)
    episodes: int = setting(10_000, at_least=1)
    groups: str = setting(GROUPS[0], among=GROUPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The episode task of these settings."""

    config: Config

    def __call__(self, clips: Clips, *, seed: int) -> Episodes:
        """Draw all episodes.

        Raises:
            NotEnoughClips: fewer classes than ways have enough clips.
        """
        config = self.config
        if seed < 0:
            raise ConfigError(f"seed={seed} is negative")
        sampler = _sampler.EpisodeSampler(clips, config.groups)
        eligible = sampler.eligible(config.shots, config.queries)
        if len(eligible) < config.ways:
            requirement = f"{config.shots + config.queries} clips"
            raise NotEnoughClips(
                sampler.refusal(eligible, config.ways, requirement, "ways, shots or queries")
            )
        capacity = np.array(
            [sampler.most_queries(c, config.shots) for c in range(len(sampler.mask))]
        )
        total = config.ways * config.queries

        def ask(rng: np.random.Generator, episodes: int) -> _sampler.Wanted:
            classes = rng.permuted(np.tile(eligible, (episodes, 1)), axis=1)[:, : config.ways]
            queries = self._counts(rng, capacity[classes], total)
            shots = np.full(classes.shape, config.shots, np.int32)
            return _sampler.Wanted(classes, shots, queries)

        rng = np.random.default_rng([seed, config.ways, config.shots, config.queries])
        most = min(total, int(capacity[eligible].max()))
        wanted, drawn = sampler.draw(
            rng, ask, episodes=config.episodes, shots=config.shots, queries=most
        )
        settings = {"queries": config.queries, "alpha": config.alpha, "groups": config.groups}
        return Episodes(
            indices=drawn,
            classes=wanted.classes,
            shots=config.shots,
            seed=seed,
            clips_sha256=clips.sha256,
            eligible=eligible,
            facts={"task": "imbalanced", **settings},
        )

    def _counts(
        self, rng: np.random.Generator, capacity: Int[np.ndarray, "e N"], total: int
    ) -> Int32[np.ndarray, "e N"]:
        """Numbers of queries of each class that sum to `total`, none above its capacity."""
        counts = np.zeros(capacity.shape, np.int64)
        left = np.arange(len(capacity))
        for _ in range(REDRAWS):
            share = rng.dirichlet(np.full(capacity.shape[1], self.config.alpha), len(left))
            counts[left] = _rounded(share, total)
            left = left[(counts[left] > capacity[left]).any(1)]
            if not len(left):
                return counts.astype(np.int32)
        for e in left:
            count, limit = counts[e], capacity[e]
            while (over := np.maximum(count - limit, 0)).any():
                room = np.flatnonzero(count < limit)
                count -= over
                np.add.at(count, room[np.arange(over.sum()) % len(room)], 1)
        return counts.astype(np.int32)


def _rounded(share: Float[np.ndarray, "e N"], total: int) -> Int[np.ndarray, "e N"]:
    """Whole numbers in proportion that sum to the total: the largest remainders are rounded up."""
    exact = share * total
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    return counts + (rank < (total - counts.sum(1))[:, None])


def build(config: Config) -> Task:
    """The task that these settings describe."""
    return Task(config=config)
