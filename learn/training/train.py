"""Train projections of stored features into a common space, as a recipe says.

This module gathers what a training needs and writes what comes of it; `learn/training/loop.py`
trains.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from learn.models.embedder import Embedder
from learn.training import checkpoint, runs
from learn.training import recipe as recipes
from learn.training.dataset import TrainingSetup, load_setup
from learn.training.loop import Trainer
from learn.training.metrics_log import Scalars
from learn.training.recipe import Recipe
from store.errors import ConfigError, InputError

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a training came to."""

    run: str
    clips: int
    val_clips: int
    epochs: int  # of all stages and rounds
    best_epoch: int  # of the last round
    loss: float  # of that epoch, as the next two
    val_loss: float | None
    val_accuracy: float | None
    seconds: float  # of this call

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
    resume: bool = False,
    device: str = "cpu",
    tensorboard: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    progress: Progress | None = None,
) -> Training:
    """Train as the recipe says, changed by `section.key=value`, into a new directory.

    The same store, recipe and seed give the same weights, bit for bit, on one machine with one
    number of threads; so does a training that was killed and goes on with `resume`. Where the
    manifest has the validation split, the weights of the best epoch of each round are kept.

    Raises:
        MissingFile, ConfigError: no such recipe, or settings it does not have.
        InputError: the directory exists, or is of another training; no clips to train on.
    """
    begun = time.monotonic()
    run_dir, place = Path(run_dir), _device(device)
    if not resume:
        runs.refuse_existing(run_dir)
    recipe_ = recipes.load(recipe, settings)
    plain = recipe_.to_dict()
    digest = sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    config = {"recipe": plain, "from": str(recipe), "set": list(settings), "sha256": digest}
    job = load_setup(store_path, manifest, recipe_)
    provenance = _provenance(job, recipe_, place)
    if done := runs.begin(run_dir, config, provenance):
        return Training(**done)
    cuda = [place] if place.type == "cuda" else []
    with (
        runs.gone_unless_begun(run_dir),
        torch.random.fork_rng(devices=cuda),
        _scalars(tensorboard) as scalars,
    ):
        torch.manual_seed(recipe_.seed)
        data, val = job.data.to(place), job.val.to(place) if job.val else None
        space = Embedder(
            recipe_.projection, recipe_.network, {m: rows.dim for m, rows in data.rows.items()}
        )
        states: dict[str, nn.Module] = {}
        objectives = [
            runs.build_objective(
                stage,
                space,
                dims={m: rows.dim for m, rows in data.rows.items()},
                classes=data.clips.classes,
                clips=len(data.clips),
                known=job.labels,
                states=states,
            )
            for stage in recipe_.stages
        ]
        runs.write_labels(run_dir, job.labels)
        trainer = Trainer(
            run_dir=run_dir, embedder=space, stages=recipe_.stages, objectives=objectives,
            states=states, data=data, val=val, watches=job.watches, seed=recipe_.seed,
            device=place, checkpoint_seconds=checkpoint_seconds, progress=progress,
            scalars=scalars,
        )  # fmt: skip
        for modality, rows in data.rows.items():
            space.of(modality).measure(rows)
        trainer.run()
    runs.write_weights(run_dir, {"": space, "objective": objectives[-1]})
    runs.write_bank(run_dir, states, data.clips.ids, data.clips.sha256)
    last, best = trainer.state.rounds[-1], trainer.state.best
    result = Training(
        run=str(run_dir),
        clips=len(data.clips),
        val_clips=len(val.clips) if val else 0,
        epochs=sum(map(len, trainer.state.rounds)),
        best_epoch=best,
        loss=last[best]["loss"],
        val_loss=last[best]["val_loss"],
        val_accuracy=last[best]["val_accuracy"],
        seconds=round(time.monotonic() - begun, 3),
    )
    runs.finish(run_dir, result.to_dict())
    checkpoint.remove(run_dir)
    return result


def _device(name: str) -> torch.device:
    """Raises:
    ConfigError: no such device here; nothing runs elsewhere silently.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"no device {name!r}; there are cpu and cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"no device {name!r}; there are cpu and cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("`device` cuda, but torch finds no GPU; use `device` cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def _provenance(job: TrainingSetup, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    data, val = job.data, job.val
    return {
        "store_id": job.store_id,
        "features": dict(job.features),
        "dims": {m: rows.dim for m, rows in data.rows.items()},
        "split": data.clips.split,
        "clips": data.clips.ids,
        "clips_sha256": data.clips.sha256,
        "classes": data.clips.classes,
        "labels_sha256": None if job.labels is None else job.labels.sha256,
        "val_clips": val.clips.ids if val else (),
        "seed": recipe.seed,
        "code_sha256": code(),
        "versions": {name: version(name) for name in ("microshot", "torch", "numpy")},
        "device": device.type,
        "threads": torch.get_num_threads(),
    }


def code() -> str:
    """Digest of this package's source."""
    folder, digest = Path(__file__).parents[1], sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _scalars(folder: str | Path | None) -> Iterator[Scalars | None]:
    """TensorBoard's writer, where one is asked for.

    Raises:
        InputError: it is not installed.
    """
    if folder is None:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "TensorBoard is not installed; run: pip install 'microshot[tensorboard]'"
        ) from None
    with SummaryWriter(str(folder)) as writer:  # type: ignore[no-untyped-call]
        yield writer
