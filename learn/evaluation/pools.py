"""The clips that episodes are drawn from: of base and new classes, or of two collections.

Shapes: V = clips.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from learn.data.clips import BASE, QUERY, SHOT, TRAIN, VAL, Clips, splits
from learn.data.evaluation_set import EvaluationSet
from learn.data.rows import concatenated
from store.errors import InputError

if TYPE_CHECKING:
    from store import Manifest


GroupNames = Mapping[str, str] | None  # the group of every clip, as `group_names` gives it


def of_val(everything: EvaluationSet, manifest: "Manifest", split: str) -> EvaluationSet | None:
    """Generalised clips of the val split, without the new classes of `split`; None where there are
    none."""
    if split == VAL or VAL not in splits(manifest):
        return None
    split_of = dict(zip(manifest.clip_ids, manifest.column("split"), strict=True))
    in_split = np.array([split_of[clip] == split for clip in everything.clips.ids])
    taken_classes = {everything.clips.classes[c] for c in everything.clips.class_ids[in_split]}
    try:
        return generalised(everything, manifest, VAL, without=frozenset(taken_classes))
    except InputError:
        return None


def generalised(
    everything: EvaluationSet,
    manifest: "Manifest",
    split: str,
    *,
    without: frozenset[str] = frozenset(),
) -> EvaluationSet:
    """Clips of base classes, which are those of the train split, and of the others of `split`.

    Base classes are learnt from the train split, and asked about with their clips of `split` where
    it has any, else with train clips of other groups. Classes named in `without` are left out.

    Raises:
        InputError: no train split is apart, or `split` has no other classes.
    """
    if not splits(manifest):
        raise InputError(f"generalised episodes need a split {TRAIN!r} with base classes")
    split_of = dict(zip(manifest.clip_ids, manifest.column("split"), strict=True))
    split_names = np.array([split_of[clip] for clip in everything.clips.ids])
    class_ids, names = everything.clips.class_ids, np.array(everything.clips.classes)
    based = np.isin(np.arange(len(names)), class_ids[split_names == TRAIN])
    new = ~based & ~np.isin(names, sorted(without))
    queried = np.zeros(len(names), bool)
    queried[class_ids[split_names == split]] = True
    if split in (TRAIN, "all") or not based.any() or not (queried & new).any():
        raise InputError(
            f"generalised episodes need a split {TRAIN!r} with base classes, and other classes in "
            f"the split scored; {split!r} has {int((queried & new).sum())} others"
        )
    roles = np.zeros(len(class_ids), np.int32)
    in_train, in_split = split_names == TRAIN, split_names == split
    roles[in_train] = SHOT + BASE + QUERY * ~queried[class_ids[in_train]]
    roles[in_split & based[class_ids]] = QUERY + BASE
    roles[in_split & new[class_ids]] = SHOT + QUERY
    chosen = replace(everything, clips=replace(everything.clips, roles=roles))
    return chosen.keep(roles > 0)


def crossed(
    support: EvaluationSet,
    query: EvaluationSet,
    *,
    same_store: bool,
    groups_of: tuple[GroupNames, GroupNames] = (None, None),  # of support and query
) -> EvaluationSet:
    """Shots from one set of clips and queries from another, of the classes that both have.

    Ids say which. Within one store no clip is on both sides, and groups of one name are one source;
    those of two stores are others, whatever their names.

    Raises:
        InputError: too few classes have one name in both.
    """
    if same_store:
        query = query.keep(~np.isin(query.clips.ids, support.clips.ids))
    shared = sorted(set(support.clips.classes) & set(query.clips.classes))
    if len(shared) < 2:
        raise InputError(
            f"{len(shared)} classes have one name in both sets of clips, of "
            f"{len(support.clips.classes)} to learn from and {len(query.clips.classes)} to ask "
            "about; name classes alike, or bring labels with `manifest` and `query_manifest`"
        )
    parts = []
    for name, role, part in (("query", QUERY, query), ("support", SHOT, support)):
        shared_ids = np.flatnonzero(np.isin(part.clips.classes, shared))
        kept = part.keep(np.isin(part.clips.class_ids, shared_ids))
        parts.append((name, role, kept))
    groups, first, number = [], 0, dict[str, int]()
    for (_, _, part), names in zip(parts, reversed(groups_of), strict=True):
        own = part.clips.groups
        if same_store and None not in groups_of and names is not None:
            codes = [number.setdefault(names[clip], len(number)) for clip in part.clips.ids]
            groups.append(np.array(codes, np.int32))
            continue
        own = np.arange(len(part.clips), dtype=np.int32) if own is None else own
        groups.append((own + first).astype(np.int32))
        first += int(own.max(initial=-1)) + 1
    clips = Clips(
        ids=tuple(f"{name}/{clip}" for name, _, part in parts for clip in part.clips.ids),
        class_ids=np.concatenate([part.clips.class_ids for _, _, part in parts]),
        classes=tuple(shared),
        groups=np.concatenate(groups),
        split=support.clips.split,
        roles=np.concatenate([np.full(len(part.clips), role, np.int32) for _, role, part in parts]),
    )
    rows = {m: concatenated([part.rows[m] for _, _, part in parts]) for m in support.rows}
    dropped = {reason: n + query.dropped.get(reason, 0) for reason, n in support.dropped.items()}
    return EvaluationSet(clips=clips, rows=rows, dropped=dropped)
