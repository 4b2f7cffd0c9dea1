"""The clips of a split: their ids, classes, groups and roles.

Shapes: V = clips, C = classes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int32

from store.errors import InputError, choices

if TYPE_CHECKING:
    from store import Manifest

UNLABELLED = -1
TRAIN, VAL = "train", "val"  # splits that are learnt from, and chosen by
SHOT, QUERY, BASE = 1, 2, 4  # roles: what a clip may be; and whether its class is one trained on


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clips:
    """Clips in the order of their ids, so that a manifest's order decides nothing.

    Raises:
        ValueError: columns of different lengths, ids out of order, a code without a class.
    """

    ids: tuple[str, ...]
    class_ids: Int32[np.ndarray, "V"]  # positions in `classes`, or UNLABELLED
    classes: tuple[str, ...]
    groups: Int32[np.ndarray, "V"] | None  # equal numbers: one source
    split: str
    targets: Bool[np.ndarray, "V C"] | None = None  # every label of a clip; then no class_ids
    roles: Int32[np.ndarray, "V"] | None = None  # sums of SHOT, QUERY, BASE; None: SHOT and QUERY

    def __post_init__(self) -> None:
        if self.targets is not None and self.targets.shape != (len(self.ids), len(self.classes)):
            raise ValueError(f"targets of {self.targets.shape} are not clips by classes")
        if len(self.class_ids) != len(self.ids) or list(self.ids) != sorted(set(self.ids)):
            raise ValueError("ids must be sorted, different, and as many as the codes")
        if self.roles is not None and len(self.roles) != len(self.ids):
            raise ValueError(f"{len(self.roles)} roles for {len(self.ids)} clips")
        if self.groups is not None and len(self.groups) != len(self.ids):
            raise ValueError(f"{len(self.groups)} groups for {len(self.ids)} clips")
        if len(
            self.class_ids
        ) and not UNLABELLED <= self.class_ids.min() <= self.class_ids.max() < len(self.classes):
            raise ValueError("a code has no class")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sha256(self) -> str:
        """Digest of ids, labels and groups."""
        groups = None if self.groups is None else self.groups.tolist()
        content = [self.ids, self.classes, self.class_ids.tolist(), groups]
        if self.targets is not None:
            content.append(self.targets.tolist())
        if self.roles is not None:
            content.append(self.roles.tolist())
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def keep(self, wanted: Bool[np.ndarray, "V"]) -> "Clips":
        """Only these clips, and only the classes they have."""
        class_ids = self.class_ids[wanted]
        used = np.unique(class_ids[class_ids != UNLABELLED])
        targets = None
        if self.targets is not None:
            used = np.flatnonzero(self.targets[wanted].any(0))
            targets = self.targets[wanted][:, used]
        new = np.where(class_ids == UNLABELLED, UNLABELLED, np.searchsorted(used, class_ids))
        return Clips(
            ids=tuple(clip for clip, keep in zip(self.ids, wanted, strict=True) if keep),
            class_ids=new.astype(np.int32),
            classes=tuple(self.classes[c] for c in used),
            groups=None if self.groups is None else self.groups[wanted],
            split=self.split,
            targets=targets,
            roles=None if self.roles is None else self.roles[wanted],
        )

    def has_role(self, role: int) -> Bool[np.ndarray, "V"]:
        """A mask of the clips that have this role."""
        return np.ones(len(self), bool) if self.roles is None else self.roles & role > 0

    @property
    def labelled(self) -> Bool[np.ndarray, "V"]:
        """A mask of the clips that have a label."""
        labelled = self.class_ids != UNLABELLED if self.targets is None else self.targets.any(1)
        return np.asarray(labelled)


def splits(manifest: "Manifest") -> list[str]:
    """The names in the column `split`, or none."""
    return sorted(set(manifest.column("split")) - {""}) if "split" in manifest.columns else []


def clips_of(manifest: "Manifest", split: str) -> Sequence[str]:
    """The ids of one split's clips ("all": of every split), as the manifest has them."""
    ids = manifest.clip_ids
    if split == "all":
        return ids
    return [clip for clip, of in zip(ids, manifest.column("split"), strict=True) if of == split]


