"""The labelled clips of classes that nobody asks about: what a collection tells of its senses.

Shapes: V = clips.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from learn.data.clips import TRAIN, VAL, Clips, load_clips, splits
from learn.data.evaluation_set import EvaluationSet
from learn.data.rows import load_rows

if TYPE_CHECKING:
    from store import Feature, Manifest

MOST = 20_000  # clips whose rows are read: many times what a hundred episodes draw


def other_classes(
    manifest: "Manifest",
    features: "Mapping[str, Feature]",
    *,
    asked: Collection[str],
    label: str,
    group: str | None,
    scored_split: str | None = None,
    without: Collection[str] = (),
    most: int = MOST,
) -> EvaluationSet | None:
    """Clips of the train and val splits, but for the one that is scored, whose classes are not
    among those asked about; none of the clips `without`. None where there are no two such classes.

    Each has rows in every feature. Of more than `most`, each class keeps as many as the others do,
    evenly over its clips.

    Raises:
        UnknownColumn, InputError: as `load_clips`.
    """
    known = {TRAIN, VAL} & set(splits(manifest)) - {scored_split}
    if not known:
        return None
    clips = load_clips(manifest, split="all", label=label, group=group)
    split_of = dict(zip(manifest.clip_ids, manifest.column("split"), strict=True))
    wanted = np.array([split_of[clip] in known and clip not in without for clip in clips.ids], bool)
    names = np.array(clips.classes, object)
    wanted &= clips.labelled & ~np.isin(names, list(asked))[clips.class_ids]
    clips = clips.keep(wanted)
    for feature in features.values():
        clips = clips.keep(feature.locate(clips.ids).rows > 0)
    clips = clips.keep(_even(clips, most))
    if len(clips.classes) < 2:
        return None
    rows = {sense: load_rows(feature, clips.ids) for sense, feature in features.items()}
    return EvaluationSet(clips=clips, rows=rows, dropped={})


def _even(clips: Clips, most: int) -> Bool[np.ndarray, "V"]:
    """Which clips to keep, so that no class has more than it can where `most` are kept in all."""
    sizes = np.bincount(clips.class_ids, minlength=len(clips.classes))
    keep = np.ones(len(clips), bool)
    if len(clips) <= most:
        return keep
    limit = _level(sizes, most)
    for class_id in np.flatnonzero(sizes > limit):
        members = np.flatnonzero(clips.class_ids == class_id)
        keep[members] = False
        keep[members[np.linspace(0, len(members) - 1, limit).round().astype(int)]] = True
    return keep


def _level(sizes: Int[np.ndarray, "C"], most: int) -> int:
    """The largest number of clips that every class may keep."""
    low, high = 0, int(sizes.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= most else (low, middle - 1)
    return low
