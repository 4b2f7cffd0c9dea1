"""Episode tasks: labelled clips in, few-shot problems out. They never touch features.

Shapes: V = clips to draw from, E = episodes, N = ways, K = shots, Q = queries of each class,
C = K + Q clips of a class in an episode, M = N * Q queries (class by class). Where episodes differ
in any of these, N, K and Q are the most of all, and -1 stands where there is nothing.

Each plug-in offers `Config`, `build(config) -> EpisodeTask` and `TRAITS`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int32

from learn.data.clips import Clips
from store import plugins
from store.errors import ConfigError, choices

FAMILY = "learn.fewshot.tasks"
CLASSIC = "n_way_k_shot"
GROUPS = ("within", "strict", "mixed")  # how groups of support and query are kept apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """Problems drawn from one set of clips: of each class K shots, then Q queries.

    Raises:
        ValueError: a clip outside the set, or one that is drawn twice for one class.
    """

    indices: Int32[np.ndarray, "E N C"]  # positions in the clips whose digest is `clips_sha256`
    classes: Int32[np.ndarray, "E N"]  # class ids of those clips
    shots: int
    seed: int
    clips_sha256: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # further settings of the sampling
    # Class ids of those with enough clips, drawn or not; None: unknown, as of a file.
    eligible: Int[np.ndarray, "_"] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        kinds = {str(self.indices.dtype), str(self.classes.dtype)}
        if kinds != {"int32"} or self.indices.ndim != 3:
            raise ValueError("indices and classes must be int32, of 3 and of 2 dimensions")
        if self.classes.shape != self.indices.shape[:2]:
            raise ValueError(f"{self.classes.shape} classes for {self.indices.shape} indices")
        if not 1 <= self.shots < self.indices.shape[2]:
            raise ValueError(
                f"{self.shots} shots leave no query among {self.indices.shape[2]} clips"
            )
        in_order = np.sort(self.indices, axis=2)
        twice = (in_order[..., 1:] == in_order[..., :-1]) & (in_order[..., 1:] >= 0)
        if twice.any() or in_order[..., :1].min(initial=0) < -1:
            raise ValueError("a clip is drawn twice for one class, or its index is negative")
        has_class, has_shot, has_query = self.classes >= 0, self.support >= 0, self.asked >= 0
        if not np.array_equal(has_class, has_shot.any(2)) or (has_query.any(2) & ~has_class).any():
            raise ValueError("a class without a shot, or shots without a class")
        if not has_query.any((1, 2)).all():
            raise ValueError("an episode without a query")

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ways(self) -> int:
        """Classes of an episode, at most."""
        return self.indices.shape[1]

    @property
    def queries(self) -> int:
        """Queries of a class, at most."""
        return self.indices.shape[2] - self.shots

    @property
    def support(self) -> Int32[np.ndarray, "E N K"]:
        """The shots of each class."""
        return self.indices[..., : self.shots]

    @property
    def asked(self) -> Int32[np.ndarray, "E N Q"]:
        """The queries of each class."""
        return self.indices[..., self.shots :]

    @property
    def query(self) -> Int32[np.ndarray, "E M"]:
        """The queries of an episode, class by class."""
        return self.asked.reshape(len(self), -1)

    @property
    def targets(self) -> Int[np.ndarray, "M"]:
        """The correct class of each query, as a position among the ways; the same in all."""
        return np.repeat(np.arange(self.ways), self.queries)

    @property
    def measure(self) -> str:
        """The name of the number that sums up an episode; see `learn/fewshot/metrics.py`."""
        return str(self.facts.get("measure", "accuracy"))

    @property
    def balanced(self) -> bool:
        """True if all classes of an episode have as many queries; false with several labels."""
        if self.measure == "map":
            return False
        counts = (self.asked >= 0).sum(2)
        most = counts.max(1, keepdims=True)
        return bool((counts == most)[self.classes >= 0].all())

    def batches(self) -> Iterator["EpisodeBatch"]:
        """All episodes in batches of one shape: as many classes, queries and shots."""
        if (self.indices >= 0).all():
            yield EpisodeBatch(
                indices=np.arange(len(self)),
                columns=np.broadcast_to(np.arange(self.query.shape[1]), self.query.shape),
                classes=self.classes,
                support=self.support,
                query=self.query,
                mask=None,
            )
            return
        ways = (self.classes >= 0).sum(1)
        queries = (self.query >= 0).sum(1)
        shots = (self.support >= 0).sum(2)
        most = shots.max(1)
        even = ((shots == most[:, None]) | (self.classes < 0)).all(1)
        shapes = np.stack([ways, queries, most * even], axis=1)
        for shape in np.unique(shapes, axis=0):
            indices = np.flatnonzero((shapes == shape).all(1))
            n, m, k = (int(size) for size in shape)
            width = k or int(most[indices].max())
            columns = np.argsort(self.query[indices] < 0, axis=1, kind="stable")[:, :m]
            support = self.support[indices, :n, :width]
            yield EpisodeBatch(
                indices=indices,
                columns=columns,
                classes=self.classes[indices, :n],
                support=np.maximum(support, 0),
                query=np.take_along_axis(self.query[indices], columns, axis=1),
                mask=None if k else support >= 0,
            )

    def sampling(self) -> dict[str, Any]:
        """The settings of the sampling, as JSON."""
        return {
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "episodes": len(self),
            "seed": self.seed,
            **self.facts,
        }

    @property
    def sha256(self) -> str:
        """Digest of the clips, the sampling and every index: equal digests, equal problems."""
        head = json.dumps({"clips": self.clips_sha256, **self.sampling()}, sort_keys=True)
        digest = hashlib.sha256(head.encode())
        digest.update(self.classes.astype("<i4").tobytes())
        digest.update(self.indices.astype("<i4").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpisodeBatch:
    """Episodes of one shape: n classes, m queries, at most k shots of each class."""

    indices: Int[np.ndarray, "e"]  # positions among all episodes
    columns: Int[np.ndarray, "e m"]  # positions of the queries among M
    classes: Int32[np.ndarray, "e n"]
    support: Int32[np.ndarray, "e n k"]
    query: Int32[np.ndarray, "e m"]
    mask: Bool[np.ndarray, "e n k"] | None  # false for padding; None: no padding

    def __len__(self) -> int:
        return len(self.support)

    @property
    def ways(self) -> int:
        """Classes of an episode, at most."""
        return self.support.shape[1]

    @property
    def clips(self) -> int:
        """Clips of one episode."""
        return self.support[0].size + self.query.shape[1]


def check(config: Any, **least: int) -> None:
    """Refuse settings below their least value, and an unknown value of `groups`.

    Raises:
        ConfigError: names the setting.
    """
    for key, low in least.items():
        if getattr(config, key) < low:
            raise ConfigError(f"{key}={getattr(config, key)} is less than {low}")
    if config.groups not in GROUPS:
        raise ConfigError(f"groups={config.groups!r} is none of {choices(config.groups, GROUPS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Facts of a task that are needed before clips are loaded for it."""

    # What clips must be told apart by: their "split" alone, as base classes or new ones ("base"),
    # or by all labels they have ("targets").
    pool: Literal["split", "base", "targets"] = "split"


def traits_of(task: str) -> Traits:
    """The traits of the task of that name.

    Raises:
        UnknownPlugin: there is none.
    """
    traits: Traits = plugins.module(FAMILY, task).TRAITS
    return traits


@runtime_checkable
class EpisodeTask(Protocol):
    """Draws episodes; the same clips and the same seed give the same ones."""

    def __call__(self, clips: Clips, *, seed: int) -> Episodes:
        """Draw episodes from these clips."""


def draw_again(clips: Clips, draw: Episodes, **changed: Any) -> Episodes:
    """Episodes drawn from these clips with the settings of `draw`, some of them changed."""
    name = draw.facts.get("task", CLASSIC)
    known = {field.name for field in fields(plugins.module(FAMILY, name).Config)}
    settings = {key: value for key, value in draw.sampling().items() if key in known} | changed
    redrawn: Episodes = plugins.build(FAMILY, plugins.Spec(name, settings))(clips, seed=draw.seed)
    return redrawn
