"""TensorBoard: event files in a directory, for `tensorboard --logdir DIR`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from learn.training.loggers import LoggedRun
from store.errors import ConfigError
from store.optional import library
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the logger `tensorboard`."""

    directory: str = setting("", main=True)


class TensorBoard:
    """Scalars by TensorBoard's own writer."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Draw numbers at a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is drawn."""
        self._writer.close()


def build(config: Config, run: LoggedRun) -> TensorBoard:
    """The writer of a directory.

    Raises:
        ConfigError: no directory is named, or TensorBoard is not installed.
    """
    if not config.directory:
        raise ConfigError("tensorboard: name a directory, as tensorboard:DIR")
    torch_side = library("torch.utils.tensorboard", "tensorboard")
    return TensorBoard(torch_side.SummaryWriter(config.directory))
