"""`learn predict`: labels for clips of a store from a few labelled ones, a CSV row a clip.

A clip is judged by what it has: one without sound by sight alone, against the sight of the labelled
clips, and with a calibration of its own. Stored vectors are centred by the support's own mean.
Nothing is trained; another class is another row of the support.

Shapes: S = support clips, Q = clips of a block, D = size of a vector.
"""

import csv
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from learn.inference.classifier import BY, Classifier, Support, fit
from learn.inference.embed import EmbeddedBatch, blocks, parts_of, refuse_unknown
from learn.inference.selection import NONE, runs_of, select_one
from learn.inference.vector_index import Inverted, parse_index
from store import Manifest, read_manifest
from store import open as open_store
from store.errors import ConfigError, InputError, MissingFile, UnknownColumn, choices
from store.features.streaming import MEMORY_BYTES

Progress = Callable[..., None]
ANSWERED, ABSTAINED, NO_ROWS = "answered", "abstained", "no-rows"


def predict(
    store_path: str | Path,
    *,
    support: str | Path,
    output: str | Path,
    query: str | Path | None = None,
    labels: Sequence[str] = ("label",),
    group: str | None = None,
    mode: str | None = None,
    projection: str | Path | None = None,
    by: str = BY[0],
    index: str = "exact",
    top: int = 5,
    abstain_below: float = 0.0,
    visual: str | None = None,
    audio: str | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What was done and how sure the answers are; the answers themselves are in `output`.

    `support` and `query` name clips of the store by `clip_id` (or `path`); without `query`, every
    clip of the store that is not in the support is labelled. The file is written beside its final
    name and renamed when it is whole.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    if top < 1 or not 0 <= abstain_below <= 1:
        raise ConfigError(
            f"top={top}, abstain_below={abstain_below}: top is at least 1, and abstain_below a "
            "probability from 0 to 1"
        )
    output = Path(output)
    if not output.parent.is_dir():
        raise MissingFile(f"no directory {output.parent} to write {output.name} in; make it first")
    begun = time.monotonic()
    settings = parse_index(index)
    (run,) = runs_of([projection] if projection else []).values()
    store = open_store(store_path)
    selection = select_one(
        store, str(projection or NONE), run, visual=visual, audio=audio,
        given=[mode] if mode else [],
    )  # fmt: skip
    features, (cell,) = selection.features, selection.cells
    parts = parts_of(cell[0], run)

    table = read_manifest(support, ids_suffice=True)
    columns = {label: _labels(table, label) for label in dict.fromkeys(labels)}
    refuse_unknown(features, table.clip_ids, str(support))
    known = set(table.clip_ids)
    if query:
        ids: Sequence[str] = read_manifest(query, ids_suffice=True).clip_ids
        refuse_unknown(features, ids, str(query))
    else:
        every = dict.fromkeys(clip for one in features.values() for clip in one.clip_ids)
        ids = [clip for clip in every if clip not in known]

    groups = _groups(store.manifest() if store.manifest_names() else None, table, group)
    several = list(blocks(features, table.clip_ids, run, memory_bytes=memory_bytes))
    vectors = {p: torch.cat([one.vectors[p] for one in several]) for p in parts}
    there = {p: torch.cat([one.there[p] for one in several]) for p in parts}
    judges = {
        label: _Judge(
            label=label,
            names=names,
            vectors=vectors,
            there=there,
            groups=groups,
            centred=run is None,
            by=by,
            index=settings,
        )
        for label, names in columns.items()
    }

    counts = {label: Counter[str]() for label in judges}
    unfinished = output.with_name(output.name + ".unfinished")
    done = 0
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["clip_id", "mode", *(c for one in judges for c in _header(one, top))])
            for block in blocks(features, ids, run, memory_bytes=memory_bytes):
                cells = [judge.cells(block, top, abstain_below) for judge in judges.values()]
                for count, (_, status) in zip(counts.values(), cells, strict=True):
                    count.update(status)
                modes = _modes(block, parts)
                for i, clip in enumerate(block.ids):
                    writer.writerow([clip, modes[i], *(c for rows, _ in cells for c in rows[i])])
                done += len(block.ids)
                if progress:
                    progress(done, len(ids), f"{done} of {len(ids)} clips labelled")
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    return {
        "output": str(output),
        "clips": len(ids),
        "in_support": sum(clip in known for clip in ids),
        "mode": cell[0],
        "projection": str(projection or NONE),
        "features": {modality: feature.name for modality, feature in features.items()},
        "by": by,
        "index": index,
        "seconds": round(time.monotonic() - begun, 3),
        "labels": [
            {**judge.told(), **{s: counts[label][s] for s in (ANSWERED, ABSTAINED, NO_ROWS)}}
            for label, judge in judges.items()
        ],
    }


