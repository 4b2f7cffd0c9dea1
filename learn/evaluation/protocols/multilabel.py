"""Several labels a clip: one logistic regression per label, thresholds from the val split.

mAP is the mean over labels that a scored clip has. A label's threshold is the one with the best F1
on the val split; without such a split, or without a clip there that has the label, it is one half,
and the finding says so. Regularisation is chosen on the val split too, by mAP.

Several senses are joined as `fusion` says (`_senses.py`), by default by weights, which are the same
for all labels.

Shapes: V = clips, C = labels, D = size of a vector.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from learn.data.evaluation_set import EvaluationSet
from learn.evaluation import metrics
from learn.evaluation.protocols import Finding, Material, _logistic, _senses
from learn.evaluation.wording import JOINED_BY
from store.errors import InputError
from store.settings import Settings, setting

HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the protocol `multilabel`."""

    # inverse regularisation; 0: chosen on the val split, 1 where there is none
    c: float = setting(0.0, at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLabel:
    """A probe for each label of clips that may have several."""

    config: Config
    joins: tuple[str, ...] = JOINED_BY

    def __call__(self, material: Material) -> Iterator[Finding]:
        """The findings about every label, projection and pair of modes."""
        if not material.has(material.train_split):
            raise InputError(
                f"there is no split {material.train_split!r} beside {material.split!r} to fit "
                "labels on; name one with `train_split`"
            )
        for label in material.labels:
            train, of_train, names = _labelled(material, material.train_split, label, None)
            scored, truth, _ = _labelled(material, material.split, label, names)
            val = None
            if material.has(material.val_split):
                val = _labelled(material, material.val_split, label, names)[:2]
            for projection in material.runs:
                vectors = {
                    name: material.vectors(clips, projection)
                    for name, clips in (("train", train), ("scored", scored), *(_named(val)))
                }
                for cell, fusion in material.ways():
                    fit_on, queries = (
                        _senses.views(material, vectors[name], projection, cell, side, fusion)
                        for side, name in enumerate(("train", "scored"))
                    )
                    tuned = None
                    if val is not None:
                        x = _senses.views(material, vectors["val"], projection, cell, 1, fusion)
                        tuned = x, val[1]
                    c, thresholds = self.config.c or 1.0, np.full(len(names), HALF)
                    if tuned is not None:
                        c = self.config.c or _best_c(fit_on, of_train, *tuned)
                    of_views, converged = _probabilities(fit_on, of_train, queries, c)
                    of_val = None if tuned is None else _probabilities(
                        fit_on, of_train, tuned[0], c
                    )[0]  # fmt: skip
                    weights = None
                    if fusion == _senses.WEIGHTED and len(fit_on) > 1:
                        told = _held_out(fit_on, of_train, train.clips.groups, c)
                        if tuned is not None and of_val is not None:
                            told = of_val, tuned[1]
                        weights = _weights(*told)
                    scores = _joined(of_views, weights)
                    if tuned is not None and of_val is not None:
                        thresholds = metrics.best_thresholds(
                            _joined(of_val, weights), tuned[1], HALF
                        )
                    values, each = metrics.multilabel(scores, truth, thresholds, names)
                    unlearnt = [names[i] for i in np.flatnonzero(~of_train.any(0))]
                    yield material.finding(
                        scored, projection, cell, values, label=label, classes=each,
                        about={
                            "fitted_on": material.train_split,
                            "thresholds_from": material.val_split if val else "one half",
                            "c": c,
                            "converged": converged,
                            "labels_without_clips_to_learn_from": unlearnt,
                            **_senses.said(material, cell, fusion, [weights]),
                        },
                    )  # fmt: skip


def _named(
    val: tuple[EvaluationSet, Bool[np.ndarray, "V C"]] | None,
) -> list[tuple[str, EvaluationSet]]:
    return [("val", val[0])] if val else []


def _labelled(
    material: Material, split: str, label: str, names: list[str] | None
) -> tuple[EvaluationSet, Bool[np.ndarray, "V C"], list[str]]:
    """The clips of a split with one label at least, which labels they have, and their names.

    Raises:
        InputError: there is none.
    """
    everything = material.evaluation_set(split, None)
    of_clip = dict(zip(material.manifest.clip_ids, material.manifest.labels(label), strict=True))
    cells = [of_clip[clip] for clip in everything.clips.ids]
    names = sorted({name for cell in of_clip.values() for name in cell}) if names is None else names
    column = {name: i for i, name in enumerate(names)}
    truth = np.zeros((len(cells), len(names)), bool)
    for row, cell in zip(truth, cells, strict=True):
        row[[column[name] for name in cell]] = True
    labelled = np.asarray(truth.any(axis=1))
    if not labelled.any():
        raise InputError(f"no clip of split {split!r} has a label in column {label!r}")
    return everything.keep(labelled), truth[labelled], names


def _probabilities(
    fit_on: Sequence[Float[np.ndarray, "V _"]],
    truth: Bool[np.ndarray, "V C"],
    queries: Sequence[Float[np.ndarray, "Q _"]],
    c: float,
) -> tuple[list[Float[np.ndarray, "Q C"]], bool]:
    """What the probes of each view say of each label for each query; and whether every solver
    converged."""
    found, converged = [], True
    for x, asked in zip(fit_on, queries, strict=True):
        probabilities = np.zeros((len(asked), truth.shape[1]))
        for i in np.flatnonzero(truth.any(0)):
            predict, label_converged = _logistic.fit(x, truth[:, i].astype(np.int64), 2, c)
            probabilities[:, i] = predict(asked)[:, 1]
            converged = converged and label_converged
        found.append(probabilities)
    return found, converged


def _joined(
    of_views: Sequence[Float[np.ndarray, "Q C"]], weights: Sequence[float] | None
) -> Float[np.ndarray, "Q C"]:
    """The probability of each label, from those of every view."""
    if len(of_views) == 1:
        return of_views[0]
    both = _senses.joined([_each_a_question(x) for x in of_views], weights)
    return both[:, 1].reshape(of_views[0].shape)


def _each_a_question(x: Float[np.ndarray, "V C"]) -> Float[np.ndarray, "_ 2"]:
    """Probabilities that a clip lacks or has a label, a row for each clip and label."""
    return np.stack([1 - x, x], axis=-1).reshape(-1, 2)


def _weights(
    of_views: Sequence[Float[np.ndarray, "V C"]], truth: Bool[np.ndarray, "V C"]
) -> tuple[float, ...]:
    """The weights that make all labels of these clips likely."""
    questions = [_each_a_question(x) for x in of_views]
    return _senses.weights_of(questions, truth.reshape(-1).astype(np.int64))


def _held_out(
    fit_on: Sequence[Float[np.ndarray, "V _"]],
    truth: Bool[np.ndarray, "V C"],
    groups: Int[np.ndarray, "V"] | None,
    c: float,
) -> tuple[list[Float[np.ndarray, "_ C"]], Bool[np.ndarray, "_ C"]]:
    """What probes on four fifths of the clips say of the others, and the labels of these."""
    own = np.arange(len(truth)) if groups is None else groups
    names, of_clip = np.unique(own, return_inverse=True)
    out = (
        np.random.default_rng(_senses.RANDOM).permutation(len(names))[of_clip] % _senses.FIFTH == 0
    )
    if not out.any() or out.all():
        return [np.full((1, truth.shape[1]), HALF)] * len(fit_on), truth[:1]
    said, _ = _probabilities([x[~out] for x in fit_on], truth[~out], [x[out] for x in fit_on], c)
    return said, truth[out]


def _best_c(
    fit_on: Sequence[Float[np.ndarray, "V _"]],
    truth: Bool[np.ndarray, "V C"],
    tuned: Sequence[Float[np.ndarray, "Q _"]],
    tuned_truth: Bool[np.ndarray, "Q C"],
) -> float:
    """The regularisation with the highest mAP on the val split, of all views evenly; the strongest
    of equals."""
    half, names = np.full(truth.shape[1], HALF), [""] * truth.shape[1]
    mean_precision = {}
    for c in _logistic.GRID:
        said, _ = _probabilities(fit_on, truth, tuned, c)
        values, _ = metrics.multilabel(_joined(said, None), tuned_truth, half, names)
        mean_precision[c] = values["map"]
    return max(mean_precision, key=mean_precision.__getitem__)


def build(config: Config) -> MultiLabel:
    """The protocol that these settings describe."""
    return MultiLabel(config=config)
