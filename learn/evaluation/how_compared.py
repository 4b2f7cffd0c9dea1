"""How `learn compare` may compare, and what."""

from pathlib import Path

from learn.fewshot import statistics
from store.errors import ConfigError, InputError, MissingFile, choices

METHODS = (*statistics.METHODS, "bootstrap")
AGAINST = ("first", "best", "all")


def check_comparison(against: str, margin: float, ci: str) -> None:
    """Refuse a comparison that there is none of.

    Raises:
        ConfigError: another reference or method, or a margin that is no share.
    """
    if against not in AGAINST:
        raise ConfigError(f"`against` {against!r} is none of {choices(against, AGAINST)}")
    if ci not in METHODS:
        raise ConfigError(f"no interval {ci!r}; there are {choices(ci, METHODS)}")
    if not 0 <= margin < 1:
        raise ConfigError(f"margin={margin} is not in [0, 1)")


def check_scored(run_dir: Path) -> None:
    """Refuse a directory that `learn episodes` did not write.

    Raises:
        MissingFile: there is none.
        InputError: a training's.
    """
    if (run_dir / "config.json").is_file():
        raise InputError(
            f"{run_dir} is a training; score it first: learn episodes DIR --projection {run_dir} "
            "-o RUN"
        )
    if not (run_dir / "result.json").is_file():
        raise MissingFile(f"no result {run_dir}; make one with: learn episodes DIR -o {run_dir}")
