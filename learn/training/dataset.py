"""What is trained on what: a recipe's clips, and their rows, in memory or streamed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from learn.data import labels
from learn.data.clips import (
    MODALITIES,
    UNLABELLED,
    Clips,
    choose_feature,
    choose_split,
    load_clips,
    load_rows,
    splits,
)
from learn.data.labels import ClassEmbeddings
from learn.data.streaming import BLOCKS, Streamed, blocks_of, row_bytes
from learn.training import validation
from learn.training.loop import Data
from learn.training.recipe import DataSettings, Recipe
from store import open as open_store
from store import plugins, read_manifest
from store.errors import ConfigError, InputError
from store.sizes import parse_size

if TYPE_CHECKING:
    from store import Feature


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSetup:
    """What is trained on what."""

    store_id: str
    features: Mapping[str, str]
    data: Data
    val: Data | None  # under the training's class codes
    watches: Mapping[int, str]  # by stage
    labels: ClassEmbeddings | None  # of every class that the manifest names


def load_setup(
    store_path: str | Path, manifest_path: str | Path | None, recipe: Recipe
) -> TrainingSetup:
    """The clips to train and validate on, and their rows.

    Raises:
        InputError: no clips to train on, or names without a vector.
        ConfigError: settings that exclude each other.
    """
    store = open_store(store_path)
    manifest = read_manifest(manifest_path) if manifest_path else store.manifest()
    chosen = {}
    for modality in MODALITIES:
        asked = getattr(recipe.data, modality)
        feature = None if asked == "none" else choose_feature(store, modality, asked or None)
        if feature is not None:
            chosen[modality] = feature
    if not chosen:
        raise InputError(f"{store_path} has no feature to train on; run: extract run MANIFEST")
    modules = [plugins.module("learn.training.objectives", s.objective.name) for s in recipe.stages]
    supervised = [bool(module.SUPERVISED) for module in modules]
    label: str | None = recipe.data.label
    default = label == DataSettings().label
    if not any(supervised) and default and label not in manifest.columns:
        label = None  # nobody named it, and nothing needs it
    several = {bool(getattr(module, "SEVERAL", False)) for module in modules}
    if len(several) > 1:
        raise ConfigError("stages with one label a clip and stages with several do not mix")
    keep = recipe.data.missing == "keep"
    for module in modules:
        if keep and not getattr(module, "MISSING", False):
            name = module.__name__.rpartition(".")[2]
            raise ConfigError(f"objective {name} needs every modality; set data.missing=drop")

    def of_split(split: str) -> Clips:
        clips = load_clips(
            manifest, split=split, label=label, group=None, several=several == {True}
        )
        some = np.logical_or if keep else np.logical_and
        has_rows = [feature.locate(clips.ids).rows > 0 for feature in chosen.values()]
        usable = some.reduce(has_rows)
        if any(supervised):
            usable &= clips.labelled
        return clips.keep(usable)

    split = choose_split(manifest, recipe.data.split or None, "train")
    clips = of_split(split)
    if len(clips) < 2:
        raise InputError(
            f"split {split!r} has {len(clips)} clips with {' and '.join(chosen)} rows"
            f"{' and labels' if any(supervised) else ''}; training needs 2 at least"
        )
    val, watches = None, {}
    if split not in ("all", recipe.data.val_split) and recipe.data.val_split in splits(manifest):
        val = _comparable(of_split(recipe.data.val_split), clips.classes)
        watches = {
            i: _watch(stage.optimiser.watch, supervised[i], val, clips.classes, recipe.seed)
            for i, stage in enumerate(recipe.stages)
        }
        if set(watches.values()) == {"none"}:
            val = None
    known = None
    if recipe.data.labels:
        if label is None:
            raise InputError("labels are of classes, and the manifest has no label column")
        table = labels.read(Path(recipe.data.labels))
        names = sorted({name for cell in manifest.labels(label) for name in cell})
        wanted = [name for name in names if name in clips.classes or table.has(name)]
        known = ClassEmbeddings(names=tuple(wanted), vectors=table.of(wanted))
    both = [clips] if val is None else [clips, val]
    data, *of_val = _rows(chosen, both, parse_size(recipe.data.memory))
    return TrainingSetup(
        labels=known,
        store_id=store.store_id,
        features={modality: feature.name for modality, feature in chosen.items()},
        data=data,
        val=of_val[0] if of_val else None,
        watches=watches,
    )


def _rows(features: Mapping[str, "Feature"], of_splits: list[Clips], memory: int) -> list[Data]:
    """The rows of all splits in memory, or streamed where they take more than it."""
    counts = [{m: f.locate(clips.ids).rows for m, f in features.items()} for clips in of_splits]
    wanted = sum(
        int(rows.sum()) * row_bytes(features[m]) for split in counts for m, rows in split.items()
    )
    if wanted <= memory:
        return [
            Data(clips=clips, rows={m: load_rows(f, clips.ids) for m, f in features.items()})
            for clips in of_splits
        ]
    return [
        Data(
            clips=clips,
            rows={
                m: Streamed(
                    feature=feature,
                    ids=clips.ids,
                    counts=torch.from_numpy(rows[m]),
                    bytes_at_once=max(1, memory // BLOCKS),
                )
                for m, feature in features.items()
            },
            blocks=blocks_of(features, rows, clips.ids, memory),
        )
        for clips, rows in zip(of_splits, counts, strict=True)
    ]


def _comparable(val: Clips, classes: tuple[str, ...]) -> Clips:
    """Validation clips under the training's class codes, new classes after those."""
    place = {name: c for c, name in enumerate(classes)}
    for name in val.classes:
        place.setdefault(name, len(place))
    new = np.array([place[name] for name in val.classes], np.int32)
    class_ids = val.class_ids
    class_ids = (
        np.where(class_ids == UNLABELLED, UNLABELLED, new[class_ids]) if len(new) else class_ids
    )
    targets = None
    if val.targets is not None:
        targets = np.zeros((len(val), len(place)), bool)
        targets[:, new] = val.targets
    return Clips(
        ids=val.ids,
        class_ids=class_ids.astype(np.int32),
        classes=tuple(place),
        groups=val.groups,
        split=val.split,
        targets=targets,
    )


def _watch(asked: str, supervised: bool, val: Clips, classes: tuple[str, ...], seed: int) -> str:
    """What tells the best epoch: a supervised objective knows no class but its own.

    Raises:
        InputError: asked for what these clips cannot give.
    """
    known = len(val) > 1 and (not supervised or bool((val.class_ids < len(classes)).all()))
    possible = {"loss": known, "episodes": validation.draw(val, seed) is not None, "none": True}
    if asked == "auto":
        return next(name for name, can in possible.items() if can)
    if not possible[asked]:
        reason = "has classes that training has not" if asked == "loss" else "has too few clips"
        raise InputError(
            f"optimiser.watch={asked}, but split {val.split!r} {reason}; use "
            f"{' or '.join(name for name, can in possible.items() if can)}"
        )
    return asked
