"""The clips of a split and their stored rows, in memory.

Shapes: V = clips, R = rows of all clips, D = stored size, B = clips of a batch, T = rows (padded).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32, Int, Int32, Int64
from torch import Tensor

from store.errors import InputError, UnknownFeature, choices

if TYPE_CHECKING:
    from store import Feature, Manifest, Store

MODALITIES = ("visual", "audio")
UNLABELLED = -1
SHOT, QUERY, BASE = 1, 2, 4  # roles: what a clip may be; and whether its class is one trained on
CLIPS_AT_ONCE = 512
ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clips:
    """Clips in the order of their ids, so that a manifest's order decides nothing.

    Raises:
        ValueError: columns of different lengths, ids out of order, a code without a class.
    """

    ids: tuple[str, ...]
    class_ids: Int32[np.ndarray, "V"]  # positions in `classes`, or UNLABELLED
    classes: tuple[str, ...]
    groups: Int32[np.ndarray, "V"] | None  # equal codes: of one source
    split: str
    targets: Bool[np.ndarray, "V C"] | None = None  # every label of a clip; then no codes
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
        told = [self.ids, self.classes, self.class_ids.tolist(), groups]
        if self.targets is not None:
            told.append(self.targets.tolist())
        if self.roles is not None:
            told.append(self.roles.tolist())
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

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
        """Which clips have a role."""
        return np.ones(len(self), bool) if self.roles is None else self.roles & role > 0

    @property
    def labelled(self) -> Bool[np.ndarray, "V"]:
        """Which clips have a label at least."""
        some = self.class_ids != UNLABELLED if self.targets is None else self.targets.any(1)
        return np.asarray(some)


def splits(manifest: "Manifest") -> list[str]:
    """The names in the column `split`, or none."""
    return sorted(set(manifest.column("split")) - {""}) if "split" in manifest.columns else []


def choose_split(manifest: "Manifest", asked: str | None, default: str) -> str:
    """`asked`, or `default` where the manifest has splits, or "all".

    Raises:
        InputError: no clip is in that split.
    """
    known = splits(manifest)
    chosen = asked or (default if known else "all")
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
    With `several`, clips may have any number of labels, which are their `targets`.

    Raises:
        UnknownColumn: says which there are.
        InputError: a cell with several labels.
    """
    ids = manifest.clip_ids
    labels = manifest.labels(label) if label else [()] * len(ids)
    of_split = ["all"] * len(ids) if split == "all" else manifest.column("split")
    rows = sorted((i for i in range(len(ids)) if of_split[i] == split), key=ids.__getitem__)
    classes = sorted({name for i in rows for name in labels[i]})
    if several:
        targets = np.zeros((len(rows), len(classes)), bool)
        place = {name: c for c, name in enumerate(classes)}
        for row, i in enumerate(rows):
            targets[row, [place[name] for name in labels[i]]] = True
        return Clips(
            ids=tuple(ids[i] for i in rows),
            class_ids=np.full(len(rows), UNLABELLED, np.int32),
            classes=tuple(classes),
            groups=_groups(manifest, group, rows),
            split=split,
            targets=targets,
        )
    if many := [i for i in rows if len(labels[i]) > 1]:
        raise InputError(
            f"{len(many)} clips have several labels in column {label!r} (first "
            f"{ids[many[0]]!r}: {', '.join(labels[many[0]])}); name a column with one each"
        )
    code = {(): UNLABELLED, **{(name,): c for c, name in enumerate(classes)}}
    return Clips(
        ids=tuple(ids[i] for i in rows),
        class_ids=np.array([code[labels[i]] for i in rows], np.int32),
        classes=tuple(classes),
        groups=_groups(manifest, group, rows),
        split=split,
    )


def _groups(
    manifest: "Manifest", group: str | None, rows: list[int]
) -> Int32[np.ndarray, "V"] | None:
    if group == "none" or (group is None and "group" not in manifest.columns):
        return None
    cells = manifest.column(group or "group")
    names = [("of", cells[i]) if cells[i] else ("alone", str(i)) for i in rows]
    code = {name: c for c, name in enumerate(dict.fromkeys(names))}
    return np.array([code[name] for name in names], np.int32)


