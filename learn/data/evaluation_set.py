"""The clips that a call scores, and their rows in every modality.

Shapes: V = clips.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from learn.data.clips import Clips, load_clips
from learn.data.rows import Rows, load_rows

if TYPE_CHECKING:
    from store import Feature, Manifest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationSet:
    """Clips that have rows in every modality in play, and these rows."""

    clips: Clips
    rows: Mapping[str, Rows]
    dropped: Mapping[str, int]  # how many lack a label, or rows of a modality
    vanished: tuple[str, ...] = ()  # classes of the split that have no clip left for lack of rows

    def keep(self, wanted: Bool[np.ndarray, "V"]) -> "EvaluationSet":
        """The set with only these clips."""
        rows = {modality: rows.keep(wanted) for modality, rows in self.rows.items()}
        return replace(self, clips=self.clips.keep(wanted), rows=rows)


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
    usable = {modality: stored.valid for modality, stored in rows.items()}
    if label:
        usable["label"] = clips.labelled
    dropped = {f"no {name}": int((~has).sum()) for name, has in usable.items()}
    everything = EvaluationSet(clips=clips, rows=rows, dropped=dropped)
    kept = everything.keep(np.logical_and.reduce(list(usable.values())))
    left = set(kept.clips.classes)
    return replace(kept, vanished=tuple(name for name in clips.classes if name not in left))
