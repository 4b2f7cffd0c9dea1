"""Episode tasks: labelled clips in, few-shot problems out. They never touch features.

Shapes: V = clips to draw from, E = episodes, N = ways, K = shots, Q = queries of each class,
C = K + Q clips of a class in an episode, M = N * Q queries (class by class).

Each plug-in offers `Config` and `build(config) -> EpisodeTask`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32

from learn.data import Clips

GROUPS = ("within", "strict", "mixed")  # how groups of support and query are kept apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """Problems drawn from one set of clips: of each class K shots, then Q queries.

    Raises:
        ValueError: a clip outside the set, or one that is drawn twice for one class.
    """

    indices: Int32[np.ndarray, "E N C"]  # positions in the clips whose digest is `clips_sha256`
    classes: Int32[np.ndarray, "E N"]  # class codes of those clips
    shots: int
    seed: int
    clips_sha256: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else the sampling was asked for

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
        if (in_order[..., 1:] == in_order[..., :-1]).any() or in_order[..., :1].min(initial=0) < 0:
            raise ValueError("a clip is drawn twice for one class, or its index is negative")

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ways(self) -> int:
        return self.indices.shape[1]

    @property
    def queries(self) -> int:
        return self.indices.shape[2] - self.shots

    @property
    def support(self) -> Int32[np.ndarray, "E N K"]:
        return self.indices[..., : self.shots]

    @property
    def query(self) -> Int32[np.ndarray, "E M"]:
        return self.indices[..., self.shots :].reshape(len(self), -1)

    @property
    def answers(self) -> Int[np.ndarray, "M"]:
        """The right class of each query, as a position among the ways; the same in all episodes."""
        return np.repeat(np.arange(self.ways), self.queries)

    def sampling(self) -> dict[str, Any]:
        """What was asked for, as JSON."""
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


@runtime_checkable
class EpisodeTask(Protocol):
    """The same clips and the same seed give the same episodes."""

    def __call__(self, clips: Clips, *, seed: int) -> Episodes: ...
