"""What `learn episodes` found: rows that feed tests, tables and pages alike.

Shapes: E = episodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float64

from learn import episode_files
from learn.episodes import Episodes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """One head on one view: a row of the table."""

    head: str
    projection: str
    support: str
    query: str
    ways: int
    shots: int
    queries: int
    episodes: int
    accuracy: float  # mean over episodes, 0 to 1
    ci95: float | None  # half the width
    ci_method: str
    clips: int
    seconds: float
    untrained: bool  # random weights made a feature in play
    transductive: bool
    centred_by: str
    seen_in_training: int  # clips scored here that the projection was trained on
    of_episodes: Float64[np.ndarray, "E"]  # accuracy of each: rows of one call are paired

    def as_json(self) -> dict[str, Any]:
        """Everything but the single episodes."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "of_episodes"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpisodesResult:
    """What one call of `run_episodes` came to."""

    sampling: Mapping[str, Any]
    draws: Sequence[Episodes]
    results: Sequence[Result]

    def as_json(self) -> dict[str, Any]:
        """The object that `learn episodes --json` prints."""
        draws = [{"shots": draw.shots, "sha256": draw.sha256} for draw in self.draws]
        digest = episode_files.digest(self.draws)
        return {
            "episodes": {**self.sampling, "draws": draws, "sha256": digest},
            "results": [result.as_json() for result in self.results],
        }
