"""`learn sweep`: a training for every combination of settings, scored on the same episodes.

The directory has a run for each, named by the digest of its recipe, so that the same command goes
on where it was stopped and a larger grid keeps what a smaller one has done. Combinations are told
apart on the validation split: the best of many on the test split would be too good by chance.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from learn.data.clips import splits
from learn.evaluation.episodes import run_episodes
from learn.fewshot import modes as views
from learn.inference.selection import absolute
from learn.training import recipe as recipes
from learn.training.runs import load_run, write_json
from learn.training.train import code, train
from store import open as open_store
from store import read_manifest
from store.errors import ClusterError, ConfigError, InputError, MicroshotError

Progress = Callable[[int, int, str], None]
EPISODES = 2000
FILE = "sweep.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination of the grid."""

    settings: Mapping[str, str]
    recipe: recipes.Recipe
    run: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """What became of every cell, in the order of the grid."""

    facts: Mapping[str, Any]
    cells: Sequence[Mapping[str, Any]]

    @property
    def failed(self) -> int:
        return sum(cell["error"] is not None for cell in self.cells)

    @property
    def best(self) -> int | None:
        """The cell with the highest mean accuracy over modes."""
        scored = {
            i: sum(one["accuracy"] for one in cell["scores"]) / len(cell["scores"])
            for i, cell in enumerate(self.cells)
            if cell["scores"]
        }
        return max(scored, key=scored.__getitem__) if scored else None

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn sweep --json` prints and `sweep.json` keeps."""
        return {**self.facts, "best": self.best, "cells": list(self.cells)}


def sweep(
    store_path: str | Path,
    recipe: str | Path,
    *,
    grid: Sequence[str],
    settings: Sequence[str] = (),
    directory: str | Path,
    manifest: str | Path | None = None,
    device: str = "cpu",
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    workers: int = 0,
    scheduler: str | None = None,
    insecure_tcp: bool = False,
    progress: Progress | None = None,
) -> Sweep:
    """Train every combination of `grid` ("section.key=a,b"), here or by dask workers, and compare.

    `workers` are processes on this machine, `scheduler` is the address of others'. A cell that
    fails is told and the others go on. Paths must mean the same on all machines.

    Raises:
        ConfigError, UnknownSetting: a combination that is none; nothing is trained then.
        ClusterError: no scheduler, an unsafe line, or workers with other code.
    """
    folder = Path(directory).absolute()
    axes = parse_grid(grid)
    cells = [_cell(recipe, settings, chosen, folder) for chosen in _combinations(axes)]
    if len({cell.run for cell in cells}) < len(cells):
        raise ConfigError("--grid: two combinations are the same training")
    if workers < 0 or (workers and scheduler):
        raise ConfigError("--workers is 0 or more, and excludes --scheduler")
    if folder.exists() and not (folder / FILE).is_file() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something else; name a new directory with -o")
    facts = {
        "store": str(store_path), "recipe": str(recipe), "set": list(settings),
        "grid": {key: list(values) for key, values in axes.items()},
    }  # fmt: skip
    common = {
        "store_path": absolute(store_path),
        "manifest": absolute(manifest) if manifest else None,
        "device": device,
    }
    asks = [
        {**common, "recipe": _path(recipe), "settings": _told(settings, cell), "run": str(cell.run)}
        for cell in cells
    ]
    found: list[dict[str, Any]] = [{} for _ in cells]
    with _workers(workers, scheduler, insecure_tcp) as pool:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).is_file():  # says whose directory it is; finished ones keep theirs
            write_json(folder / FILE, facts)
        for done, (number, told) in enumerate(_trained(asks, pool), 1):
            found[number] = told
            if progress:
                short = ", ".join(f"{k}={v}" for k, v in cells[number].settings.items())
                progress(done, len(cells), f"{short}: {_said(told)}")
    data = cells[0].recipe.data
    trained = [cell.run for cell, told in zip(cells, found, strict=True) if told["done"]]
    scores, reason = _scores(
        store_path, manifest, data.val_split, trained, label=data.label, ways=ways, shots=shots,
        queries=queries,
    )  # fmt: skip
    result = Sweep(
        facts={
            **facts,
            "scored_on": None if reason else data.val_split,
            "not_scored": reason,
            "ways": ways,
            "shots": shots,
            "queries": queries,
        },
        cells=[
            {
                "settings": dict(cell.settings),
                "run": str(cell.run),
                "error": told["error"],
                "training": told["done"],
                "scores": scores.get(cell.run, []),
            }
            for cell, told in zip(cells, found, strict=True)
        ],
    )
    write_json(folder / FILE, result.to_dict())
    return result


def parse_grid(grid: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Values by setting, of "section.key=a,b,c".

    Raises:
        ConfigError: not of that form, a setting twice, or a value twice.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for one in grid:
        key, has_values, values = one.partition("=")
        found = tuple(value.strip() for value in values.split(","))
        if not has_values or "." not in key or not all(found):
            raise ConfigError(f"--grid {one!r} is not SECTION.KEY=A,B,…")
        if key in axes or len(set(found)) < len(found):
            raise ConfigError(f"--grid {one!r} says something twice")
        axes[key] = found
    if not axes:
        raise ConfigError("no --grid; write --grid optimiser.learning_rate=1e-3,1e-4")
    return axes


def _combinations(axes: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _cell(
    recipe: str | Path, settings: Sequence[str], chosen: Mapping[str, str], folder: Path
) -> Cell:
    built = recipes.load(recipe, (*settings, *(f"{k}={v}" for k, v in chosen.items())))
    digest = sha256(json.dumps(built.to_dict(), sort_keys=True).encode()).hexdigest()
    return Cell(settings=chosen, recipe=built, run=folder / digest[:12])


def _told(settings: Sequence[str], cell: Cell) -> tuple[str, ...]:
    return (*settings, *(f"{k}={v}" for k, v in cell.settings.items()))


def _path(recipe: str | Path) -> str:
    return absolute(recipe) if Path(recipe).is_file() else str(recipe)


@runtime_checkable
class _Pool(Protocol):
    """What a client of dask offers."""

    loop: Any

    def submit(self, function: Any, *args: Any, **kwargs: Any) -> Any: ...
    def run(self, function: Any) -> Mapping[str, Any]: ...


def run_cell(
    *, store_path: str, manifest: str | None, device: str, recipe: str, settings: Sequence[str],
    run: str,
) -> dict[str, Any]:  # fmt: skip
    """One training, new or gone on with; our errors are an answer. Runs in any process."""
    try:
        done = train(
            store_path, recipe, settings=settings, run_dir=run, manifest=manifest, device=device,
            resume=True,
        )  # fmt: skip
    except MicroshotError as fault:
        return {"done": None, "error": f"{type(fault).__name__}: {fault}"}
    return {"done": done.to_dict(), "error": None}


def _trained(
    asks: Sequence[Mapping[str, Any]], pool: _Pool | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every cell's answer, as they come."""
    if pool is None:
        for number, ask in enumerate(asks):
            yield number, run_cell(**ask)
        return
    from distributed import as_completed

    for address, theirs in pool.run(code).items():
        if theirs != code():
            raise ClusterError(f"worker {address} has other code; install the same on both")
    futures = {pool.submit(run_cell, **ask, pure=False): i for i, ask in enumerate(asks)}
    for future in as_completed(futures, loop=pool.loop, raise_errors=False):
        fault = future.exception() if future.status == "error" else None
        told = {"done": None, "error": f"{type(fault).__name__}: {fault}"}
        yield futures[future], told if fault else future.result()


@contextmanager
def _workers(workers: int, scheduler: str | None, insecure_tcp: bool) -> Iterator[_Pool | None]:
    """Dask's workers where any are asked for."""
    if not workers and scheduler is None:
        yield None
        return
    from store.cluster import connected, local

    with local(workers) if workers else connected(str(scheduler), insecure_tcp) as client:
        yield client


def _scores(
    store_path: str | Path, manifest: str | Path | None, split: str, runs: Sequence[Path], *,
    label: str, ways: int, shots: int, queries: int,
) -> tuple[dict[Path, list[dict[str, Any]]], str | None]:  # fmt: skip
    """Few-shot accuracy of each run on the validation split, or why there is none."""
    table = read_manifest(manifest) if manifest else open_store(store_path).manifest()
    if split not in splits(table):
        return {}, f"the manifest has no split {split!r} to tell them apart on"
    found: dict[Path, list[dict[str, Any]]] = {}
    for run in runs:
        outputs = set(load_run(run).space.outputs)
        modes = views.MODES.items()
        offered = [mode for mode, of in modes if set(of) <= outputs or mode in outputs]
        try:
            result = run_episodes(
                store_path, manifest=manifest, split=split, label=label, ways=ways, shots=(shots,),
                queries=queries, episodes=EPISODES, projections=(run,), support=offered,
            )  # fmt: skip
        except MicroshotError as fault:
            return {}, str(fault)
        keep = ("support", "query", "accuracy", "ci95")
        found[run] = [{k: one[k] for k in keep} for one in result.to_dict()["results"]]
    return found, None


def _said(told: Mapping[str, Any]) -> str:
    if told["error"]:
        return str(told["error"])
    done = told["done"]
    of_val = {k: done[k] for k in ("val_loss", "val_accuracy") if done[k] is not None}
    return ", ".join(f"{k} {v:.4f}" for k, v in {"loss": done["loss"], **of_val}.items())
