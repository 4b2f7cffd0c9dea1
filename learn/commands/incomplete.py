"""`--incomplete` of `learn episodes` and `evaluate`: each mode on all clips that it can look at.

Otherwise all modes of a call are scored on the same clips, those that have everything, and their
differences are paired. Here a clip without sound counts in mode v: a result for every mode, each of
clips of its own, which nobody may subtract.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from learn.fewshot.mode_pairs import cells
from store import atomic, console
from store.errors import ConfigError, InputError


class Kept(Protocol):
    """A result that can be shown, and kept in a directory."""

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        ...

    def save(self, run_dir: Path) -> None:
        """Write it; the directory appears whole or not at all."""
        ...


def check_incomplete(taken: Mapping[str, object]) -> None:
    """Refuse options that are about the same clips in every mode.

    Raises:
        ConfigError: names one that was given.
    """
    for name, value in taken.items():
        if value:
            raise ConfigError(
                f"`incomplete` scores each mode on clips of its own, and `{name}` is about the "
                "same ones; leave one out"
            )


def _modes_apart(directory: str, asked: Sequence[str]) -> list[str]:
    """The modes asked for, or all that the store's modalities allow.

    Raises:
        InputError: the store has no feature.
        ConfigError: an unknown mode.
    """
    import store

    fs = store.open(directory)
    known = {fs[name].modality for name in fs.features}
    found = [mode for mode, _ in cells(asked, (), sorted(known))]
    if not found:
        raise InputError("no feature to score; run: extract run MANIFEST")
    return found


class OfModes(NamedTuple):
    """What every mode gives, and why some give nothing."""

    results: dict[str, dict[str, Any]]
    left_out: dict[str, str]  # mode: the reason


def scored_apart(
    directory: str, asked: Sequence[str], score: Callable[[str], Kept], output: Path | None
) -> OfModes:
    """What every mode gives; kept in a directory each, within one that appears whole or not at all.
    A mode that nobody named is left out where its clips are too few to be asked about.

    Raises:
        InputError: a mode that was named cannot be scored, or none can.
    """
    results: dict[str, Kept] = {}
    left_out: dict[str, str] = {}
    modes = _modes_apart(directory, asked)
    for mode in modes:
        try:
            results[mode] = score(mode)
        except InputError as error:
            if asked or len(left_out) == len(modes) - 1:
                raise
            left_out[mode] = str(error)
    if output is not None:
        with atomic.directory(output, durable=True) as staged:
            for mode, result in results.items():
                result.save(staged / mode)
    return OfModes({mode: result.to_dict() for mode, result in results.items()}, left_out)


def give_apart(
    of_modes: OfModes,
    clips: Mapping[str, int],
    as_json: bool,
    table: Callable[[dict[str, Any]], None],
) -> None:
    """Print the results one after the other, and first of how many clips each is."""
    counts = ", ".join(f"{mode} {n}" for mode, n in clips.items())

    def tables() -> None:
        console.write_line(f"Each mode on the clips that have what it looks at: {counts}.")
        console.write_line("These are other clips, and their differences are not paired.")
        for mode, reason in of_modes.left_out.items():
            console.wrapped(f"Not scored: mode {mode}. {reason}")
        for mode, result in of_modes.results.items():
            console.write_line()
            console.write_line(f"mode {mode}")
            table(result)

    console.give(
        {"incomplete": of_modes.results, "clips": dict(clips), "left_out": of_modes.left_out,
         "paired": False},
        as_json, tables,
    )  # fmt: skip
