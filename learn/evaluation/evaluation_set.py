"""The clips that a call scores, their rows in every modality, and the vectors made of them.

Shapes: V = clips, D = size of a vector.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from learn.data.clips import Clips, Rows, choose_feature, load_clips, load_rows
from learn.fewshot import modes
from learn.training.runs import Run, load_run
from store.errors import InputError

if TYPE_CHECKING:
    from store import Feature, Manifest, Store

NONE = "none"  # the projection that is none: stored vectors as they are


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationSet:
    """Clips with rows in every modality in play."""

    clips: Clips
    rows: Mapping[str, Rows]
    dropped: Mapping[str, int]  # how many lack a label, or rows of a modality

    def keep(self, wanted: Bool[np.ndarray, "V"]) -> "EvaluationSet":
        """Only these clips."""
        rows = {modality: rows.keep(wanted) for modality, rows in self.rows.items()}
        return replace(self, clips=self.clips.keep(wanted), rows=rows)


def where_is(path: str | Path) -> str:
    """A path that holds wherever it is read; an address stays as it is."""
    return str(path) if "://" in str(path) else str(Path(path).resolve())


def runs_of(projections: Sequence[str | Path]) -> dict[str, Run | None]:
    """By name: the runs of these directories, each once; "none", or no name, is stored vectors."""
    paths = dict.fromkeys(map(str, projections or (NONE,)))
    return {path: None if path == NONE else load_run(Path(path)) for path in paths}


def features_of(
    store: "Store", runs: Mapping[str, Run | None], asked: Mapping[str, str | None]
) -> dict[str, "Feature"]:
    """By modality: the feature asked for, the one a run was trained on, or the only one."""
    found = {}
    for modality, name in asked.items():
        trained = (run.features.get(modality) for run in runs.values() if run)
        there = (one for one in trained if one in store.features)
        feature = choose_feature(store, modality, name or next(there, None))
        if feature is None:
            continue
        for run in filter(None, runs.values()):
            run.check(feature)
        found[modality] = feature
    return found


def same_feature(store: "Store", name: str) -> "Feature":
    """The feature of that very name in another store.

    Raises:
        InputError: there is none, so rows could not be compared.
    """
    if name not in store.features:
        raise InputError(
            f"{store.path} has no feature {name}, so its clips cannot be compared; extract it "
            f"there with the same encoder and settings (it has: {', '.join(store.features)})"
        )
    return store[name]


def modalities_of(cells: Sequence[tuple[str, str]]) -> set[str]:
    """What the modes of these comparisons look at."""
    return {modality for cell in cells for mode in cell for modality in modes.MODES[mode]}


def in_play(
    features: Mapping[str, "Feature"],
    cells: Sequence[tuple[str, str]],
    *,
    beside: Collection[str] = (),
) -> dict[str, "Feature"]:
    """The features that some mode needs, or a head `beside` them: only they decide which clips are
    scored.
    """
    wanted = modalities_of(cells)
    if not wanted:
        raise InputError("no visual or audio feature to score; run: extract run MANIFEST")
    if missing := sorted(wanted - set(features)):
        raise InputError(
            f"the modes asked for need {missing[0]} features, and the store has none; run: "
            f"extract run MANIFEST --{missing[0]} SPEC"
        )
    return {m: feature for m, feature in features.items() if m in wanted or m in beside}


def load_evaluation_set(
    manifest: "Manifest",
    features: Mapping[str, "Feature"],
    *,
    split: str,
    label: str | None,
    group: str | None,
    several: bool = False,
) -> EvaluationSet:
    """The clips of a split that have rows in every modality, and a label where one is named; any
    number of labels with `several`."""
    clips = load_clips(manifest, split=split, label=label, group=group, several=several)
    rows = {modality: load_rows(feature, clips.ids) for modality, feature in features.items()}
    usable = {modality: r.valid for modality, r in rows.items()}
    if label:
        usable["label"] = clips.labelled
    dropped = {f"no {what}": int((~has).sum()) for what, has in usable.items()}
    side = EvaluationSet(clips=clips, rows=rows, dropped=dropped)
    return side.keep(np.logical_and.reduce(list(usable.values())))


def vectors_of(rows: Mapping[str, Rows], run: Run | None) -> dict[str, Float[Tensor, "V _"]]:
    """One vector per clip and modality: the mean row, or a unit vector in the common space."""
    if run is not None:
        return run.embed(rows)
    return {modality: one.means() for modality, one in rows.items()}
