"""Weights & Biases: a run of a project, online or offline as its own settings say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from learn.training.loggers import LoggedRun
from store.optional import library
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the logger `wandb`."""

    project: str = setting("microshot", main=True)
    name: str = ""  # of the run; none: that of its directory
    mode: str = setting("", among=("", "online", "offline", "disabled"))  # none: as wandb's own
    directory: str = ""  # where wandb keeps its files; none: as its own settings say


class WeightsAndBiases:
    """Rows of a run, by their step."""

    def __init__(self, run: Any) -> None:
        self._run = run
        run.define_metric("training_step")
        run.define_metric("*", step_metric="training_step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Draw numbers at a step, which may lie before others where a training goes on."""
        self._run.log({**values, "training_step": step})

    def close(self) -> None:
        """Send what is drawn."""
        self._run.finish()


def build(config: Config, run: LoggedRun) -> WeightsAndBiases:
    """The run, gone on with where it is there already.

    Raises:
        ConfigError: wandb is not installed.
    """
    wandb = library("wandb", "wandb")
    return WeightsAndBiases(
        wandb.init(
            project=config.project,
            name=config.name or run.path.name,
            mode=config.mode or None,
            dir=config.directory or None,
            id=run.key[:16],
            resume="allow",
            config=dict(run.settings),
        )
    )
