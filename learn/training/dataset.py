"""The clips that a recipe trains on, and their rows, in memory or streamed.

Shapes: B = clips of a batch, V = clips.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from learn.data import class_embeddings
from learn.data.class_embeddings import ClassEmbeddings
from learn.data.clips import UNLABELLED, Clips, choose_split, labels_of, load_clips, splits
from learn.data.features import TEXT
from learn.data.group_file import manifest_of
from learn.data.rows import MODALITIES, Padded, choose_feature, load_rows
from learn.data.streaming import BLOCKS, Stored, Streamed, blocks_of, row_bytes
from learn.fewshot.fusions._shipped import Encoder, encoders_of
from learn.fewshot.mode_pairs import named
from learn.models.means import Means
from learn.training import unseen, validation
from learn.training.objectives import Traits
from learn.training.recipe import DataSettings, Recipe
from store import open as open_store
from store import plugins
from store.errors import ConfigError, InputError
from store.sizes import parse_size

if TYPE_CHECKING:
    from store import Feature, Manifest, Store


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """Clips, and their rows in every modality."""

    clips: Clips
    rows: Mapping[str, Stored]
    disk_blocks: Sequence[Int64[np.ndarray, "_"]] = ()  # where rows are streamed
    spare_bytes: int = 0  # of the memory allowed, what rows leave
    means: Mapping[str, Means] = field(default_factory=dict)  # in the place of rows, if any

    def to(self, device: torch.device) -> "TrainingData":
        """The same clips, with rows that are in memory moved to the device."""
        return replace(self, rows={m: rows.to(device) for m, rows in self.rows.items()})

    @property
    def seen(self) -> Mapping[str, Stored | Means]:
        """What the network sees of the clips: rows, or means in their place."""
        return self.means or self.rows

    @cached_property
    def counts(self) -> dict[str, Int64[np.ndarray, "V"]]:
        """Numbers of rows of each clip, by modality."""
        return {m: rows.counts.cpu().numpy() for m, rows in self.rows.items()}

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "V"]:
        """Numbers of rows of each clip over all modalities."""
        return np.sum(list(self.counts.values()), axis=0)

    def inputs(self, indices: Int[Tensor, "B"]) -> dict[str, Padded]:
        """The rows of these clips, padded; or the means in their place."""
        return {m: rows.padded(indices) for m, rows in self.seen.items()}

    def stored(self, indices: Int[Tensor, "B"]) -> Mapping[str, Padded]:
        """The rows of these clips, padded, of which each modality is fetched if it is asked for."""
        return _Stored(self.rows, indices)

    def hold(self, indices: Int64[np.ndarray, "_"], then: Int64[np.ndarray, "_"] | None) -> None:
        """Bring the streamed rows of these clips into memory, and begin with the next."""
        for rows in self.seen.values():
            if isinstance(rows, Streamed):
                rows.hold(indices, then)


@dataclass(frozen=True, slots=True, eq=False)
class _Stored(Mapping[str, Padded]):
    """Rows of clips by modality, for the few that ask."""

    rows: Mapping[str, Stored]
    indices: Int[Tensor, "B"]

    def __getitem__(self, modality: str) -> Padded:
        return self.rows[modality].padded(self.indices)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSetup:
    """The clips to train and validate on, and what tells the best epoch of each stage."""

    store_id: str
    features: Mapping[str, str]
    data: TrainingData
    val: TrainingData | None  # with the training's class ids
    watches: Mapping[int, str]  # by stage: unseen, loss, episodes or none
    validation: str  # the same in words
    labels: ClassEmbeddings | None  # of every class that the manifest names
    encoders: Mapping[str, Encoder]  # by sense: what made the features
    of_stages: Sequence[Int64[np.ndarray, "_"]] = ()  # positions of each stage's clips in `data`


def load_setup(
    store_path: str | Path,
    manifest_path: str | Path | None,
    recipe: Recipe,
    group_file: str | Path | None = None,
) -> TrainingSetup:
    """The clips to train and validate on, and their rows.

    Raises:
        InputError: no clips to train on, or names without a vector.
        ConfigError: settings that exclude each other.
    """
    store = open_store(store_path)
    manifest = manifest_of(store, manifest_path, group_file)
    features = _features(store, recipe)
    if not features:
        text = [name for name in store.features if store[name].modality == TEXT]
        way = f"name its text: `text` {text[0]}" if text else "run: extract run MANIFEST"
        raise InputError(f"{store_path} has no feature to train on; {way}")
    needs = _needs(recipe, manifest)
    parts = _parts(manifest, recipe, needs)
    clips = _of_parts(manifest, features, needs, parts)
    _check_classes(recipe, needs, clips)
    of_val: Clips | None = None
    val_split = recipe.data.val_split
    trained = {part.split for part in parts}
    if not trained & {"all", val_split} and val_split in splits(manifest):
        of_val = _usable(manifest, features, needs, val_split)
        if needs.supervised:
            of_val = of_val.keep(of_val.labelled)
    clips, val, watches, what = _validation(recipe, needs, clips, of_val)
    names = _class_names(recipe, manifest, needs.label, clips.classes)
    of_splits = [clips] if val is None else [clips, val]
    data, *val_data = _rows(features, of_splits, parse_size(recipe.data.memory))
    return TrainingSetup(
        labels=names,
        store_id=store.store_id,
        features={sense: feature.name for sense, feature in features.items()},
        encoders=dict(zip(features, encoders_of(features, features), strict=True)),
        data=data,
        val=val_data[0] if val_data else None,
        watches=watches,
        validation=what,
        of_stages=[np.flatnonzero(part.of(manifest, clips)) for part in parts],
    )


def _check_classes(recipe: Recipe, needs: "_Needs", clips: Clips) -> None:
    """Refuse a single class where an objective has classes to tell apart.

    Raises:
        ConfigError: the class, and what learns without.
    """
    for stage, traits in zip(recipe.stages, needs.traits, strict=True):
        if traits.supervised and not traits.several_labels and len(clips.classes) < 2:
            one = ", ".join(map(repr, clips.classes)) or "none"
            raise ConfigError(
                f"objective {stage.objective.name} needs two classes to tell apart, and the "
                f"{len(clips):,} clips to train on have one ({one}); set data.label to another "
                "column, or take a recipe that needs no labels, such as infonce"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The clips that one stage takes: of a split, with or without labels."""

    stage: str  # its name
    split: str
    labelled: bool

    def of(self, manifest: "Manifest", clips: Clips) -> Bool[np.ndarray, "V"]:
        """A mask of the clips that are the stage's."""
        mask = np.ones(len(clips), bool)
        if self.split != "all":
            split_of = dict(zip(manifest.clip_ids, manifest.column("split"), strict=True))
            mask = np.array([split_of[clip] == self.split for clip in clips.ids], bool)
        return mask & clips.labelled if self.labelled else mask


