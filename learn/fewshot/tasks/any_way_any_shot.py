"""Episodes whose numbers of ways and shots are drawn at random, as in Meta-Dataset.

Each episode draws its number of ways, uniformly from `min_ways` to `max_ways` or to what the clips
allow; then the clips of its support: of each class ceil(beta * min(100, its clips less the
queries)), beta uniform in (0, 1], in all `max_support` at most; and shares them out in proportion
to exp(a) times the size of a class, a uniform between log 1/2 and log 2, one shot at least and
`max_shots` at most. All its classes have as many queries: `max_queries`, or half of the smallest
class. With `uneven=false` every class has as many shots as the poorest, for heads that need that.

Source: Triantafillou et al., 2020, "Meta-Dataset", section 3.2 and appendix.
"""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Int, Int32

from learn.data.clips import Clips
from learn.fewshot.tasks import GROUPS, Episodes, Traits, _sampler
from store.errors import ConfigError, NotEnoughClips
from store.settings import Settings, setting

LARGE = 100  # a class counts as no larger than this

TRAITS = Traits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the task `any_way_any_shot`."""

    min_ways: int = setting(5, at_least=2)
    max_ways: int = 50
    max_queries: int = setting(10, at_least=1)
    max_shots: int = setting(100, at_least=1)  # of a class
    max_support: int = setting(500, at_least=1)  # of an episode
    uneven: bool = True
    episodes: int = setting(10_000, at_least=1)
    groups: str = setting(GROUPS[0], among=GROUPS)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.max_ways < self.min_ways:
            raise ConfigError(
                f"any_way_any_shot: min_ways={self.min_ways} is not from 2 to "
                f"max_ways={self.max_ways}"
            )
        if self.max_support < self.max_ways:
            raise ConfigError(
                f"any_way_any_shot: max_support={self.max_support} is less than a shot for each of "
                f"max_ways={self.max_ways} classes"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The episode task of these settings."""

    config: Config

    def __call__(self, clips: Clips, *, seed: int) -> Episodes:
        """Draw all episodes.

        Raises:
            NotEnoughClips: too few classes have a shot and a query apart.
        """
        config = self.config
        if seed < 0:
            raise ConfigError(f"seed={seed} is negative")
        sampler = _sampler.EpisodeSampler(clips, config.groups)
        eligible = sampler.eligible(1, 1)
        if len(eligible) < config.min_ways:
            raise NotEnoughClips(
                sampler.refusal(eligible, config.min_ways, "a shot and a query", "min_ways")
            )
        rng = np.random.default_rng([seed, config.min_ways, config.max_ways, config.max_queries])
        apart = not (sampler.can_support & sampler.can_query).any()  # no clip may be both
        of_class = clips.class_ids
        support_sizes, query_sizes = (
            np.bincount(of_class[allowed], minlength=len(clips.classes))
            for allowed in (sampler.can_support, sampler.can_query)
        )
        most = min(config.max_ways, len(eligible))
        shots = min(
            config.max_shots, config.max_support, int(support_sizes[eligible].max()) - (not apart)
        )

        def ask(rng: np.random.Generator, episodes: int) -> _sampler.Wanted:
            return self._ask(
                rng, episodes, eligible, support_sizes, most, shots, query_sizes if apart else None
            )

        wanted, drawn = sampler.draw(
            rng, ask, episodes=config.episodes, shots=shots, queries=config.max_queries
        )
        settings = {k: v for k, v in asdict(config).items() if k != "episodes"}
        return Episodes(
            indices=drawn,
            classes=wanted.classes,
            shots=shots,
            seed=seed,
            clips_sha256=clips.sha256,
            eligible=eligible,
            facts={"task": "any_way_any_shot", **settings},
        )

    def _ask(
        self,
        rng: np.random.Generator,
        episodes: int,
        eligible: Int32[np.ndarray, "_"],
        support_sizes: Int[np.ndarray, "classes"],
        most: int,
        shots: int,
        query_sizes: Int[np.ndarray, "classes"] | None,
    ) -> _sampler.Wanted:
        config = self.config
        ways = rng.integers(config.min_ways, most + 1, episodes)
        classes = rng.permuted(np.tile(eligible, (episodes, 1)), axis=1)[:, :most]
        present = np.arange(most) < ways[:, None]
        size = np.where(present, support_sizes[classes], np.iinfo(np.int32).max)
        free = (
            size // 2
            if query_sizes is None
            else np.where(present, query_sizes[classes], size.max())
        )
        queries = np.minimum(config.max_queries, np.maximum(1, free.min(1)))
        left = np.where(
            present, size - (query_sizes is None) * queries[:, None], 0
        )  # for the support
        beta = 1 - rng.random((episodes, 1))
        total = np.ceil(beta * np.minimum(LARGE, left)).sum(1)
        total = np.minimum(config.max_support, total)
        share = np.exp(rng.uniform(np.log(0.5), np.log(2), classes.shape))
        share = np.where(present, share * size, 0)
        share /= share.sum(1, keepdims=True)
        counts = np.floor(share * np.maximum(0, total - ways)[:, None]).astype(np.int64) + 1
        counts = np.minimum(np.minimum(counts, left), shots)
        if not config.uneven:
            counts = np.where(present, counts, shots).min(1, keepdims=True)
        return _sampler.Wanted(
            np.where(present, classes, -1).astype(np.int32),
            np.where(present, counts, 0).astype(np.int32),
            np.where(present, queries[:, None], 0).astype(np.int32),
        )


def build(config: Config) -> Task:
    """The task that these settings describe."""
    return Task(config=config)
