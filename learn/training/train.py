"""Train projections of stored features into a common space, as a recipe says.

This module gathers what a training needs and writes what comes of it; `learn/training/loop.py`
trains.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from learn.data import devices
from learn.models.embedder import Embedder
from learn.training import against_stored, checkpoint, closed_form, name_regression, runs
from learn.training import recipe as recipes
from learn.training.dataset import TrainingSetup, load_setup
from learn.training.loggers import LoggedRun, opened
from learn.training.loop import Trainer, never
from learn.training.metrics_log import NAME as METRICS
from learn.training.metrics_log import MetricsLog
from learn.training.recipe import Recipe
from learn.training.runs import Run
from learn.training.state import TrainerState
from store import plugins
from store.errors import ConfigError

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The result of a training."""

    run: str
    clips: int
    val_clips: int
    epochs: int  # of all stages and rounds
    best_epoch: int  # of the last round; -1: the state before it
    loss: float | None  # of that epoch, as the next two; None before training
    val_loss: float | None
    val_accuracy: float | None
    seconds: float  # of this call
    validation: str = ""  # what told the best epoch
    against_stored: Mapping[str, Any] = field(default_factory=dict)  # `against_stored.measure`

    @property
    def worse(self) -> bool:
        """True if the run answers val episodes worse than stored rows do, in some mode."""
        return self.against_stored.get("verdict") == against_stored.WORSE

    def to_dict(self) -> dict[str, Any]:
        """All fields, as `--json` and `done.json` have them."""
        return asdict(self)


def train(
    store_path: str | Path,
    recipe: str | Path,
    *,
    settings: Sequence[str] = (),
    run_dir: str | Path,
    manifest: str | Path | None = None,
    group_file: str | Path | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    device: str = "auto",
    loggers: Sequence[str] = (),
    tensorboard: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    stop: Callable[[], bool] = never,
    progress: Progress | None = None,
) -> Training:
    """Train as the recipe says, changed by `section.key=value`, into a new directory.

    The same store, recipe and seed give the same weights, bit for bit, on one device with one
    number of threads; so does a training that was killed and goes on with `resume`. Where the
    manifest has the validation split, the weights of the best epoch of each round are kept.
    With `init`, a finished run, the space begins where that run's ended, means and deviations of
    its rows included; its objective does not come along, and its clips count as trained on.

    Once `stop` gives true, the training ends after the step in hand, with a checkpoint. `loggers`
    are SPECs of what draws its numbers (`learn loggers`), `tensorboard` the directory of one.

    >>> trained = learn.train(
    ...     "my_store", "infonce", run_dir="my_run", settings=["optimiser.epochs=1"]
    ... )
    >>> Path("my_run/done.json").is_file()
    True

    Raises:
        KeyboardInterrupt: it was stopped.
        MissingFile, ConfigError: no such recipe, or settings it does not have.
        InputError: the directory exists, or is of another training; no clips to train on.
    """
    begun = time.monotonic()
    run_dir, torch_device = Path(run_dir), devices.chosen(device)
    if not resume:
        runs.refuse_existing(run_dir)
    recipe_ = recipes.load(recipe, settings)
    setup = load_setup(store_path, manifest, recipe_, group_file)
    recipe_ = recipes.sized(recipe_, setup.labels)
    plain = recipe_.to_dict()
    digest = sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    config = {"recipe": plain, "from": str(recipe), "set": list(settings), "sha256": digest}
    begun_from = None if init is None else runs.load_run(Path(init))
    if begun_from is not None and not recipe_.stages:
        raise ConfigError("`init` has no use where projections are solved; leave it out")
    provenance = _provenance(setup, recipe_, torch_device) | _of_init(begun_from)
    with runs.held(run_dir, new=not resume):
        if done := runs.begin(run_dir, config, provenance):
            facts: Mapping[str, Any] = dict(done)
            known = [field.name for field in fields(Training) if field.name in facts]
            return Training(**{name: facts[name] for name in known})
        if tensorboard is not None:
            loggers = (*loggers, str(plugins.Spec("tensorboard", {"directory": tensorboard})))
        key = sha256(f"{digest} {run_dir.resolve()}".encode()).hexdigest()
        watch = _Watch(
            begun=begun, loggers=loggers, logged=LoggedRun(path=run_dir, key=key, settings=plain),
            checkpoint_seconds=checkpoint_seconds, stop=stop,
            progress=progress,
        )  # fmt: skip
        if not recipe_.stages:
            return _solve(setup, recipe_, run_dir, watch)
        return _train(setup, recipe_, run_dir, torch_device, watch, begun_from)


