"""The files of a training's directory, by name, and whether they are there.

`learn/training/runs.py` says what they hold.
"""

from pathlib import Path

from store.errors import InputError, MissingFile

CONFIG = "config.json"
PROVENANCE = "provenance.json"
WEIGHTS = "weights.safetensors"
BEFORE = "before.safetensors"  # vectors of val clips before encoders were trained
DONE = "done.json"
COMMAND = "command.txt"  # what was typed; of a directory of any command's results


def refuse_existing(run_dir: Path) -> None:
    """Refuse a directory that exists, before long work rather than after it.

    Raises:
        InputError: something is there already.
    """
    if run_dir.exists():
        raise InputError(f"{run_dir} exists; name a new directory")


def check_finished(path: Path) -> None:
    """Refuse a directory that holds no run, or one that never finished.

    Raises:
        MissingFile: says how to make or to finish it.
    """
    if not (path / CONFIG).is_file():
        raise MissingFile(f"no run {path}; make one with: learn train DIR --recipe NAME -o {path}")
    if not (path / DONE).is_file():
        raise MissingFile(
            f"{path} is unfinished (no done.json); go on with: learn train … -o {path} --resume"
        )
