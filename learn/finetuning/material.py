"""The clips that a recipe trains encoders on, and those that say what was gained.

Shapes: V = clips to learn from, W = clips to validate on.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from learn.data.batching import Batching
from learn.data.clips import Clips, choose_split, load_clips, splits
from learn.finetuning.protocols import Look, Progress, Seen, Stream
from learn.finetuning.recipe import NO_VAL, USUAL_VAL, Recipe
from learn.training import unseen
from store import Manifest
from store.errors import ConfigError, InputError, choices

_ORDER, _LOOKS = 0x0DE5, 0x100C5  # streams of random numbers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """Clips that decode, in the order of their ids, and where they stand in the manifest."""

    clips: Clips
    rows: Int64[np.ndarray, "V"]
    media: Mapping[str, bytes]  # digests of their files, by clip id
    val: Clips | None  # of classes that training lacks
    val_rows: Int64[np.ndarray, "W"] | None
    validation: str  # the same in words
    failed: Mapping[str, int]  # clips left out, by kind

    @property
    def sha256(self) -> str:
        """Digest of the clips that are learnt from: ids, labels and media."""
        digest = hashlib.sha256(self.clips.sha256.encode())
        for clip in self.clips.ids:
            digest.update(self.media[clip])
        return digest.hexdigest()


def chosen(
    manifest: Manifest, recipe: Recipe, *, supervised: bool
) -> tuple[Clips, Clips | None, str]:
    """The clips to train on, by their labels and split; those of unseen classes; and how these were
    come by.

    Raises:
        InputError: too few clips or classes.
    """
    data = recipe.data
    split = choose_split(manifest, data.split or None, "train")
    label = data.label if supervised or data.label in manifest.columns else None
    clips = load_clips(manifest, split=split, label=label)
    if supervised:
        clips = clips.keep(clips.labelled)
    known = splits(manifest)
    if data.val_split not in (*known, USUAL_VAL, NO_VAL):
        raise InputError(
            f"data.val_split={data.val_split}: no clip is in that split; there are "
            f"{choices(data.val_split, [*known, NO_VAL])}"
        )
    found = None
    if split not in ("all", data.val_split) and data.val_split in known:
        of_val = load_clips(manifest, split=data.val_split, label=label)
        found = unseen.of_split(clips, of_val, recipe.optimiser.seed)
    elif label and len(clips.classes):
        found = unseen.put_aside(clips, recipe.optimiser.seed)
    if found is None:
        return clips, None, "none: too few classes with labels that training could go without"
    return found.train, found.val, found.what


def survey(
    manifest: Manifest, stream: Stream, recipe: Recipe, modalities: Sequence[str], *,
    supervised: bool, pairs: bool, progress: Progress | None = None,
) -> Material:  # fmt: skip
    """Decode every clip once: which can be learnt from, and what their media are.

    With `pairs` a class with one clip is refused, as are clips without a class.

    Raises:
        InputError: no clip decodes, or too few are left.
    """
    clips, val, what = chosen(manifest, recipe, supervised=supervised)
    row_of = {clip: row for row, clip in enumerate(manifest.clip_ids)}
    rows = [row_of[clip] for of in (clips, val) if of is not None for clip in of.ids]
    usable, media, faults = set[int](), dict[str, bytes](), list[tuple[str, str]]()
    told = (lambda done, total, _: progress(done, total, status="looked at")) if progress else None
    for seen in stream.survey(rows, told):
        bad = _fault(seen, modalities)
        if bad is None:
            usable.add(seen.row)
            media[manifest.clip_ids[seen.row]] = seen.sha256
        else:
            told_so = "; ".join(filter(None, (seen.detail.get(m) for m in modalities)))
            where = manifest.clip_ids[seen.row]
            faults.append((bad, f"{where}: {bad}{', ' * bool(told_so)}{told_so}"))
    if not usable:
        raise InputError(
            f"none of {len(rows)} clips can be decoded to {' and '.join(modalities)} (the first: "
            f"{faults[0][1] if faults else 'there is none'}); name clips that are there and play, "
            "or another split"
        )
    kept = clips.keep(np.array([row_of[clip] in usable for clip in clips.ids], bool))
    if val is not None:
        val = val.keep(np.array([row_of[clip] in usable for clip in val.ids], bool))
        if not unseen.draw(val, recipe.optimiser.seed):
            val, what = None, "none: too few clips of unseen classes decode"
    _check(kept, recipe, supervised=supervised, pairs=pairs)
    return Material(
        clips=kept, rows=_rows(kept, row_of), media=media, val=val,
        val_rows=None if val is None else _rows(val, row_of), validation=what,
        failed=dict(Counter(kind for kind, _ in faults)),
    )  # fmt: skip


def _fault(seen: Seen, modalities: Sequence[str]) -> str | None:
    """The kind of what a clip lacks; None if it has all."""
    for modality in modalities:
        if not seen.status[modality].has_rows:
            return str(seen.status[modality].kind)
    return None


def _check(clips: Clips, recipe: Recipe, *, supervised: bool, pairs: bool) -> None:
    if len(clips) < 2:
        raise InputError(
            f"split {clips.split!r} has {len(clips)} clips to learn from; training needs 2 at least"
        )
    if not supervised:
        return
    if len(clips.classes) < 2:
        raise InputError(
            f"the clips to learn from are of {len(clips.classes)} class; name two at least in "
            f"column {recipe.data.label!r}"
        )
    sizes = np.bincount(clips.class_ids, minlength=len(clips.classes))
    if pairs and (alone := [c for c, n in zip(clips.classes, sizes, strict=True) if n < 2]):
        raise InputError(
            f"{len(alone)} classes have one clip, and an episode needs two (first {alone[0]!r}); "
            "give each another clip, or leave these classes out"
        )


def _rows(clips: Clips, row_of: Mapping[str, int]) -> Int64[np.ndarray, "V"]:
    return np.array([row_of[clip] for clip in clips.ids], np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Which clips meet in every step of every epoch, and which moments are looked at."""

    material: Material
    recipe: Recipe
    looks: tuple[float, ...]

    def batches(self, epoch: int) -> list[Int64[np.ndarray, "_"]]:
        """Positions of the clips of each step."""
        optimiser, clips = self.recipe.optimiser, self.material.clips
        batching = Batching(
            batch_size=optimiser.batch_size, ways=optimiser.ways,
            class_ids=clips.class_ids if optimiser.ways else None,
        )  # fmt: skip
        rng = np.random.default_rng([optimiser.seed, _ORDER, epoch])
        windows = batching.epoch(len(clips), rng)
        return [batch.numpy() for window in windows for batch in window.batches]

    def looked_at(self, epoch: int, clip: int) -> Look:
        """The moments of one clip in one epoch."""
        count = self.recipe.data.drawn
        rng = np.random.default_rng([self.recipe.optimiser.seed, _LOOKS, epoch, clip])
        if not self.looks:
            shares = rng.random(count)
        elif count <= len(self.looks):
            shares = rng.choice(self.looks, count, replace=False)
        else:
            shares = rng.choice(self.looks, count)
        row = int(self.material.rows[clip])
        return row, tuple(sorted(float(share) for share in shares))

    def ahead(self, epoch: int, step: int) -> Iterator[Look]:
        """Everything that is looked at from a step on, in order."""
        for later in range(epoch, self.recipe.optimiser.epochs):
            for batch in self.batches(later)[step if later == epoch else 0 :]:
                for clip in batch:
                    yield self.looked_at(later, int(clip))


def looks_of(recipe: Recipe) -> tuple[float, ...]:
    """The moments at which clips may be looked at: centres of as many equal parts."""
    count = recipe.data.looks
    if 0 < count < recipe.data.drawn:
        raise ConfigError(
            f"data.looks={count} are fewer moments than the {recipe.data.drawn} that a step shows; "
            "raise it, or 0 for any moment"
        )
    return tuple((k + 0.5) / count for k in range(count))
