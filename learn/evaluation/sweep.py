"""`learn sweep`: a training for every combination of settings, scored on the same episodes.

The directory has a run for each, named by the digest of its recipe, so that the same command goes
on where it was stopped and a larger grid keeps what a smaller one has done. Combinations are told
apart on the validation split: the best of many on the test split would be too good by chance.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from learn.data.clips import splits
from learn.data.table import frame
from learn.evaluation.episodes import run_episodes
from learn.evaluation.grid import combinations, parse_grid
from learn.evaluation.processes import each_in_a_process
from learn.fewshot import modes as views
from learn.inference.selection import absolute
from learn.training import recipe as recipes
from learn.training.runs import load_run, write_json
from learn.training.train import code, train
from store import open as open_store
from store import read_manifest
from store.errors import ClusterError, ConfigError, InputError, MicroshotError

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, str], None]
EPISODES = 2000
FILE = "sweep.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination of the grid."""

    settings: Mapping[str, str]
    recipe: recipes.Recipe
    run: Path

    @property
    def changes(self) -> tuple[str, ...]:
        """Its settings as `--set` has them."""
        return tuple(f"{key}={value}" for key, value in self.settings.items())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """The outcome of every cell, in the order of the grid."""

    facts: Mapping[str, Any]
    cells: Sequence[Mapping[str, Any]]

    @property
    def failed(self) -> int:
        """The number of trainings that ended in an error."""
        return sum(cell["error"] is not None for cell in self.cells)

    @property
    def best(self) -> int | None:
        """The cell with the highest mean accuracy over modes."""
        scored = {
            i: sum(row["accuracy"] for row in cell["scores"]) / len(cell["scores"])
            for i, cell in enumerate(self.cells)
            if cell["scores"]
        }
        return max(scored, key=scored.__getitem__) if scored else None

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn sweep --json` prints and `sweep.json` keeps."""
        return {**self.facts, "best": self.best, "cells": list(self.cells)}

    def to_pandas(self) -> "pd.DataFrame":
        """The cells as a table.

        Raises:
            ConfigError: pandas is not installed.
        """
        return frame(self.to_dict()["cells"])


def sweep(
    store_path: str | Path,
    recipe: str | Path,
    *,
    grid: Sequence[str],
    settings: Sequence[str] = (),
    directory: str | Path,
    manifest: str | Path | None = None,
    group_file: str | Path | None = None,
    device: str = "auto",
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    workers: int = 0,
    scheduler: str | None = None,
    insecure_tcp: bool = False,
    progress: Progress | None = None,
) -> Sweep:
    """Train every combination of `grid` ("section.key=a,b") and compare them.

    `workers` are processes on this machine, `scheduler` is the address of dask's. A cell that
    fails is reported and the others go on. Paths must mean the same on all machines.

    >>> swept = learn.sweep(
    ...     "my_store", "infonce", grid=["optimiser.epochs=1,2"], directory="my_sweep", queries=2
    ... )
    >>> len(swept.cells), swept.failed
    (2, 0)

    Raises:
        ConfigError, UnknownSetting: a combination that is none; nothing is trained then.
        ClusterError: no scheduler, an unsafe line, or workers with other code.
    """
    axes, folder = parse_grid(grid), Path(directory).absolute()
    cells = [_cell(recipe, settings, chosen, folder) for chosen in combinations(axes)]
    _refuse(cells, folder, workers, scheduler)
    _refuse_without_val(store_path, manifest, cells)
    facts = {
        "store": str(store_path), "recipe": str(recipe), "set": list(settings),
        "grid": {key: list(values) for key, values in axes.items()},
    }  # fmt: skip
    common = {
        "store_path": absolute(store_path),
        "manifest": absolute(manifest) if manifest else None,
        "group_file": absolute(group_file) if group_file else None,
        "device": device,
        "recipe": absolute(recipe) if Path(recipe).is_file() else str(recipe),
    }
    calls = [
        {**common, "settings": (*settings, *cell.changes), "run": str(cell.run)} for cell in cells
    ]
    with _cluster(scheduler, insecure_tcp) as pool:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).is_file():  # says whose directory it is; finished ones keep theirs
            write_json(folder / FILE, facts)
        outcomes = _outcomes(cells, calls, workers, pool, progress)
    data = cells[0].recipe.data
    trained = [cell.run for cell, outcome in zip(cells, outcomes, strict=True) if outcome["done"]]
    scores, reason = _scores(
        store_path, manifest, data.val_split, trained, label=data.label, ways=ways, shots=shots,
        queries=queries, group_file=group_file,
    )  # fmt: skip
    episodes = {"ways": ways, "shots": shots, "queries": queries}
    scored_on = {"scored_on": None if reason else data.val_split, "not_scored": reason}
    result = Sweep(
        facts={**facts, **scored_on, **episodes},
        cells=[
            {
                "settings": dict(cell.settings),
                "run": str(cell.run),
                "error": outcome["error"],
                "training": outcome["done"],
                "scores": scores.get(cell.run, []),
            }
            for cell, outcome in zip(cells, outcomes, strict=True)
        ],
    )
    write_json(folder / FILE, result.to_dict())
    return result


def _refuse(cells: Sequence[Cell], folder: Path, workers: int, scheduler: str | None) -> None:
    """Refuse a sweep that cannot be, before anything is trained.

    Raises:
        ConfigError: two combinations that are the same, or two kinds of workers.
        InputError: the directory holds something else.
    """
    if len({cell.run for cell in cells}) < len(cells):
        raise ConfigError("`grid`: two combinations are the same training")
    if workers < 0 or (workers and scheduler):
        raise ConfigError("`workers` is 0 or more, and excludes `scheduler`")
    if folder.exists() and not (folder / FILE).is_file() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something else; name a new directory")


def _refuse_without_val(
    store_path: str | Path, manifest: str | Path | None, cells: Sequence[Cell]
) -> None:
    """Refuse to train combinations that nothing could tell apart in the end.

    Raises:
        InputError: no clip is in the validation split.
    """
    table = read_manifest(manifest) if manifest else open_store(store_path).manifest()
    wanted, known = cells[0].recipe.data.val_split, splits(table)
    if wanted not in known:
        raise InputError(
            f"the manifest has no split {wanted!r} to tell the combinations apart on "
            f"(there are {', '.join(known) or 'none'}); name one with `setting` "
            "data.val_split=NAME, or give a `manifest` that has it"
        )


def _outcomes(
    cells: Sequence[Cell],
    calls: Sequence[dict[str, Any]],
    workers: int,
    pool: "_Pool | None",
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """The outcome of every cell's training, in the order of the cells."""
    outcomes: list[dict[str, Any]] = [{} for _ in cells]
    for done, (number, outcome) in enumerate(_trained(calls, workers, pool), 1):
        outcomes[number] = outcome
        if progress:
            short = ", ".join(cells[number].changes)
            progress(done, len(cells), f"{short}: {_in_short(outcome)}")
    return outcomes


def _cell(
    recipe: str | Path, settings: Sequence[str], chosen: Mapping[str, str], folder: Path
) -> Cell:
    built = recipes.load(recipe, (*settings, *(f"{k}={v}" for k, v in chosen.items())))
    digest = sha256(json.dumps(built.to_dict(), sort_keys=True).encode()).hexdigest()
    return Cell(settings=chosen, recipe=built, run=folder / digest[:12])


@runtime_checkable
class _Pool(Protocol):
    """The methods of dask's client that are used."""

    loop: Any

    def submit(self, function: Any, *args: Any, **kwargs: Any) -> Any: ...
    def run(self, function: Any) -> Mapping[str, Any]: ...


def run_cell(
    *, store_path: str, manifest: str | None, device: str, recipe: str, settings: Sequence[str],
    run: str, group_file: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train one cell, or go on with it, in any process; errors of ours become its outcome."""
    try:
        done = train(
            store_path, recipe, settings=settings, run_dir=run, manifest=manifest,
            group_file=group_file, device=device, resume=True,
        )  # fmt: skip
    except MicroshotError as error:
        return {"done": None, "error": f"{type(error).__name__}: {error}"}
    return {"done": done.to_dict(), "error": None}


def _trained(
    calls: Sequence[Mapping[str, Any]], workers: int, pool: _Pool | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and outcome of every cell, as trainings finish."""
    if pool is not None:
        yield from _trained_elsewhere(calls, pool)
    elif workers:
        for number, outcome in each_in_a_process(run_cell, calls, workers=workers):
            yield number, _failed(outcome) if isinstance(outcome, Exception) else outcome
    else:
        for number, call in enumerate(calls):
            yield number, run_cell(**call)


def _trained_elsewhere(
    calls: Sequence[Mapping[str, Any]], pool: _Pool
) -> Iterator[tuple[int, dict[str, Any]]]:
    from distributed import as_completed

    for address, worker_code in pool.run(code).items():
        if worker_code != code():
            raise ClusterError(f"worker {address} has other code; install the same on both")
    futures = {pool.submit(run_cell, **call, pure=False): i for i, call in enumerate(calls)}
    for future in as_completed(futures, loop=pool.loop, raise_errors=False):
        error = future.exception() if future.status == "error" else None
        yield futures[future], _failed(error) if error else future.result()


def _failed(error: BaseException) -> dict[str, Any]:
    return {"done": None, "error": f"{type(error).__name__}: {error}"}


@contextmanager
def _cluster(scheduler: str | None, insecure_tcp: bool) -> Iterator[_Pool | None]:
    """A dask client, where a scheduler is named."""
    if scheduler is None:
        yield None
        return
    from store.cluster import connected

    with connected(scheduler, insecure_tcp) as client:
        yield client


def _scores(
    store_path: str | Path, manifest: str | Path | None, split: str, runs: Sequence[Path], *,
    label: str, ways: int, shots: int, queries: int, group_file: str | Path | None,
) -> tuple[dict[Path, list[dict[str, Any]]], str | None]:  # fmt: skip
    """Few-shot accuracy of each run on the validation split, or why there is none."""
    table = read_manifest(manifest) if manifest else open_store(store_path).manifest()
    if split not in splits(table):
        return {}, f"the manifest has no split {split!r} to tell them apart on"
    scores: dict[Path, list[dict[str, Any]]] = {}
    for run in runs:
        outputs = set(load_run(run).space.outputs)
        modes = views.MODES.items()
        modes_of_run = [mode for mode, of in modes if set(of) <= outputs or mode in outputs]
        try:
            result = run_episodes(
                store_path, manifest=manifest, split=split, label=label, ways=ways, shots=(shots,),
                queries=queries, episodes=EPISODES, projections=(run,), support=modes_of_run,
                group_file=group_file,
            )  # fmt: skip
        except MicroshotError as error:
            return {}, str(error)
        keep = ("support", "query", "accuracy", "ci95")
        scores[run] = [{k: row[k] for k in keep} for row in result.to_dict()["results"]]
    return scores, None


def _in_short(outcome: Mapping[str, Any]) -> str:
    if outcome["error"]:
        return str(outcome["error"])
    done = outcome["done"]
    of_val = {k: done[k] for k in ("val_loss", "val_accuracy") if done[k] is not None}
    return ", ".join(f"{k} {v:.4f}" for k, v in {"loss": done["loss"], **of_val}.items())
