"""What `learn report` is asked, as far as it can be judged before anything is read."""

from collections.abc import Sequence
from pathlib import Path

from store.errors import ConfigError, InputError, MissingFile, choices

RESULTS = ("config.json", "evaluation.json", "result.json")
METHODS = ("tsne", "pca", "none")


def check_map(method: str) -> None:
    """Refuse an unknown method.

    Raises:
        ConfigError: names the methods there are.
    """
    if method not in METHODS:
        raise ConfigError(f"no map {method!r}; there are {choices(method, METHODS)}")


def check_report(
    runs: Sequence[str | Path], output: Path, media: Sequence[str | Path],
    figures: Path | None = None,
) -> None:  # fmt: skip
    """Refuse wrong arguments before anything is read."""
    if not runs:
        raise InputError("no RUN; name a directory that learn episodes, evaluate or train wrote")
    if output.exists():
        raise InputError(f"{output} exists; name another `output`, or remove it")
    if not output.parent.is_dir():
        raise MissingFile(f"no directory {output.parent} to write {output.name} in; make it first")
    if figures is not None and (figures.exists() or figures.is_symlink()):
        raise InputError(f"{figures} exists; name another directory for `figures`, or remove it")
    if figures is not None and not figures.parent.is_dir():
        raise MissingFile(f"no directory {figures.parent} to write `figures` in; make it first")
    for folder in map(Path, media):
        if not folder.is_dir():
            raise MissingFile(f"no directory {folder}; `media` is where the clips lie")
    for run in map(Path, runs):
        check_result(run)


def check_result(run: Path) -> None:
    """Refuse what is no directory of results.

    Raises:
        MissingFile: there is none.
        InputError: it holds none.
    """
    if any((run / name).is_file() for name in RESULTS):
        return
    if run.is_dir():
        raise InputError(
            f"{run} holds no result; a RUN is what learn episodes, learn evaluate or learn "
            "train wrote with -o"
        )
    raise MissingFile(f"no directory {run}; a RUN is what learn … -o RUN wrote")