def _of_init(run: Run | None) -> dict[str, Any]:
    """What a run's provenance says of the run that it began from."""
    if run is None:
        return {"init_sha256": None}
    digest = sha256((run.path / runs.WEIGHTS).read_bytes()).hexdigest()
    return {
        "init_sha256": digest,
        "init": {
            "run": str(run.path),
            "trained_on": sorted(run.trained_on),
            "fitted_on": sorted(run.fitted_on),
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Watch:
    """Ways to follow a training and to end it."""

    begun: float
    loggers: Sequence[str]  # SPECs
    logged: LoggedRun
    checkpoint_seconds: float
    stop: Callable[[], bool]
    progress: Progress | None


def _train(
    setup: TrainingSetup,
    recipe_: Recipe,
    run_dir: Path,
    torch_device: torch.device,
    watch: _Watch,
    begun_from: Run | None,
) -> Training:
    """Train, or go on, in a directory that is held, and write the result."""
    cuda = [torch_device] if torch_device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        opened(watch.loggers, watch.logged) as loggers,
    ):
        torch.manual_seed(recipe_.seed)
        data, val = setup.data.to(torch_device), setup.val.to(torch_device) if setup.val else None
        embedder = Embedder(
            recipe_.projection, recipe_.network, {m: rows.dim for m, rows in data.rows.items()}
        )
        states: dict[str, nn.Module] = {}
        objectives = [
            runs.build_objective(
                stage,
                embedder,
                dims={m: rows.dim for m, rows in data.rows.items()},
                classes=data.clips.classes,
                clips=len(data.clips),
                known=setup.labels,
                states=states,
            )
            for stage in recipe_.stages
        ]
        runs.write_labels(run_dir, setup.labels)
        trainer = Trainer(
            run_dir=run_dir, embedder=embedder, stages=recipe_.stages, objectives=objectives,
            states=states, data=data, val=val, watches=setup.watches,
            of_stages=setup.of_stages, seed=recipe_.seed,
            device=torch_device, checkpoint_seconds=watch.checkpoint_seconds,
            progress=watch.progress, loggers=loggers, stop=watch.stop,
        )  # fmt: skip
        if begun_from is None:
            embedder.measure(data.rows)
        else:
            runs.take_space(embedder, begun_from, setup.features)
        trainer.run()
    runs.write_weights(run_dir, {"": embedder, "objective": objectives[-1]})
    runs.write_bank(run_dir, states, data.clips.ids, data.clips.sha256)
    last, best = trainer.state.rounds[-1], trainer.state.best
    before = {"loss": None, "val_loss": None, "val_accuracy": trainer.state.best_accuracy}
    of_best = last[best] if best >= 0 else before
    result = Training(
        run=str(run_dir),
        clips=len(data.clips),
        val_clips=len(val.clips) if val else 0,
        epochs=sum(map(len, trainer.state.rounds)),
        best_epoch=best,
        loss=of_best["loss"],
        val_loss=of_best["val_loss"],
        val_accuracy=of_best["val_accuracy"],
        seconds=round(time.monotonic() - watch.begun, 3),
        validation=setup.validation,
        against_stored=against_stored.measure(
            embedder, objectives[-1].cpu().eval().head(), setup, recipe_.seed
        ),
    )
    runs.finish(run_dir, result.to_dict())
    checkpoint.remove(run_dir)
    return result


def _solve(setup: TrainingSetup, recipe_: Recipe, run_dir: Path, watch: _Watch) -> Training:
    """Solve the projections, which takes no steps, and write the result."""
    data, val = setup.data, setup.val
    embedder = Embedder(recipe_.projection, None, {m: rows.dim for m, rows in data.rows.items()})
    modules: dict[str, nn.Module] = {"": embedder}
    if recipes.knows_names(recipe_):
        facts, what, modules["objective"] = name_regression.solve(
            embedder, data, val, setup.labels, recipe_.seed
        )
    else:
        facts, what = closed_form.solve(embedder, data, val, recipe_.seed)
    runs.write_labels(run_dir, setup.labels)
    with opened(watch.loggers, watch.logged) as loggers:
        log = MetricsLog(path=run_dir / METRICS, state=TrainerState(), loggers=loggers)
        log.begin()
        for modality, of_one in facts.items():
            log.write({"event": "solved", "stage": "main", "modality": modality, **of_one})
    runs.write_weights(run_dir, modules)
    result = Training(
        run=str(run_dir), clips=len(data.clips), val_clips=len(val.clips) if val else 0,
        epochs=0, best_epoch=-1, loss=None, val_loss=None, val_accuracy=None,
        seconds=round(time.monotonic() - watch.begun, 3), validation=what,
        against_stored=against_stored.measure(embedder, None, setup, recipe_.seed),
    )  # fmt: skip
    runs.finish(run_dir, result.to_dict())
    if watch.progress:
        chosen = ", ".join(
            f"{m} {of_one['shrinkage']:g}" for m, of_one in facts.items() if "shrinkage" in of_one
        )
        watch.progress(1, 1, f"solved; shrinkage {chosen}" if chosen else "solved")
    return result


def _provenance(setup: TrainingSetup, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    data, val = setup.data, setup.val
    return {
        "store_id": setup.store_id,
        "features": dict(setup.features),
        "dims": {m: rows.dim for m, rows in data.rows.items()},
        "split": data.clips.split,
        "clips": data.clips.ids,
        "clips_sha256": data.clips.sha256,
        "classes": data.clips.classes,
        "labels_sha256": None if setup.labels is None else setup.labels.sha256,
        "val_clips": val.clips.ids if val else (),
        "seed": recipe.seed,
        "code_sha256": code(),
        "versions": {name: version(name) for name in ("microshot", "torch", "numpy")},
        "device": device.type,
        "threads": torch.get_num_threads(),
    }


@cache
def code() -> str:
    """Digest of this package's source."""
    folder, digest = Path(__file__).parents[1], sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
