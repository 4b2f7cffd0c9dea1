"""The position of a training between two steps: the header of its checkpoints."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True, kw_only=True)
class TrainerState:
    """The training's position, and sums over the way to it. Written into checkpoints."""

    stage: int = 0
    round: int = 0
    epoch: int = 0
    step: int = 0  # of the epoch: batches done
    steps: int = 0  # of the whole training
    sums: dict[str, float] = field(default_factory=dict)  # of this epoch, by term, times clips
    seen: int = 0  # clips of this epoch
    rounds: list[list[dict[str, Any]]] = field(default_factory=list)  # epochs of every round
    best: int = -1  # epoch of this round; -1: the state before it
    # On unseen classes, of the best state and of that before the round.
    best_scores: dict[str, list[list[float]]] = field(default_factory=dict)
    start_scores: dict[str, list[list[float]]] = field(default_factory=dict)
    metrics_bytes: int = 0
    told: dict[str, float] = field(default_factory=dict)  # by `prepare`, for this epoch

    @property
    def best_accuracy(self) -> float | None:
        """The mean accuracy of the best state on unseen classes, where it was asked about them."""
        episodes = self.best_scores.get("episodes")
        return float(np.mean(episodes[0])) if episodes else None

    def begin_round(self) -> None:
        """Go to the first epoch of a round, with no best epoch yet."""
        self.rounds.append([])
        self.epoch, self.step, self.best = 0, 0, -1
        self.best_scores, self.start_scores = {}, {}

    def begin_epoch(self, prepared: dict[str, float]) -> None:
        """Go to the first step of an epoch."""
        self.told, self.sums, self.seen = prepared, {}, 0

    def add(self, terms: dict[str, float], clips: int) -> None:
        """Count a step's losses into the epoch's means."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * clips
        self.seen += clips

    def means(self) -> dict[str, float]:
        """Loss terms of the epoch so far, a clip."""
        return {name: total / self.seen for name, total in self.sums.items()}

    def step_seed(self, seed: int) -> int:
        """The seed of this step's random numbers, whatever happened before."""
        position = [seed, self.stage, self.round, self.epoch, self.step]
        return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> 1)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as checkpoints hold them."""
        return asdict(self)
