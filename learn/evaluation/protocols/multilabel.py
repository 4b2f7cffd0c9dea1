"""Several labels a clip: one logistic regression per label, thresholds from the val split.

mAP is the mean over labels that a scored clip has. A label's threshold is the one with the best F1
on the val split; without such a split, or without a clip there that has the label, it is one half,
and the finding says so. Regularisation is chosen on the val split too, by mAP.

Shapes: V = clips, C = labels, D = size of a vector.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from learn.data.evaluation_set import EvaluationSet
from learn.evaluation import metrics
from learn.evaluation.protocols import Finding, Material, _logistic
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
                for cell in material.modes():
                    pairs = {n: material.pair(x, projection, cell) for n, x in vectors.items()}
                    fit_on = pairs["train"].support.double().numpy()
                    queries = pairs["scored"].query.double().numpy()
                    tuned = pairs["val"].query.double().numpy() if val else None
                    c, thresholds = self.config.c or 1.0, np.full(len(names), HALF)
                    if tuned is not None and val is not None:
                        c = self.config.c or _best_c(fit_on, of_train, tuned, val[1])
                    scores, converged = _probabilities(fit_on, of_train, queries, c)
                    if tuned is not None and val is not None:
                        of_val, _ = _probabilities(fit_on, of_train, tuned, c)
                        thresholds = metrics.best_thresholds(of_val, val[1], HALF)
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
    fit_on: Float[np.ndarray, "V D"],
    truth: Bool[np.ndarray, "V C"],
    queries: Float[np.ndarray, "_ D"],
    c: float,
) -> tuple[Float[np.ndarray, "_ C"], bool]:
    """The probability of each label for each query, and whether every solver converged."""
    probabilities, converged = np.zeros((len(queries), truth.shape[1])), True
    for i in np.flatnonzero(truth.any(0)):
        predict, label_converged = _logistic.fit(fit_on, truth[:, i].astype(np.int64), 2, c)
        probabilities[:, i] = predict(queries)[:, 1]
        converged = converged and label_converged
    return probabilities, converged


def _best_c(
    fit_on: Float[np.ndarray, "V D"],
    truth: Bool[np.ndarray, "V C"],
    tuned: Float[np.ndarray, "_ D"],
    tuned_truth: Bool[np.ndarray, "_ C"],
) -> float:
    """The regularisation with the highest mAP on the val split; the strongest of equals."""
    half, names = np.full(truth.shape[1], HALF), [""] * truth.shape[1]
    mean_precision = {}
    for c in _logistic.GRID:
        probabilities, _ = _probabilities(fit_on, truth, tuned, c)
        values, _ = metrics.multilabel(probabilities, tuned_truth, half, names)
        mean_precision[c] = values["map"]
    return max(mean_precision, key=mean_precision.__getitem__)


def build(config: Config) -> MultiLabel:
    """The protocol that these settings describe."""
    return MultiLabel(config=config)