@dataclass(kw_only=True, eq=False)
class _Judge:
    """One label column: a classifier for each set of modalities that a clip may have."""

    label: str
    names: Sequence[str]  # of the support clips; "" where one has none
    vectors: Mapping[str, Float[Tensor, "S _"]]
    there: Mapping[str, Bool[Tensor, "S"]]
    groups: Int64[Tensor, "S"] | None
    centred: bool  # stored vectors have a mean that says nothing; a trained space has none
    by: str
    index: Inverted | None
    fitted: dict[tuple[str, ...], Classifier] = field(default_factory=dict)
    recall: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        has = torch.stack(list(self.there.values())).any(0)
        named = torch.tensor([name != "" for name in self.names])
        self.classes = sorted({name for name in self.names if name})
        self.usable = has & named
        self.without_rows = int((named & ~has).sum())
        seen = {self.names[i] for i in torch.nonzero(self.usable)[:, 0].tolist()}
        self.lost = [name for name in self.classes if name not in seen]  # never an answer
        if not seen:
            raise InputError(
                f"no support clip with a {self.label} has rows to judge by; name others or another "
                "mode"
            )
        self.origin = {p: self._middle(p) for p in self.there}
        self.classifier(tuple(self.there))  # so that what is wrong is said before the first row

    def _middle(self, part: str) -> Float[Tensor, "D"]:
        """The mean of the classes' means: from the support alone, however uneven it is."""
        x = self.vectors[part]
        use = self.usable & self.there[part]
        names = [self.names[i] for i in torch.nonzero(use)[:, 0].tolist()]
        if not self.centred or len(set(names)) < 2:
            return torch.zeros_like(x[0])
        many = Counter(names)
        weight = torch.tensor([1 / (len(many) * many[name]) for name in names])
        return (F.normalize(x[use], dim=-1) * weight[:, None]).sum(0)

    def _unit(self, part: str, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return F.normalize(F.normalize(x, dim=-1) - self.origin[part], dim=-1)

    def classifier(self, parts: tuple[str, ...]) -> Classifier:
        """For clips that have exactly these."""
        if parts not in self.fitted:
            some = self.usable & torch.stack([self.there[p] for p in parts]).any(0)
            place = torch.nonzero(some)[:, 0]
            there = [self.there[p][place] for p in parts]
            code = {name: c for c, name in enumerate(self.classes)}
            class_ids = torch.tensor(
                [code[self.names[i]] for i in place.tolist()], dtype=torch.int64
            )
            support = Support(
                vectors=tuple(
                    self._unit(p, self.vectors[p][place]) * is_[:, None]
                    for p, is_ in zip(parts, there, strict=True)
                ),
                there=tuple(there),
                class_ids=class_ids,
                classes=len(self.classes),
                groups=None if self.groups is None else self.groups[place],
            )
            self.fitted[parts] = fit(support, by=self.by, index=self.index)
        return self.fitted[parts]

    def cells(
        self, block: EmbeddedBatch, top: int, abstain_below: float
    ) -> tuple[list[list[str]], list[str]]:
        """Of each clip of a block the cells under `_header`, and what became of it."""
        rows = [["", NO_ROWS, "", *[""] * (2 * top)] for _ in block.ids]
        statuses = [NO_ROWS] * len(block.ids)
        for parts, place in _by_parts(block, tuple(self.there)):
            if not any(bool((self.usable & self.there[p]).any()) for p in parts):
                continue  # heard only, where nothing in the support is heard
            classifier = self.classifier(parts)
            joined = torch.cat([self._unit(p, block.vectors[p][place]) for p in parts], dim=-1)
            if not classifier.gallery.exact:
                key = "+".join(parts)
                if key not in self.recall:
                    self.recall[key] = classifier.gallery.recall(joined, classifier.neighbours)
            found = classifier.answers(joined, top)
            for i, class_ids, shares, novelty in zip(
                place.tolist(), *(x.tolist() for x in found), strict=True
            ):
                sure = class_ids[0] >= 0 and shares[0] >= abstain_below
                statuses[i] = ANSWERED if sure else ABSTAINED
                rows[i] = [
                    self.classes[class_ids[0]] if sure else "",
                    statuses[i],
                    "" if novelty != novelty else f"{novelty:.4f}",
                ]
                for code, share in zip(class_ids, shares, strict=True):
                    rows[i] += ["", ""] if code < 0 else [self.classes[code], f"{share:.4f}"]
        return rows, statuses

    def told(self) -> dict[str, Any]:
        """What is to be said of this column."""
        told: dict[str, Any] = {
            "label": self.label,
            "classes": len(self.classes),
            "support": int(self.usable.sum()),
            "support_without_rows": self.without_rows,
            "classes_without_rows": self.lost,
            "calibration": [
                {"parts": "+".join(parts), **asdict(classifier.calibration)}
                for parts, classifier in self.fitted.items()
            ],
        }
        if self.index is not None:
            told["recall"] = self.recall
        return told


def _header(label: str, top: int) -> list[str]:
    ranks = (f"{label}_{k}" for k in range(1, top + 1))
    return [label, f"{label}_status", f"{label}_novelty"] + [
        column for rank in ranks for column in (rank, f"{rank}_confidence")
    ]


def _by_parts(
    block: EmbeddedBatch, parts: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Int64[Tensor, "Q"]]]:
    """Clips that have the same modalities, and which; clips without any are in none."""
    has = torch.stack([block.there[p] for p in parts])
    for pattern in torch.unique(has, dim=1).T:
        if pattern.any():
            own = tuple(p for p, is_ in zip(parts, pattern.tolist(), strict=True) if is_)
            yield own, torch.nonzero((has == pattern[:, None]).all(0))[:, 0]


