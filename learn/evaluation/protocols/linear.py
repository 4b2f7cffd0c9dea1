"""Linear probe: logistic regression on one vector per clip, fitted on other clips.

It is fitted on the train split, its regularisation chosen on the val split where there is one; or,
with `folds=N`, on all folds but one of the scored split, clips of one group in one fold; or, with
`fold=COLUMN`, on all values of that column but one.

Several senses are joined as `fusion` says (`_senses.py`), by default by weights.

Shapes: V = clips, D = size of a vector, C = classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from learn.data.evaluation_set import EvaluationSet
from learn.evaluation import metrics
from learn.evaluation.protocols import (
    Finding,
    Material,
    _logistic,
    _senses,
    answers_of,
    positions,
)
from learn.evaluation.wording import JOINED_BY
from store.errors import ConfigError, InputError
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the protocol `linear`."""

    # inverse regularisation; 0: chosen on the val split, 1 where there is none
    c: float = setting(0.0, at_least=0)
    folds: int = setting(0, at_least=0)  # cross-validation within the scored split
    fold: str = ""  # the same, the folds being those of a column
    fusion: str = setting("", among=("", "early", "late", "weighted"))  # that of the call; weighted

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.folds == 1:
            raise ConfigError("linear: folds=1 is neither 0 nor 2 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A linear probe fitted on the train split, or on folds of the scored one."""

    config: Config
    joins: tuple[str, ...] = JOINED_BY

    def __call__(self, material: Material) -> Iterator[Finding]:
        """The findings about every label, projection and pair of modes."""
        for label in material.labels:
            scored = material.evaluation_set(material.split, label)
            if self.config.folds or self.config.fold:
                yield from self._across_folds(material, scored, label)
            else:
                yield from self._from_train(material, scored, label)

    def _from_train(
        self, material: Material, scored: EvaluationSet, label: str
    ) -> Iterator[Finding]:
        if not material.has(material.train_split):
            raise InputError(
                f"there is no split {material.train_split!r} beside {material.split!r} to fit a "
                "probe on; name one with `train_split`, or use `protocol` linear:folds=5"
            )
        train = material.evaluation_set(material.train_split, label)
        names = train.clips.classes
        known = positions(scored.clips.classes, names)
        if (known < 0).all():
            raise InputError(
                f"no class of split {material.split!r} is in {material.train_split!r}: the splits "
                "are for few-shot questions; use `protocol` linear:folds=5 to probe within one"
            )
        class_ids = known[scored.clips.class_ids]
        kept = scored.keep(class_ids >= 0)
        class_ids, unknown = class_ids[class_ids >= 0], int((class_ids < 0).sum())
        val = self._val(material, label, names)
        for projection in material.runs:
            of_train, of_kept = (material.vectors(clips, projection) for clips in (train, kept))
            of_val = material.vectors(val[0], projection) if val else None
            for cell, fusion in material.ways(self.config.fusion):
                fit_on, queries = (
                    _senses.views(material, x, projection, cell, side, fusion)
                    for side, x in enumerate((of_train, of_kept))
                )
                tuned = None
                if of_val and val:
                    tuned = _senses.views(material, of_val, projection, cell, 1, fusion), val[1]
                fitted = _fitted(
                    fit_on, train.clips.class_ids, train.clips.groups, len(names), self.config.c,
                    tuned, fusion,
                )  # fmt: skip
                probabilities = fitted.of(queries)
                values, each = metrics.classification(probabilities, class_ids, names)
                about = {"fitted_on": material.train_split, "c": fitted.c}
                about["converged"] = fitted.converged
                if unknown:
                    about["clips_of_unknown_classes"] = unknown
                about |= _senses.said(material, cell, fusion, [fitted.weights])
                yield material.finding(
                    kept, projection, cell, values, label=label, classes=each, about=about,
                    answers=answers_of(probabilities, class_ids, names),
                )  # fmt: skip

    def _val(
        self, material: Material, label: str, names: Sequence[str]
    ) -> tuple[EvaluationSet, Int[np.ndarray, "_"]] | None:
        """Clips to choose the regularisation on, with their class ids in the training."""
        if self.config.c or not material.has(material.val_split):
            return None
        val = material.evaluation_set(material.val_split, label)
        class_ids = positions(val.clips.classes, names)[val.clips.class_ids]
        kept = val.keep(class_ids >= 0)
        return (kept, class_ids[class_ids >= 0]) if len(kept.clips) else None

    def _across_folds(
        self, material: Material, scored: EvaluationSet, label: str
    ) -> Iterator[Finding]:
        folds = self._folds(material, scored)
        class_ids, names = scored.clips.class_ids, scored.clips.classes
        numbers = np.unique(folds)
        for projection in material.runs:
            vectors = material.vectors(scored, projection)
            for cell, fusion in material.ways(self.config.fusion):
                support, query = (
                    _senses.views(material, vectors, projection, cell, side, fusion)
                    for side in (0, 1)
                )
                probabilities, every = np.zeros((len(class_ids), len(names))), []
                groups = scored.clips.groups
                for fold in numbers:
                    held = folds == fold
                    fitted = _fitted(
                        [x[~held] for x in support], class_ids[~held],
                        None if groups is None else groups[~held], len(names), self.config.c,
                        None, fusion,
                    )  # fmt: skip
                    probabilities[held] = fitted.of([x[held] for x in query])
                    every.append(fitted)
                values, each = metrics.classification(probabilities, class_ids, names)
                correct = probabilities.argmax(1) == class_ids
                of_folds = [float(correct[folds == fold].mean()) for fold in numbers]
                values["top1_std_of_folds"] = float(np.std(of_folds))
                about: dict[str, Any] = {
                    "fitted_on": f"{len(numbers)} folds of {material.split}",
                    "c": every[-1].c,
                    "converged": all(fitted.converged for fitted in every),
                    **_senses.said(material, cell, fusion, [of.weights for of in every]),
                }
                yield material.finding(
                    scored, projection, cell, values, label=label, classes=each, about=about,
                    answers=answers_of(probabilities, class_ids, names),
                )  # fmt: skip

    def _folds(self, material: Material, scored: EvaluationSet) -> Int[np.ndarray, "V"]:
        """The fold of each clip.

        Raises:
            InputError: a class in fewer groups than folds.
        """
        clips = scored.clips
        if self.config.fold:
            cells = dict(
                zip(
                    material.manifest.clip_ids,
                    material.manifest.column(self.config.fold),
                    strict=True,
                )
            )
            names, folds = np.unique([cells[clip] for clip in clips.ids], return_inverse=True)
            if len(names) < 2:
                raise InputError(
                    f"column {self.config.fold!r} has one value; it takes two to cross"
                )
            return folds.astype(np.int64)
        from sklearn.model_selection import StratifiedGroupKFold

        groups = clips.groups if clips.groups is not None else np.arange(len(clips))
        fewest = min(
            len(np.unique(groups[clips.class_ids == c])) for c in range(len(clips.classes))
        )
        if fewest < self.config.folds:
            raise InputError(
                f"linear: folds={self.config.folds}, but a class has clips of {fewest} groups "
                "only; lower folds"
            )
        split = StratifiedGroupKFold(self.config.folds, shuffle=True, random_state=material.seed)
        folds = np.empty(len(clips), np.int64)
        for number, (_, held) in enumerate(split.split(clips.class_ids, clips.class_ids, groups)):
            folds[held] = number
        return folds


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """Probes of one question, and how they are joined."""

    probes: Sequence[_logistic.Predict]
    c: float
    converged: bool
    weights: tuple[float, ...] | None  # None: their mean

    def of(self, queries: Sequence[Float[np.ndarray, "_ _"]]) -> Float[np.ndarray, "_ _"]:
        """The probabilities of classes."""
        said = [probe(x) for probe, x in zip(self.probes, queries, strict=True)]
        return _senses.joined(said, self.weights)


def _fitted(
    fit_on: Sequence[Float[np.ndarray, "_ _"]],
    class_ids: Int[np.ndarray, "_"],
    groups: Int[np.ndarray, "_"] | None,
    classes: int,
    c: float,
    val: tuple[Sequence[Float[np.ndarray, "_ _"]], Int[np.ndarray, "_"]] | None,
    fusion: str,
) -> _Fitted:
    """The probes, with their regularisation and weights chosen."""
    best = c or 1.0
    if val and not c:
        accuracy = {}
        for candidate in _logistic.GRID:
            probes = [_logistic.fit(x, class_ids, classes, candidate)[0] for x in fit_on]
            total = sum(p(x) for p, x in zip(probes, val[0], strict=True))
            accuracy[candidate] = float((np.asarray(total).argmax(1) == val[1]).mean())
        best = max(accuracy, key=accuracy.__getitem__)
    fitted = [_logistic.fit(x, class_ids, classes, best) for x in fit_on]
    weights = None
    if fusion == _senses.WEIGHTED and len(fit_on) > 1:
        told = _senses.held_out(fit_on, class_ids, groups, classes, best) if val is None else (
            [probe(x) for (probe, _), x in zip(fitted, val[0], strict=True)], val[1]
        )  # fmt: skip
        weights = (1 / len(fit_on),) * len(fit_on) if told is None else _senses.weights_of(*told)
    return _Fitted(
        probes=[probe for probe, _ in fitted],
        c=best,
        converged=all(converged for _, converged in fitted),
        weights=weights,
    )


def build(config: Config) -> Linear:
    """The protocol that these settings describe."""
    return Linear(config=config)
