"""Generalised few-shot: N new classes of K shots beside base classes that are known well.

An episode has `ways` classes that training never saw, with `shots` clips each, and `base_ways`
classes of the train split, with `base_shots` (0: as many as the others); `queries` of every class
are asked about, and any of all classes may be the answer. Its number is the harmonic mean of what
is right of base queries (S) and of new ones (U); beta, which is taken off the scores of base
classes, is chosen on the val split (`learn/fewshot/metrics.py`).

Clips must say which classes are base: role `BASE`.

Source: Hariharan and Girshick, 2017 (base and novel classes together); Xian et al., 2017 (S, U, H).
"""

from dataclasses import asdict, dataclass

import numpy as np

from learn.data.clips import BASE, Clips
from learn.fewshot.tasks import GROUPS, Episodes, Traits, _sampler
from store.errors import ConfigError, NotEnoughClips
from store.settings import Settings, setting

TRAITS = Traits(pool="base")
MEASURE = "harmonic_mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the task `generalised`."""

    ways: int = setting(5, at_least=1)
    shots: int = setting(1, at_least=1)
    queries: int = setting(15, at_least=1)
    base_ways: int = setting(5, at_least=1)
    base_shots: int = setting(20, at_least=0)
    episodes: int = setting(10_000, at_least=1)
    groups: str = setting(GROUPS[0], among=GROUPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The episode task of these settings."""

    config: Config

    def __call__(self, clips: Clips, *, seed: int) -> Episodes:
        """Draw all episodes; new classes come first.

        Raises:
            NotEnoughClips: too few new classes, or base classes, have enough clips.
        """
        config = self.config
        if seed < 0:
            raise ConfigError(f"seed={seed} is negative")
        sampler = _sampler.EpisodeSampler(clips, config.groups)
        based = np.zeros(len(clips.classes), bool)
        if clips.roles is not None:
            based[np.unique(clips.class_ids[clips.has_role(BASE)])] = True
        base_shots = config.base_shots or config.shots
        of_new, of_base = (
            np.array(
                [c for c in sampler.eligible(k, config.queries) if based[c] == is_base], np.int32
            )
            for k, is_base in ((config.shots, False), (base_shots, True))
        )
        for eligible, ways, shots, is_base in (
            (of_new, config.ways, config.shots, False),
            (of_base, config.base_ways, base_shots, True),
        ):
            if len(eligible) < ways:
                requirement = f"{shots} clips to learn from and {config.queries} to ask about"
                lower = (
                    "ways, shots or queries" if not is_base else "base_ways, base_shots or queries"
                )
                reason = sampler.refusal(
                    eligible, ways, requirement, lower, among=np.flatnonzero(based == is_base)
                )
                raise NotEnoughClips(f"{'base' if is_base else 'new'} classes: {reason}")

        def ask(rng: np.random.Generator, episodes: int) -> _sampler.Wanted:
            new, base = (
                rng.permuted(np.tile(eligible, (episodes, 1)), axis=1)[:, :ways]
                for eligible, ways in ((of_new, config.ways), (of_base, config.base_ways))
            )
            classes = np.concatenate([new, base], axis=1)
            shots = np.array(
                [config.shots] * config.ways + [base_shots] * config.base_ways, np.int32
            )
            queries = np.full(classes.shape, config.queries, np.int32)
            return _sampler.Wanted(classes, np.tile(shots, (episodes, 1)), queries)

        rng = np.random.default_rng([seed, config.ways, config.shots, config.queries, base_shots])
        most = max(config.shots, base_shots)
        wanted, drawn = sampler.draw(
            rng, ask, episodes=config.episodes, shots=most, queries=config.queries
        )
        settings = {k: v for k, v in asdict(config).items() if k != "episodes"}
        return Episodes(
            indices=drawn,
            classes=wanted.classes,
            shots=most,
            seed=seed,
            clips_sha256=clips.sha256,
            eligible=np.concatenate([of_new, of_base]),
            facts={"task": "generalised", "measure": MEASURE, **settings},
        )


def build(config: Config) -> Task:
    """The task that these settings describe."""
    return Task(config=config)
