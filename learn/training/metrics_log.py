"""Metrics of a training: a JSON line for each step, epoch and round, and the curves of loggers."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learn.training.loggers import Logger
from learn.training.state import TrainerState
from store.errors import InputError

NAME = "metrics.jsonl"
FLUSH_STEPS = 64  # steps between transfers of losses from the device: each costs a wait
NO_CURVES = ("step", "epoch", "round", "clips", "parameters")  # keys that are no curves


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Step:
    """A step whose losses are still on the device."""

    row: Mapping[str, Any]
    terms: Sequence[str]
    losses: Tensor  # of each term


@dataclass(slots=True, kw_only=True, eq=False)
class MetricsLog:
    """Writes metrics, and counts into the training's state what it has written."""

    path: Path
    state: TrainerState
    loggers: Sequence[Logger] = ()
    _pending: list[_Step] = field(default_factory=list, init=False)

    def begin(self) -> None:
        """Forget lines behind the checkpoint: their steps are done again."""
        with self.path.open("ab") as file:
            file.truncate(self.state.metrics_bytes)

    def add_step(self, row: Mapping[str, Any], losses: Mapping[str, Tensor]) -> None:
        """Remember a step's losses, without waiting for the device until many have come."""
        stacked = torch.stack([loss.detach() for loss in losses.values()])
        self._pending.append(_Step(row=row, terms=list(losses), losses=stacked))
        if len(self._pending) >= FLUSH_STEPS:
            self.flush()

    def flush(self) -> None:
        """Write the steps whose losses are still on the device.

        Raises:
            InputError: one of them is not finite.
        """
        if not self._pending:
            return
        losses = torch.cat([step.losses for step in self._pending]).tolist()
        start = 0
        for step in self._pending:
            stop = start + len(step.terms)
            check_finite(losses[start:stop], step.row["step"], step.row["epoch"])
            terms = dict(zip(step.terms, losses[start:stop], strict=True))
            start = stop
            self.state.add(terms, step.row["clips"])
            self.write({**step.row, "loss": math.fsum(terms.values()), "terms": terms})
        self._pending.clear()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line, and draw its numbers."""
        line = (json.dumps(row) + "\n").encode()
        with self.path.open("ab") as file:
            file.write(line)
        self.state.metrics_bytes += len(line)
        if self.loggers:
            self._draw(row)

    def _draw(self, row: Mapping[str, Any]) -> None:
        flat = {**row, **{f"terms/{name}": x for name, x in row.get("terms", {}).items()}}
        curves = {
            f"{row['stage']}/{row['event']}/{key}": value
            for key, value in flat.items()
            if isinstance(value, float) and key not in NO_CURVES
        }
        for logger in self.loggers if curves else ():
            logger.log(curves, self.state.steps)


def check_finite(
    numbers: Sequence[float], step: int, epoch: int, noun: str = "the loss is"
) -> None:
    """Refuse to go on with losses, or sums of weights, that are no finite numbers.

    Raises:
        InputError: names the step, and the setting to lower.
    """
    for number in numbers:
        if not math.isfinite(number):
            raise InputError(
                f"step {step}, in epoch {epoch}: {noun} not finite ({number}); lower "
                "optimiser.learning_rate. What was checkpointed before it is kept"
            )
