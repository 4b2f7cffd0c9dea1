"""Loggers: where the numbers of a training are drawn, beside the run's own `metrics.jsonl`.

Each plug-in offers `Config` and `build(config, run) -> Logger`. A training that goes on where it
stopped goes on in the same curves: `run.key` is the same for both.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
        UnknownPlugin, UnknownSetting, ConfigError: no such logger, or its library is not here; from
            members too: its server or disk refuses.
    """
    with ExitStack() as stack:
        yield tuple(stack.enter_context(_closing(spec, run)) for spec in specs)


class _Told:
    """A logger whose failures are one line that names it."""

    def __init__(self, spec: str, logger: Logger) -> None:
        self._spec, self._logger = spec, logger

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Draw numbers at a step."""
        with _one_line(self._spec, _GO_ON):
            self._logger.log(values, step)

    def close(self) -> None:
        """Write what is drawn."""
        with _one_line(self._spec, _GO_ON):
            self._logger.close()


_GO_ON = "; go on with `resume`, with or without it"


@contextmanager
def _closing(spec: str, run: LoggedRun) -> Iterator[Logger]:
    """A logger, closed in the end; what ends the training is not hidden by what closing says."""
    with _one_line(spec):
        logger: Logger = _Told(spec, plugins.build(FAMILY, spec, run))
    try:
        yield logger
    except BaseException:
        with suppress(Exception):
            logger.close()
        raise
    logger.close()


@contextmanager
def _one_line(spec: str, then: str = "") -> Iterator[None]:
    """What a logger's library says against it, no account or no server, in one line."""
    try:
        yield
    except MicroshotError:
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{spec} cannot log: {why}{then}") from error
