"""Where a training stands: what a checkpoint holds beside tensors."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class TrainerState:
    """Where the training stands, and what it remembers of the way. Written into checkpoints."""

    stage: int = 0
    round: int = 0
    epoch: int = 0
    step: int = 0  # of the epoch: batches done
    steps: int = 0  # of the whole training
    sums: dict[str, float] = field(default_factory=dict)  # of this epoch, by term, times clips
    seen: int = 0  # clips of this epoch
    rounds: list[list[dict[str, Any]]] = field(default_factory=list)  # epochs of every round
    best: int = -1  # epoch of this round
    metrics_bytes: int = 0
    told: dict[str, float] = field(default_factory=dict)  # by `prepare`, for this epoch