def _parts(manifest: "Manifest", recipe: Recipe, needs: "_Needs") -> list[_Part]:
    """The clips of every stage; a recipe without stages has one that takes what it is given.

    Raises:
        InputError: a split without clips.
        ConfigError: an objective that needs labels, of clips that may lack them.
    """
    parts = []
    for stage, traits in zip(recipe.stages, needs.traits, strict=True):
        data = stage.data
        if data.labels == "any" and traits.supervised:
            raise ConfigError(
                f"stage {stage.name}: objective {stage.objective.name} needs labels; leave "
                "data.labels=any out"
            )
        split = choose_split(manifest, data.split or recipe.data.split or None, "train")
        labelled = traits.supervised or data.labels == "required"
        parts.append(_Part(stage=stage.name, split=split, labelled=labelled))
    split = choose_split(manifest, recipe.data.split or None, "train")
    return parts or [_Part(stage="main", split=split, labelled=False)]


def _of_parts(
    manifest: "Manifest", features: Mapping[str, "Feature"], needs: "_Needs", parts: list[_Part]
) -> Clips:
    """The clips of all stages. Where some need labels, those of other clips stay unknown: classes
    are what labels were learnt of.

    Raises:
        InputError: a stage with less than two clips.
    """
    names = list(dict.fromkeys(part.split for part in parts))
    clips = _usable(manifest, features, needs, names[0] if len(names) == 1 else "all")
    masks = [part.of(manifest, clips) for part in parts]
    for part, mask in zip(parts, masks, strict=True):
        if mask.sum() < 2:
            of_stage = f" for stage {part.stage}" if len(parts) > 1 else ""
            raise InputError(
                f"split {part.split!r} has {mask.sum()} clips with {' and '.join(features)} rows"
                f"{' and labels' if part.labelled else ''}{of_stage}; training needs 2 at least"
            )
    known = [mask for part, mask in zip(parts, masks, strict=True) if part.labelled]
    if known:
        told = np.logical_or.reduce(known)
        targets = None if clips.targets is None else clips.targets & told[:, None]
        class_ids = np.where(told, clips.class_ids, UNLABELLED).astype(np.int32)
        clips = replace(clips, class_ids=class_ids, targets=targets)
    return replace(clips.keep(np.logical_or.reduce(masks)), split="+".join(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Needs:
    """The needs that the objectives of all stages have of the clips."""

    traits: Sequence[Traits]  # of each stage
    label: str | None  # the column; None: no label is needed
    keep: bool  # clips that lack a modality

    @property
    def supervised(self) -> bool:
        """True if some stage needs a label of every clip."""
        return any(traits.supervised for traits in self.traits)

    @property
    def several(self) -> bool:
        """True if clips may have several labels."""
        return bool(self.traits) and self.traits[0].several_labels


def _features(store: "Store", recipe: Recipe) -> dict[str, "Feature"]:
    """The features that are trained on, by sense."""
    chosen = {}
    for modality in MODALITIES:
        names = recipe.data.features(modality)
        known = [choose_feature(store, modality, name) for name in names]
        for sense, feature in zip(named(modality, len(known)), known, strict=True):
            if feature is not None:
                chosen[sense] = feature
    return chosen


def _needs(recipe: Recipe, manifest: "Manifest") -> _Needs:
    """The needs of the recipe's objectives.

    Raises:
        ConfigError: stages, or settings, that do not go together.
    """
    names = [stage.objective.name for stage in recipe.stages]
    traits = [plugins.module("learn.training.objectives", name).TRAITS for name in names]
    if several := [m for m in MODALITIES if len(recipe.data.features(m)) > 1]:
        alone = [n for n, t in zip(names, traits, strict=True) if not t.several_features]
        alone += [recipe.network.name] if recipe.network else []
        if alone:
            raise ConfigError(
                f"{alone[0]} learns from one {several[0]} feature; name one, or take a recipe such "
                "as protonet, supcon, cross_entropy or whiten"
            )
    if len({trait.several_labels for trait in traits}) > 1:
        raise ConfigError("stages with one label a clip and stages with several do not mix")
    keep = recipe.data.missing == "keep"
    for name, trait in zip(names, traits, strict=True):
        if keep and not trait.missing_modality:
            raise ConfigError(f"objective {name} needs every modality; set data.missing=drop")
    label: str | None = recipe.data.label
    named = label != DataSettings().label
    if not (named or label in manifest.columns or any(trait.supervised for trait in traits)):
        label = None
    return _Needs(traits=traits, label=label, keep=keep)


def _usable(
    manifest: "Manifest", features: Mapping[str, "Feature"], needs: _Needs, split: str
) -> Clips:
    """The clips of a split that have the rows that training needs."""
    clips = load_clips(manifest, split=split, label=needs.label, group=None, several=needs.several)
    combine = np.logical_or if needs.keep else np.logical_and
    usable = combine.reduce([feature.locate(clips.ids).rows > 0 for feature in features.values()])
    return clips.keep(usable)


def _validation(
    recipe: Recipe, needs: _Needs, clips: Clips, of_val: Clips | None
) -> tuple[Clips, Clips | None, dict[int, str], str]:
    """The clips to train on; those to validate on, what tells the best epoch of each stage, and
    the same in words: none if nothing does.

    Raises:
        ConfigError, InputError: unseen classes are asked for, and cannot be had.
    """
    asked = [stage.optimiser.watch for stage in recipe.stages]
    if set(asked) <= {"auto", "unseen"}:
        found = None if of_val is None else unseen.of_split(clips, of_val, recipe.seed)
        if asked and found is None and (of_val is None or "unseen" in asked):
            found = unseen.put_aside(clips, recipe.seed)
        if found is not None:
            val = _comparable(found.val, found.train.classes)
            return found.train, val, dict.fromkeys(range(len(asked)), "unseen"), found.what
    if "unseen" in asked:
        if not set(asked) <= {"auto", "unseen"}:
            raise ConfigError("optimiser.watch=unseen is for all stages or none: it spares classes")
        raise InputError(
            f"optimiser.watch=unseen needs {2 * unseen.SPARED} labelled classes, half of them to "
            f"put aside with two clips each at least; training has {len(clips.classes)}"
        )
    if not asked:
        return clips, None, {}, "none"
    if of_val is None:
        few = (
            f"too few classes to put some aside ({len(clips.classes)})"
            if clips.classes
            else "no labels"
        )
        why = f", and {few}" if "auto" in asked else ""
        return clips, None, {}, f"none: no val split{why}"
    val = _comparable(of_val, clips.classes)
    watches = {
        i: _watch(watch, needs.traits[i].supervised, val, clips.classes, recipe.seed)
        for i, watch in enumerate(asked)
    }
    if set(watches.values()) == {"none"}:
        return clips, None, watches, "none"
    words = " and ".join(sorted(set(watches.values()) - {"none"}))
    return clips, val, watches, f"{words} of split {val.split!r}, whose classes training may know"


def _class_names(
    recipe: Recipe, manifest: "Manifest", label: str | None, classes: tuple[str, ...]
) -> ClassEmbeddings | None:
    """Vectors of the classes that the manifest names, if the recipe has a file of them.

    Raises:
        InputError: no label column, or a class of the training without a vector.
    """
    if not recipe.data.labels:
        return None
    if label is None:
        raise InputError("labels are of classes, and the manifest has no label column")
    path = Path(recipe.data.labels)
    if path.suffix == ".npy":  # a pickle, and a recipe vouches for nobody
        raise InputError(
            f"{path} is a pickle; write its vectors as a table first: "
            f"learn labels DIR --from {path} --trust-pickle -o FILE.csv"
        )
    known = class_embeddings.read(path)
    names = sorted({name for cell in labels_of(manifest, label) for name in cell})
    wanted = [name for name in names if name in classes or known.has(name)]
    return ClassEmbeddings(names=tuple(wanted), vectors=known.of(wanted))


def _rows(
    features: Mapping[str, "Feature"], of_splits: list[Clips], memory: int
) -> list[TrainingData]:
    """The rows of all splits in memory, or streamed if they take more than `memory`."""
    counts = [{m: f.locate(clips.ids).rows for m, f in features.items()} for clips in of_splits]
    wanted = sum(
        int(rows.sum()) * row_bytes(features[m]) for split in counts for m, rows in split.items()
    )
    if wanted <= memory:
        return [
            TrainingData(
                clips=clips,
                rows={m: load_rows(f, clips.ids) for m, f in features.items()},
                spare_bytes=memory - wanted,
            )
            for clips in of_splits
        ]
    return [
        TrainingData(
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
            disk_blocks=blocks_of(features, rows, clips.ids, memory),
            spare_bytes=memory - 2 * memory // BLOCKS,  # two stretches are read to take the means
        )
        for clips, rows in zip(of_splits, counts, strict=True)
    ]


def _comparable(val: Clips, classes: tuple[str, ...]) -> Clips:
    """Validation clips under the training's class ids, new classes after those."""
    class_id_of = {name: c for c, name in enumerate(classes)}
    for name in val.classes:
        class_id_of.setdefault(name, len(class_id_of))
    new = np.array([class_id_of[name] for name in val.classes], np.int32)
    class_ids = val.class_ids
    class_ids = (
        np.where(class_ids == UNLABELLED, UNLABELLED, new[class_ids]) if len(new) else class_ids
    )
    targets = None
    if val.targets is not None:
        targets = np.zeros((len(val), len(class_id_of)), bool)
        targets[:, new] = val.targets
    return Clips(
        ids=val.ids,
        class_ids=class_ids.astype(np.int32),
        classes=tuple(class_id_of),
        groups=val.groups,
        split=val.split,
        targets=targets,
    )


def _watch(watch: str, supervised: bool, val: Clips, classes: tuple[str, ...], seed: int) -> str:
    """The measure of the best epoch: a supervised objective knows no class but its own.

    Raises:
        InputError: asked for what these clips cannot give.
    """
    if not supervised:
        known = len(val) > 1
    elif val.targets is None:
        known = len(val) > 1 and bool((val.class_ids < len(classes)).all())
    else:  # a cost of no label at all is 0, and no epoch's is less
        known = len(val) > 1 and bool(val.targets[:, : len(classes)].any())
    possible = {"loss": known, "episodes": validation.draw(val, seed) is not None, "none": True}
    if watch in ("auto", "split"):
        return next(name for name, can in possible.items() if can)
    if not possible[watch]:
        reason = "has classes that training has not" if watch == "loss" else "has too few clips"
        raise InputError(
            f"optimiser.watch={watch}, but split {val.split!r} {reason}; use "
            f"{' or '.join(name for name, can in possible.items() if can)}"
        )
    return watch
