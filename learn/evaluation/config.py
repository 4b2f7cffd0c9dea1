"""The settings of one call of `learn episodes`, frozen and hashed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from learn.data.features import MODALITIES
from learn.evaluation.drop import Drop
from learn.fewshot import default_head, statistics
from learn.fewshot.budget import MEMORY
from learn.fewshot.tasks import CLASSIC
from learn.inference.settings import check_names
from store.errors import ConfigError, choices

EPISODES = 10_000
BLOCK = 1000  # episodes that `until_ci` adds at a time
MOST = 100_000
GUARDS = ("on", "off", "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """The width of intervals to reach, and the number of episodes to give up at.

    Raises:
        ConfigError: a width that is no share, or fewer episodes than a block.
    """

    width: float  # half of the interval, as a share
    block: int = BLOCK
    most: int = MOST

    def __post_init__(self) -> None:
        if not 0 < self.width < 1:
            raise ConfigError(f"`until_ci` {self.width:g} is not above 0 and below 1, as 0.002")
        if not 2 <= self.block <= self.most:
            raise ConfigError(
                f"`until_ci` adds blocks of {self.block} episodes, which is not from 2 to "
                f"`max_episodes` {self.most}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodesConfig:
    """The settings of `run_episodes`, under the names of its arguments.

    Raises:
        ConfigError: a method of intervals that there is none of, or settings that do not go
            together.
    """

    store: str
    manifest: str | None = None  # labels of another task; None: those kept in the store
    split: str | None = None  # None: test where there are splits, else all clips
    label: str = "label"
    group: str | None = None  # column of sources; None: "group" if there is one
    group_file: str | None = None  # sources by a table beside the manifest, of `learn groups`
    # Groups of support and query are apart within each class, across all classes of an episode
    # (strict), or not (mixed).
    groups: str = "within"
    inflation: bool = False  # score once more with groups mixed, on episodes of the same classes
    task: str = CLASSIC  # a plug-in of learn/fewshot/tasks; its own settings win over those below
    ways: int = 5
    shots: tuple[int, ...] = (1,)
    queries: int = 15
    episodes: int | None = None  # None: 10,000, or blocks of 1,000 with `until_ci`
    until_ci: float | None = None  # add episodes until half of every interval is this narrow
    max_episodes: int = MOST
    seed: int = 0
    visual: str | tuple[str, ...] | None = None  # names of features; None: the only one
    audio: str | tuple[str, ...] | None = None
    text: str | tuple[str, ...] | None = None
    heads: tuple[str, ...] = ()  # none: the default; "own": the one that a run was trained with
    # How one head judges by both senses, plug-ins of learn/fewshot/fusions; none: learned where a
    # network makes one vector of both, weighted elsewhere.
    fusions: tuple[str, ...] = ()
    # Features made for the support, plug-ins of learn/fewshot/augmentations, paired with none.
    augments: tuple[str, ...] = ()
    projections: tuple[str, ...] = ()  # run directories; "none" is stored vectors as they are
    # Stored vectors beside a projection's (learn/fewshot/guard.py): on, off, or a row for either.
    guard: str = "on"
    names: str = "on"  # of classes, one more sense under the guard where a run knows them, or off
    support: tuple[str, ...] = ()  # modes v, a, t and several, as av; see `modes.cells`
    query: tuple[str, ...] = ()
    episodes_file: str | None = None  # episodes drawn before: then nothing above draws any
    drop: Drop | None = None  # also score queries that lack a modality
    query_store: str | None = None  # queries come from there, and shots do not
    query_manifest: str | None = None
    query_split: str | None = None
    ci: str = statistics.METHODS[0]
    memory: int = MEMORY  # bytes that scoring may take beside the clips' rows and vectors

    def __post_init__(self) -> None:
        statistics.check(self.ci)
        if self.guard not in GUARDS:
            raise ConfigError(f"`guard` {self.guard!r} is none of {choices(self.guard, GUARDS)}")
        check_names(self.names)
        if self.until is not None and self.episodes_file:
            raise ConfigError("`until_ci` draws episodes, and `episodes_file` has them: name one")

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "EpisodesConfig":
        """The config of a call's arguments: paths become text, and lists become tuples."""
        given = {"store": arguments["store_path"], **arguments}
        plain = {field.name: _plain(given[field.name]) for field in fields(cls)}
        for key in MODALITIES:  # one name or a list of one is the same question
            if isinstance(plain[key], tuple) and len(plain[key]) < 2:
                plain[key] = next(iter(plain[key]), None)
        return cls(**plain)

    @property
    def until(self) -> Until | None:
        """The stopping rule, where intervals decide the number of episodes."""
        if self.until_ci is None:
            return None
        block = BLOCK if self.episodes is None else self.episodes
        return Until(width=self.until_ci, block=block, most=self.max_episodes)

    @property
    def head_specs(self) -> tuple[str, ...]:
        """The full SPECs of the heads asked for, each once."""
        asked = self.heads or (default_head.NAME,)
        return tuple(dict.fromkeys(map(default_head.resolved, asked)))

    @property
    def drawn(self) -> dict[str, int | str]:
        """The settings of every task, unless its own say otherwise."""
        default = BLOCK if self.until else EPISODES
        return {
            "ways": self.ways,
            "queries": self.queries,
            "episodes": default if self.episodes is None else self.episodes,
            "groups": self.groups,
        }

    def to_dict(self) -> dict[str, Any]:
        """All settings, as JSON has them."""
        return asdict(self)

    @property
    def sha256(self) -> str:
        """The digest of all settings: equal digests, equal questions."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(str(item) if isinstance(item, Path) else item for item in value)
    return value
