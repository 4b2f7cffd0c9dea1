"""Train projections of stored features into a common space, as a recipe says.

Shapes: B = clips of a batch.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from learn import recipe as recipes
from learn import runs
from learn.data import (
    MODALITIES,
    UNLABELLED,
    Clips,
    Rows,
    choose_feature,
    choose_split,
    load_clips,
    load_rows,
    splits,
)
from learn.objectives import Batch, Objective, Scene
from learn.recipe import DataSettings, Recipe
from learn.tower import Tower
from store import open as open_store
from store import plugins
from store.errors import InputError

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a training came to."""

    run: str
    clips: int
    val_clips: int
    epochs: int
    best_epoch: int
    loss: float  # of the best epoch
    val_loss: float | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Data:
    """Clips with rows in every modality, and those rows."""

    clips: Clips
    rows: Mapping[str, Rows]

    def keep(self, wanted: np.ndarray) -> "_Data":
        rows = {modality: rows.keep(wanted) for modality, rows in self.rows.items()}
        return _Data(clips=self.clips.keep(wanted), rows=rows)


def train(
    store_path: str | Path,
    recipe: str | Path,
    *,
    settings: Sequence[str] = (),
    run_dir: str | Path,
    progress: Progress | None = None,
) -> Training:
    """Train towers as the recipe says, changed by `section.key=value`, into a new directory.

    The same store, recipe and seed give the same weights, bit for bit, on one machine with one
    number of threads. Where the manifest has the validation split, the weights of the epoch with
    the lowest validation loss are kept.

    Raises:
        MissingFile, ConfigError: no such recipe, or settings it does not have.
        InputError: the directory exists, or no clips to train on.
    """
    begun = time.monotonic()
    run_dir = Path(run_dir)
    recipe_ = recipes.load(recipe, settings)
    features, data, val, store_id = _load(store_path, recipe_)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe_.optimiser.seed)
        towers = {m: Tower(recipe_.projection, rows.dim) for m, rows in data.rows.items()}
        scene = Scene(
            modalities=tuple(features),
            dim=towers[min(features)].projection.dim_out,
            classes=len(data.clips.classes),
            clips=len(data.clips),
        )
        objective = plugins.build("learn.objectives", recipe_.objective, scene)
        runs.make(run_dir)
        plain = recipe_.as_json()
        digest = sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        config = {"recipe": plain, "from": str(recipe), "set": list(settings), "sha256": digest}
        runs.write_json(run_dir / "config.json", config)
        for modality, tower in towers.items():
            tower.measure(data.rows[modality])
        history, best = _fit(recipe_, towers, objective, data, val, run_dir, progress)
    runs.write_weights(run_dir, {**towers, "objective": objective})
    runs.write_json(run_dir / "provenance.json", _provenance(store_id, features, data, val))
    result = Training(
        run=str(run_dir),
        clips=len(data.clips),
        val_clips=len(val.clips) if val else 0,
        epochs=len(history),
        best_epoch=best,
        loss=history[best]["loss"],
        val_loss=history[best]["val_loss"],
        seconds=round(time.monotonic() - begun, 3),
    )
    runs.finish(run_dir, result.as_json())
    return result


def _load(
    store_path: str | Path, recipe: Recipe
) -> tuple[dict[str, str], _Data, _Data | None, str]:
    """Features by modality, the training clips, the validation clips and the store's id."""
    store = open_store(store_path)
    manifest = store.manifest()
    chosen = {}
    for modality in MODALITIES:
        asked = getattr(recipe.data, modality)
        feature = None if asked == "none" else choose_feature(store, modality, asked or None)
        if feature is not None:
            chosen[modality] = feature
    if not chosen:
        raise InputError(f"{store_path} has no feature to train on; run: extract run MANIFEST")
    supervised = plugins.module("learn.objectives", recipe.objective.name).SUPERVISED
    label: str | None = recipe.data.label
    if not supervised and label == DataSettings().label and label not in manifest.columns:
        label = None  # nobody named it, and nothing needs it

    def of_split(split: str) -> _Data:
        clips = load_clips(manifest, split=split, label=label, group="none")
        rows = {modality: load_rows(feature, clips.ids) for modality, feature in chosen.items()}
        usable = np.logical_and.reduce([r.valid for r in rows.values()])
        if supervised:
            usable &= clips.codes != UNLABELLED
        return _Data(clips=clips, rows=rows).keep(usable)

    split = choose_split(manifest, recipe.data.split or None, "train")
    data = of_split(split)
    if len(data.clips) < 2:
        raise InputError(
            f"split {split!r} has {len(data.clips)} clips with {' and '.join(chosen)} rows"
            f"{' and labels' if supervised else ''}; training needs 2 at least"
        )
    val = None
    if split not in ("all", recipe.data.val_split) and recipe.data.val_split in splits(manifest):
        val = _comparable(of_split(recipe.data.val_split), data.clips.classes, supervised)
    names = {modality: feature.name for modality, feature in chosen.items()}
    return names, data, val, store.store_id


