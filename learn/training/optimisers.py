"""Optimisers as recipes name them, and their learning rate over the epochs of a round."""

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from learn.training.recipe import OptimiserSettings


def make_optimiser(
    settings: OptimiserSettings, parameters: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """An optimiser of these parameters, by the stage's settings."""
    o, learning = settings, list(parameters.values())
    if o.method == "sgd":
        return torch.optim.SGD(
            learning, lr=o.learning_rate, momentum=o.momentum, nesterov=o.momentum > 0,
            weight_decay=o.weight_decay,
        )  # fmt: skip
    kind = torch.optim.Adam if o.method == "adam" else torch.optim.AdamW
    return kind(learning, lr=o.learning_rate, weight_decay=o.weight_decay)


@runtime_checkable
class Schedule(Protocol):
    """The settings that say how the learning rate changes over the epochs of a round."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def schedule(self) -> str: ...

    @property
    def warmup_epochs(self) -> float: ...

    @property
    def epochs(self) -> int: ...


def learning_rate(settings: Schedule, epoch: float) -> float:
    """The rate at a time counted in epochs of the round."""
    o = settings
    rise = min(1.0, (epoch + 1e-3) / o.warmup_epochs) if epoch < o.warmup_epochs else 1.0
    if o.schedule == "constant" or epoch < o.warmup_epochs:
        return o.learning_rate * rise
    progress = (epoch - o.warmup_epochs) / max(1e-9, o.epochs - o.warmup_epochs)
    return o.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