class Padded(NamedTuple):
    """The rows of a batch of clips; those that are not real are padding."""

    rows: Float32[Tensor, "B T D"]
    mask: Bool[Tensor, "B T"]
    seconds: Float32[Tensor, "B T"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """The stored rows of one modality, clip after clip; a clip may have none.

    Raises:
        ValueError: offsets that do not fit the rows.
    """

    values: Float16[Tensor, "R D"]
    offsets: Int64[Tensor, "V_plus_1"]
    seconds: Float32[Tensor, "R"]

    def __post_init__(self) -> None:
        counts = self.offsets.diff()
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.values) or bool((counts < 0).any()):
            raise ValueError(f"offsets do not cover {len(self.values)} rows")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def dim(self) -> int:
        return self.values.shape[1]

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def counts(self) -> Int64[Tensor, "V"]:
        return self.offsets.diff()

    @property
    def valid(self) -> Bool[np.ndarray, "V"]:
        """Which clips have rows."""
        return self.counts.cpu().numpy() > 0

    def padded(self, places: Int[Tensor, "B"]) -> Padded:
        """Rows, which of them are real, and their times, of these clips; padding is zero."""
        start, count = self.offsets[places], self.counts[places]
        step = torch.arange(max(1, int(count.max())), device=self.values.device)
        mask = step < count[:, None]
        row = torch.where(mask, start[:, None] + step, 0)
        if not len(self.values):  # no clip has any: there is no row 0 to stand for padding
            nothing = torch.zeros(*mask.shape, self.dim, device=self.values.device)
            return Padded(nothing, mask, torch.zeros_like(nothing[..., 0]))
        rows = self.values.index_select(0, row.view(-1)).float().view(*row.shape, self.dim)
        if not bool(mask.all()):
            rows.mul_(mask[..., None])
        return Padded(rows, mask, self.seconds[row] * mask)

    def to(self, device: torch.device) -> "Rows":
        """The same rows on that device."""
        return Rows(
            values=self.values.to(device),
            offsets=self.offsets.to(device),
            seconds=self.seconds.to(device),
        )

    def means(self) -> Float32[Tensor, "V D"]:
        """The mean of each clip's rows; zero for a clip without any."""
        counts = self.counts
        means = torch.zeros(len(self), self.dim, device=self.values.device)
        for start in range(0, len(self), CLIPS_AT_ONCE):
            some = counts[start : start + CLIPS_AT_ONCE]
            rows = self.values[self.offsets[start] : self.offsets[start + len(some)]].float()
            clip = torch.repeat_interleave(some)
            means[start : start + len(some)].index_add_(0, clip, rows)
        return means / counts.clamp_min(1)[:, None]

    def pieces(self) -> Iterator[Float16[Tensor, "_ D"]]:
        """All rows, some at a time."""
        return iter(torch.split(self.values, ROWS_AT_ONCE))

    def keep(self, wanted: Bool[np.ndarray, "V"]) -> "Rows":
        """The rows of only these clips."""
        of_clip = torch.from_numpy(wanted)
        of_row = of_clip.repeat_interleave(self.counts)
        counts = self.counts[of_clip]
        return Rows(
            values=self.values[of_row],
            offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
            seconds=self.seconds[of_row],
        )


def concatenated(parts: Sequence[Rows]) -> Rows:
    """The rows of several sets of clips, one after the other."""
    counts = torch.cat([part.offsets.diff() for part in parts])
    return Rows(
        values=torch.cat([part.values for part in parts]),
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        seconds=torch.cat([part.seconds for part in parts]),
    )


def choose_feature(store: "Store", modality: str, asked: str | None) -> "Feature | None":
    """The feature asked for, or the only one of that modality, or None where there is none.

    Raises:
        UnknownFeature: no such feature, one of another modality, or several and none named.
    """
    if asked is not None:
        feature = store[asked]
        if feature.modality != modality:
            raise UnknownFeature(
                f"{feature.name} is {feature.modality}, not {modality}; name another"
            )
        return feature
    known = [f for f in map(store.__getitem__, store.features) if f.modality == modality]
    if len(known) > 1:
        raise UnknownFeature(
            f"the store has {len(known)} {modality} features; name one of them: "
            f"{', '.join(f.name for f in known)}"
        )
    return known[0] if known else None


def load_rows(feature: "Feature", ids: Sequence[str]) -> Rows:
    """The rows of these clips; clips that failed or were never extracted have none."""
    packed = feature.packed(ids)
    return Rows(
        values=torch.from_numpy(packed.values),
        offsets=torch.from_numpy(packed.offsets),
        seconds=torch.from_numpy((packed.time_ms / 1000).astype(np.float32)),
    )