def _modes(block: EmbeddedBatch, parts: tuple[str, ...]) -> list[str]:
    """What each clip was judged by: v, a, av or nothing."""
    letters = [{"visual": "v", "audio": "a"}.get(p, p) for p in parts]
    has = torch.stack([block.there[p] for p in parts]).T.tolist()
    return ["".join(sorted(x for x, is_ in zip(letters, one, strict=True) if is_)) for one in has]


def _labels(table: Manifest, label: str) -> list[str]:
    """A label a clip, "" where it has none.

    Raises:
        UnknownColumn: says which there are.
        InputError: a cell with several labels, or no label at all.
    """
    if label not in table.label_columns:
        raise UnknownColumn(
            f"the support has no column {label!r}; there are {choices(label, table.label_columns)}"
        )
    cells = table.labels(label)
    if several := [i for i, cell in enumerate(cells) if len(cell) > 1]:
        raise InputError(
            f"{len(several)} support clips have several labels in column {label!r} (first "
            f"{table.clip_ids[several[0]]!r}); give each clip one, or each question its own column"
        )
    names = [cell[0] if cell else "" for cell in cells]
    if not any(names):
        raise InputError(f"no clip of the support has a label in column {label!r}; fill it in")
    return names


def _groups(kept: Manifest | None, table: Manifest, group: str | None) -> Int64[Tensor, "S"] | None:
    """Equal numbers for support clips of one source, as the support or else the store says."""
    if group == "none":
        return None
    name = group or "group"
    if name in table.columns:
        cells = table.column(name)
    elif kept is not None and name in kept.columns:
        of = dict(zip(kept.clip_ids, kept.column(name), strict=True))
        cells = tuple(of.get(clip, "") for clip in table.clip_ids)
    elif group is None:
        return None
    else:
        known = [*table.columns, *(kept.columns if kept else ())]
        raise UnknownColumn(f"no column {group!r}; there are {choices(group, known)}")
    keys = [("of", cell) if cell else ("alone", str(i)) for i, cell in enumerate(cells)]
    code = {key: c for c, key in enumerate(dict.fromkeys(keys))}
    return torch.from_numpy(np.array([code[key] for key in keys], np.int64))
