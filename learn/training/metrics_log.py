"""What a training writes down: a line of JSON for each round, step and epoch, and scalars."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from learn.training.state import TrainerState
from store.errors import InputError

FLUSH_STEPS = 64  # losses leave the device this often: each time costs a wait
NOT_DRAWN = ("step", "epoch", "round", "clips", "parameters")


@runtime_checkable
class Scalars(Protocol):
    """Where numbers are drawn, such as TensorBoard's writer."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Draw one number."""

    def flush(self) -> None:
        """Write what was drawn."""


class MetricsLog:
    """`metrics.jsonl` of a run; losses of the last steps wait on the device until `flush`."""

    def __init__(self, path: Path, scalars: Scalars | None) -> None:
        self.path = path
        self.scalars = scalars
        self._pending: list[tuple[dict[str, Any], list[str], Tensor]] = []

    def cut_back(self, state: TrainerState) -> None:
        """Forget the lines that were written after `state` was kept."""
        with self.path.open("ab") as file:
            file.truncate(state.metrics_bytes)

    def step(self, row: dict[str, Any], terms: Sequence[str], losses: Tensor) -> None:
        """Remember a step and its losses, by the names of their terms."""
        self._pending.append((row, list(terms), losses.detach()))

    @property
    def is_full(self) -> bool:
        """Whether it is time to fetch the losses."""
        return len(self._pending) >= FLUSH_STEPS

    def flush(self, state: TrainerState) -> None:
        """Write the steps that wait, and add them to the epoch's sums.

        Raises:
            InputError: a loss that is not finite.
        """
        if not self._pending:
            return
        losses = torch.cat([tensor for *_, tensor in self._pending]).tolist()
        check_finite(losses)
        sums, at = state.sums, 0
        for row, names, _ in self._pending:
            terms = dict(zip(names, losses[at : at + len(names)], strict=True))
            at += len(names)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value * row["clips"]
            state.seen += row["clips"]
            self.write({**row, "loss": math.fsum(terms.values()), "terms": terms}, state)
        self._pending.clear()

    def write(self, row: Mapping[str, Any], state: TrainerState) -> None:
        """Write one line, and draw its numbers where somebody watches."""
        line = (json.dumps(row) + "\n").encode()
        with self.path.open("ab") as file:
            file.write(line)
        state.metrics_bytes += len(line)
        if self.scalars:
            flat = {**row, **{f"terms/{k}": v for k, v in row.get("terms", {}).items()}}
            for key, value in flat.items():
                if isinstance(value, float) and key not in NOT_DRAWN:
                    tag = f"{row['stage']}/{row['event']}/{key}"
                    self.scalars.add_scalar(tag, value, state.steps)


def check_finite(losses: Sequence[float]) -> None:
    """Refuse to train on.

    Raises:
        InputError: a loss that is not finite.
    """
    if not all(map(math.isfinite, losses)):
        raise InputError("the loss is not finite; lower optimiser.learning_rate")