def choose_split(manifest: "Manifest", name: str | None, default: str) -> str:
    """The split asked for, or else `default` where the manifest has splits, or "all".

    Raises:
        InputError: no clip is in that split.
    """
    known = splits(manifest)
    chosen = name or (default if known else "all")
    if chosen != "all" and chosen not in known:
        raise InputError(
            f"no clip is in split {chosen!r}; there are {choices(chosen, [*known, 'all'])}"
        )
    return chosen


def load_clips(
    manifest: "Manifest",
    *,
    split: str,
    label: str | None,
    group: str | None = None,
    several: bool = False,
) -> Clips:
    """The clips of one split ("all": of every split) with their labels and groups.

    `label=None` leaves all of them unlabelled. `group` names a column; by default it is `group`
    where there is one, and "none" switches it off. A clip without a group is a group of its own.
    With `several`, clips may have any number of labels, which are their `targets`; `label` may then
    name several columns, as `A,B`.

    Raises:
        UnknownColumn: says which there are.
        InputError: a cell with several labels.
    """
    ids = manifest.clip_ids
    labels: Sequence[tuple[str, ...]] = [()] * len(ids)
    if label:
        labels = labels_of(manifest, label) if several else manifest.labels(label)
    of_split = ["all"] * len(ids) if split == "all" else manifest.column("split")
    rows = sorted((i for i in range(len(ids)) if of_split[i] == split), key=ids.__getitem__)
    classes = sorted({name for i in rows for name in labels[i]})
    if several:
        targets = np.zeros((len(rows), len(classes)), bool)
        column = {name: c for c, name in enumerate(classes)}
        for row, i in enumerate(rows):
            targets[row, [column[name] for name in labels[i]]] = True
        return Clips(
            ids=tuple(ids[i] for i in rows),
            class_ids=np.full(len(rows), UNLABELLED, np.int32),
            classes=tuple(classes),
            groups=_groups(manifest, group, rows),
            split=split,
            targets=targets,
        )
    if several_labels := [i for i in rows if len(labels[i]) > 1]:
        raise InputError(
            f"{len(several_labels)} clips have several labels in column {label!r} (first "
            f"{ids[several_labels[0]]!r}: {', '.join(labels[several_labels[0]])}); name a column "
            "with one each"
        )
    class_id = {(): UNLABELLED, **{(name,): c for c, name in enumerate(classes)}}
    return Clips(
        ids=tuple(ids[i] for i in rows),
        class_ids=np.array([class_id[labels[i]] for i in rows], np.int32),
        classes=tuple(classes),
        groups=_groups(manifest, group, rows),
        split=split,
    )


def labels_of(manifest: "Manifest", label: str) -> list[tuple[str, ...]]:
    """The labels of every clip in a column; in several, named as `A,B`, each as `COLUMN=LABEL`.

    Raises:
        UnknownColumn: says which there are.
    """
    if "," not in label or label in manifest.columns:
        return manifest.labels(label)
    columns = [column.strip() for column in label.split(",")]
    cells = zip(*(manifest.labels(column) for column in columns), strict=True)
    return [
        tuple(
            f"{column}={name}" for column, names in zip(columns, row, strict=True) for name in names
        )
        for row in cells
    ]


def group_names(manifest: "Manifest", group: str | None) -> dict[str, str] | None:
    """The group of every clip by id, one of its own where the cell is empty; None where groups are
    not known, or switched off by "none"."""
    if group == "none" or (group is None and "group" not in manifest.columns):
        return None
    cells = zip(manifest.clip_ids, manifest.column(group or "group"), strict=True)
    return {clip: f"of {cell}" if cell else f"alone {clip}" for clip, cell in cells}


def _groups(
    manifest: "Manifest", group: str | None, rows: list[int]
) -> Int32[np.ndarray, "V"] | None:
    of_clip = group_names(manifest, group)
    if of_clip is None:
        return None
    names = [of_clip[manifest.clip_ids[i]] for i in rows]
    code = {name: c for c, name in enumerate(dict.fromkeys(names))}
    return np.array([code[name] for name in names], np.int32)
