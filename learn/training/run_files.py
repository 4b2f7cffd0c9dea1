"""The files of a training's directory, by name, and whether they are there.

`learn/training/runs.py` says what they hold.
"""

from pathlib import Path

from store.errors import InputError, MissingFile

CONFIG = "config.json"
PROVENANCE = "provenance.json"
WEIGHTS = "weights.safetensors"
ENCODERS = ("visual.safetensors", "audio.safetensors")  # of encoders that were trained
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
    """Refuse a directory that holds no run, one of encoders, or one that never finished.

    Raises:
        MissingFile: says how to make or to finish it.
        InputError: its result are weights for `extract run`.
    """
    found = [name for name in ENCODERS if (path / name).is_file()]
    if found and not (path / WEIGHTS).is_file():
        modality, _, _ = found[0].partition(".")
        raise InputError(
            f"{path} is a run of `learn finetune`: encoders, no projection of stored features; "
            f"encode clips with it (extract run CLIPS --store DIR --{modality} "
            f"NAME:weights={path / found[0]}) and use that store. Its gains are in {path / DONE}"
        )
    if not (path / CONFIG).is_file():
        raise MissingFile(f"no run {path}; make one with: learn train DIR --recipe NAME -o {path}")
    if not (path / DONE).is_file():
        raise MissingFile(
            f"{path} is unfinished (no done.json); go on with: learn train … -o {path} --resume"
        )
