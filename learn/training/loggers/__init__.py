"""Loggers: where the numbers of a training are drawn, beside the run's own `metrics.jsonl`.

Each plug-in offers `Config` and `build(config, run) -> Logger`. A training that goes on where it
stopped goes on in the same curves: `run.key` is the same for both.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from store import plugins
from store.errors import ConfigError, MicroshotError

FAMILY = "learn.training.loggers"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRun:
    """The training whose numbers are drawn."""

    path: Path
    key: str  # the same when it goes on: of the settings, and of where the run lies
    settings: Mapping[str, Any]  # the recipe, in full


@runtime_checkable
class Logger(Protocol):
    """A drawer of curves."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Draw numbers, by the names of their curves, at a step."""

    def close(self) -> None:
        """Write what is drawn; nothing comes after."""


@contextmanager
def opened(specs: Sequence[str], run: LoggedRun) -> Iterator[tuple[Logger, ...]]:
    """The loggers of these SPECs; all are closed in the end.

    Raises:
        UnknownPlugin, UnknownSetting, ConfigError: no such logger, or its library is not here.
    """
    with ExitStack() as stack:
        yield tuple(stack.enter_context(closing(_built(spec, run))) for spec in specs)


def _built(spec: str, run: LoggedRun) -> Logger:
    """The logger; what its library says against it, no account or no server, is one line."""
    try:
        logger: Logger = plugins.build(FAMILY, spec, run)
    except MicroshotError:
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{spec} cannot log: {why}") from error
    return logger
