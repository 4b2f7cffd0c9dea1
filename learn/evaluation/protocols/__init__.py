"""Protocols of `learn evaluate`: stored features and trained runs in, findings out.

Each plug-in offers `Config` and `build(config) -> EvaluationProtocol`. A protocol yields numbers
and knows nothing of how they are shown; `Material` gives it clips, labels and vectors, and adds to
its findings what must be known to quote them.

Shapes: V = clips, D = size of a vector.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from learn.data.clips import splits
from learn.data.evaluation_set import EvaluationSet, load_evaluation_set
from learn.data.other_classes import other_classes
from learn.data.seen_media import seen_by_encoder
from learn.evaluation import calibration
from learn.evaluation.confusion import matrix_of
from learn.evaluation.metrics import OfClass
from learn.evaluation.wording import JOINED_BY
from learn.fewshot import modes as views
from learn.fewshot.fusions import FAMILY as FUSIONS
from learn.fewshot.fusions import Prior
from learn.fewshot.heads import Head
from learn.fewshot.sense_prior import Like
from learn.inference.seen_classes import prior_by
from learn.inference.selection import modalities_of, vectors_of
from learn.training.runs import Run
from store import plugins
from store.errors import InputError

if TYPE_CHECKING:
    from store import Feature, Manifest

FAMILY = "learn.evaluation.protocols"
BY_COSINE = "prototypes:metric=cosine"  # a head that compares single clips
_, _, WEIGHTED = JOINED_BY


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The metrics of one label column, projection and pair of modes."""

    label: str
    projection: str
    support: str  # the mode learnt from, or of the gallery
    query: str  # the mode answered in
    clips: int  # that were scored
    metrics: Mapping[str, float]
    classes: tuple[OfClass, ...]
    about: Mapping[str, Any]  # what else must be known to read the numbers
    untrained: bool
    seen_in_training: int  # clips scored here that projection or encoder was trained on
    # What every class was taken for, and confidence against truth: kept in answers.json.
    answers: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        return {
            "label": self.label,
            "projection": self.projection,
            "support": self.support,
            "query": self.query,
            "clips": self.clips,
            "metrics": dict(self.metrics),
            "classes": [row.to_dict() for row in self.classes],
            **self.about,
            "untrained": self.untrained,
            "seen_in_training": self.seen_in_training,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """The clips, labels and vectors of a protocol. All its findings are about the same clips."""

    manifest: "Manifest"
    features: Mapping[str, "Feature"]
    runs: Mapping[str, Run | None]
    labels: Sequence[str]
    split: str  # scored
    train_split: str
    val_split: str
    group: str | None
    support: Sequence[str]  # modes asked for
    query: Sequence[str]
    seed: int
    fusions: Sequence[str] = ()  # how senses are to be joined; none: as the protocol would
    _loaded: dict[tuple[str, str | None], EvaluationSet] = field(default_factory=dict)

    def has(self, split: str) -> bool:
        """Whether there is such a split, apart from the one scored."""
        return split != self.split and self.split != "all" and split in splits(self.manifest)

    def evaluation_set(self, split: str, label: str | None) -> EvaluationSet:
        """The clips of a split with rows in every modality in play and, if one is named, a label.

        Raises:
            InputError: there is none.
        """
        key = (split, label)
        if key not in self._loaded:
            loaded = load_evaluation_set(
                self.manifest, self.features, split=split, label=label, group=self.group
            )
            if not len(loaded.clips):
                lacking = ", ".join(f"{n} {reason}" for reason, n in loaded.dropped.items() if n)
                raise InputError(
                    f"split {split!r} has no clip to score ({lacking or 'it is empty'}); name "
                    "another split or label"
                )
            self._loaded[key] = loaded
        return self._loaded[key]

    def modes(self) -> list[tuple[str, str]]:
        """The pairs of modes asked for, or each mode with itself."""
        return views.cells(self.support, self.query, list(self.features))

    def joins(self, cell: tuple[str, str]) -> bool:
        """Whether a pair of modes looks at several senses at once, the same on both sides."""
        return cell[0] == cell[1] and len(views.senses_in(cell[0], self.features)) > 1

    def ways(self, asked: str = "") -> list[tuple[tuple[str, str], str]]:
        """The pairs of modes, and how each joins its senses: as asked, else as the call says, else
        by weights; "" of one sense."""
        fusions = (asked,) if asked else self.fusions or (WEIGHTED,)
        return [
            (cell, fusion)
            for cell in self.modes()
            for fusion in (fusions if self.joins(cell) else ("",))
        ]

    def prior(
        self, scored: EvaluationSet, projection: str, senses: Sequence[str], label: str
    ) -> Prior:
        """How much senses count where single clips are compared: as classes of the train and val
        splits say that are not scored, else as is shipped for the encoders."""
        others = None
        if self.split != "all":
            others = other_classes(
                self.manifest, self.features, asked=scored.clips.classes, label=label,
                group=self.group, scored_split=self.split,
            )  # fmt: skip
        head: Head = plugins.build("learn.fewshot.heads", BY_COSINE)
        like = Like(ways=5, shots=1, seed=self.seed, groups="within")
        run = self.runs[projection]
        found = prior_by(
            plugins.build(FUSIONS, WEIGHTED), head, self.features, senses, run, others, like
        )
        assert found is not None
        return found

    def vectors(self, scored: EvaluationSet, projection: str) -> dict[str, Float[Tensor, "V _"]]:
        """One vector per clip and modality."""
        return vectors_of(scored.rows, self.runs[projection])

    def pair(
        self, vectors: Mapping[str, Float[Tensor, "V _"]], projection: str, cell: tuple[str, str]
    ) -> views.Pair:
        """The vectors of support and query under a pair of modes."""
        return views.pair(vectors, *cell, common=self.runs[projection] is not None)

    def finding(
        self,
        scored: EvaluationSet,
        projection: str,
        cell: tuple[str, str],
        metrics: Mapping[str, float],
        *,
        label: str,
        classes: Sequence[OfClass] = (),
        clips: int | None = None,
        about: Mapping[str, Any] | None = None,
        answers: Mapping[str, Any] | None = None,
    ) -> Finding:
        """Metrics with the facts that must be known to quote them."""
        run = self.runs[projection]
        looked_at = modalities_of([cell])
        features = [
            feature
            for name, feature in self.features.items()
            if views.modality_of(name) in looked_at
        ]
        ids = frozenset(scored.clips.ids)
        seen = run.trained_on & ids if run else frozenset()
        seen = seen.union(*(seen_by_encoder(feature, ids) for feature in features))
        return Finding(
            label=label,
            projection=projection,
            support=cell[0],
            query=cell[1],
            clips=len(scored.clips) if clips is None else clips,
            metrics=metrics,
            classes=tuple(classes),
            about=about or {},
            untrained=any(bool(feature.notes.get("untrained")) for feature in features),
            answers=answers or {},
            seen_in_training=len(seen),
        )


@runtime_checkable
class EvaluationProtocol(Protocol):
    """A protocol: findings about the clips of `material.split`, the same for the same seed.

    One that can join senses in several ways names them in `joins`.
    """

    def __call__(self, material: Material) -> Iterator[Finding]:
        """The findings about every label, projection and pair of modes."""


def positions(names: Sequence[str], among: Sequence[str]) -> np.ndarray:
    """The index of each name among others, or -1."""
    index = {name: i for i, name in enumerate(among)}
    return np.array([index.get(name, -1) for name in names], np.int64)


def answers_of(
    probabilities: Float[np.ndarray, "V C"], class_ids: Int[np.ndarray, "V"], names: Sequence[str]
) -> dict[str, Any]:
    """What every class was taken for, and confidence against truth, as answers.json has them."""
    matrix = matrix_of(names, class_ids, probabilities.argmax(1))
    curve = calibration.of_probabilities(probabilities, class_ids).to_dict()
    return {"calibration": curve, **({} if matrix is None else {"matrix": matrix.to_dict()})}