def _comparable(val: _Data, classes: tuple[str, ...], supervised: bool) -> _Data | None:
    """Validation clips under the training's class codes; None if fewer than two are left.

    A supervised objective knows no class it was not trained on, so it is judged on the others.
    """
    place = {name: c for c, name in enumerate(classes)}
    if supervised:
        known = np.array([c in place for c in val.clips.classes], bool)
        val = val.keep(known[val.clips.codes])
    for name in val.clips.classes:
        place.setdefault(name, len(place))
    new = np.array([place[name] for name in val.clips.classes], np.int32)
    codes = val.clips.codes
    codes = np.where(codes == UNLABELLED, UNLABELLED, new[codes]) if len(new) else codes
    clips = Clips(
        ids=val.clips.ids,
        codes=codes.astype(np.int32),
        classes=tuple(place),
        groups=val.clips.groups,
        split=val.clips.split,
    )
    return _Data(clips=clips, rows=val.rows) if len(clips) > 1 else None


def _fit(
    recipe: Recipe,
    towers: Mapping[str, Tower],
    objective: Objective,
    data: _Data,
    val: _Data | None,
    run_dir: Path,
    progress: Progress | None,
) -> tuple[list[dict[str, Any]], int]:
    """Train in place and leave the best weights in; the epochs' losses and which was best."""
    o = recipe.optimiser
    assert isinstance(objective, nn.Module)
    network = nn.ModuleDict({**towers, "objective": objective})
    adam = torch.optim.AdamW(network.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
    rng = np.random.default_rng(o.seed)
    history: list[dict[str, Any]] = []
    best, kept = 0, {}
    with (run_dir / "metrics.jsonl").open("w") as file:
        for epoch in range(o.epochs):
            loss = _epoch(network, data, _shuffled(rng, len(data.clips), o.batch_size), adam)
            val_loss = None
            if val:
                with torch.inference_mode():
                    val_loss = _epoch(network, val, _in_order(len(val.clips), o.batch_size), None)
            history.append({"epoch": epoch, "loss": loss, "val_loss": val_loss})
            file.write(json.dumps(history[-1]) + "\n")
            file.flush()
            if val_loss is None or val_loss <= min(h["val_loss"] for h in history):
                best = epoch
                kept = {k: v.clone() for k, v in network.state_dict().items()} if val else {}
            if progress:
                of_val = f", val {val_loss:.4f}" if val_loss is not None else ""
                progress(epoch + 1, o.epochs, f"epoch {epoch}: loss {loss:.4f}{of_val}")
            if val and o.patience and epoch - best >= o.patience:
                break
    if kept:
        network.load_state_dict(kept)
    return history, best


def _epoch(
    network: nn.ModuleDict,
    data: _Data,
    batches: Iterator[Int[Tensor, "B"]],
    adam: torch.optim.Optimizer | None,
) -> float:
    """The mean loss over clips; learns if there is an optimiser."""
    network.train(adam is not None)
    labels = torch.from_numpy(data.clips.codes).long()
    total, clips = 0.0, 0
    for places in batches:
        embeddings = {m: network[m](*rows.padded(places)) for m, rows in data.rows.items()}
        batch = Batch(embeddings=embeddings, labels=labels[places], clips=places)
        loss: Float[Tensor, ""] = network["objective"](batch)
        value = loss.item()
        if not math.isfinite(value):
            raise InputError("the loss is not finite; lower optimiser.learning_rate")
        if adam:
            adam.zero_grad()
            torch.autograd.backward(loss)
            adam.step()
        total, clips = total + value * len(places), clips + len(places)
    return total / clips


def _shuffled(rng: np.random.Generator, clips: int, size: int) -> Iterator[Int[Tensor, "B"]]:
    yield from _cut(torch.from_numpy(rng.permutation(clips)), size)


def _in_order(clips: int, size: int) -> Iterator[Int[Tensor, "B"]]:
    yield from _cut(torch.arange(clips), size)


def _cut(order: Int[Tensor, "_"], size: int) -> list[Int[Tensor, "B"]]:
    """Batches of nearly one size; two clips at least, as one alone has nothing to tell apart."""
    parts = min(math.ceil(len(order) / size), len(order) // 2)
    return list(torch.tensor_split(order, max(1, parts)))


def _provenance(
    store_id: str, features: Mapping[str, str], data: _Data, val: _Data | None
) -> dict[str, Any]:
    return {
        "store_id": store_id,
        "features": dict(features),
        "split": data.clips.split,
        "clips": data.clips.ids,
        "clips_sha256": data.clips.sha256,
        "classes": data.clips.classes,
        "val_clips": val.clips.ids if val else (),
        "versions": {name: version(name) for name in ("microshot", "torch", "numpy")},
        "threads": torch.get_num_threads(),
    }
