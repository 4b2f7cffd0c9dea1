"""The protocol of MVEB's classification (mteb): logistic regression on 8 clips a label, 10 draws.

Of each draw the train split is shuffled anew, the first 8 clips of each label are learnt from, and
all clips of the scored split are asked about; a number is the mean over the draws. Vectors are
taken as they are. Every draw begins with the same seed and shuffles what the last one left, as
mteb does, so that numbers are equal to its own where rows stand in the order of their clip ids.
With `folds` there is no other split: mteb's cross-validation.

Beside mteb's numbers: the half width of the 95 % interval over draws and, where groups are known,
the accuracy with training clips left out whose group is asked about.

Shapes: V = training clips, Q = clips asked about, D = size of a vector.
Source: Enevoldsen et al., ICLR 2025 (MMTEB), and mteb's `AbsTaskClassification`.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from learn.data.clips import Clips, group_names
from learn.data.evaluation_set import EvaluationSet
from learn.evaluation.protocols import Finding, Material
from learn.fewshot.statistics import METHODS, ci95
from store.errors import ConfigError, InputError
from store.settings import Settings, setting

ITERATIONS = 100
TWO = 2  # labels at least

Half = tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]  # to draw from, to ask about


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the protocol `mveb`; the defaults are mteb's."""

    samples: int = setting(8, at_least=1)  # training clips of a label in a draw
    draws: int = setting(10, at_least=2)
    folds: int = setting(0, at_least=0)  # cross-validation within the scored split; mteb has 5
    seed: int = setting(42, at_least=0)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.folds == 1:
            raise ConfigError("mveb: folds=1 is neither 0 nor 2 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mveb:
    """Logistic regression on a few clips of each label, drawn several times."""

    config: Config

    def __call__(self, material: Material) -> Iterator[Finding]:
        """The findings about every label, projection and pair of modes."""
        config = self.config
        for label in material.labels:
            scored = material.evaluation_set(material.split, label)
            train = scored if config.folds else self._train(material, label)
            names, asked = (np.array(_names(part.clips)) for part in (train, scored))
            if len(set(names)) < TWO:
                raise InputError(f"the {train.clips.split} clips have one {label}; it takes two")
            halves = _halves(config, len(names), len(asked))
            apart, about = _apart(material, train.clips, scored.clips, halves)
            for projection in material.runs:
                of_train = material.vectors(train, projection)
                of_scored = material.vectors(scored, projection)
                for cell in material.modes():
                    problem = _Problem(
                        x=material.pair(of_train, projection, cell).support.numpy(),
                        labels=names,
                        queries=material.pair(of_scored, projection, cell).query.numpy(),
                        asked=asked,
                    )
                    scores = problem.scores(config, halves)
                    metrics = dict(scores.metrics)
                    if apart is not None:
                        guarded = scores if apart is halves else problem.scores(config, apart)
                        for name in ("accuracy", "accuracy_ci95"):
                            metrics[name.replace("accuracy", "accuracy_apart")] = guarded.metrics[
                                name
                            ]
                    yield material.finding(
                        scored, projection, cell, metrics, label=label,
                        about={**about, "converged": scores.converged},
                    )  # fmt: skip

    def _train(self, material: Material, label: str) -> EvaluationSet:
        if not material.has(material.train_split):
            raise InputError(
                f"there is no split {material.train_split!r} beside {material.split!r} to draw "
                "from; name one with `train_split`, or use `protocol` mveb:folds=5"
            )
        return material.evaluation_set(material.train_split, label)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scores:
    metrics: Mapping[str, float]  # means over draws
    converged: bool  # did every solver


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Problem:
    """Clips to learn from and clips to ask about, in one mode."""

    x: Float[np.ndarray, "V D"]
    labels: Shaped[np.ndarray, "V"]
    queries: Float[np.ndarray, "Q D"]
    asked: Shaped[np.ndarray, "Q"]

    def scores(self, config: Config, halves: Sequence[Half]) -> _Scores:
        """The mean metrics over draws from these halves."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        each, converged = [], True
        for (_, held), chosen in zip(halves, drawn(config, halves, self.labels), strict=True):
            model = LogisticRegression(max_iter=ITERATIONS, random_state=config.seed)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                model.fit(self.x[chosen], self.labels[chosen])
            converged &= not any(issubclass(w.category, ConvergenceWarning) for w in caught)
            each.append(_metrics(self.asked[held], model.predict(self.queries[held])))
        accuracy = np.array([metrics["accuracy"] for metrics in each])
        means = {name: float(np.mean([m[name] for m in each])) for name in each[0]}
        interval = ci95(accuracy, METHODS[0])
        return _Scores(metrics={**means, "accuracy_ci95": interval or 0.0}, converged=converged)


def drawn(
    config: Config, halves: Sequence[Half], labels: Shaped[np.ndarray, "V"]
) -> Iterator[Int[np.ndarray, "_"]]:
    """The clips that each draw learns from: the first of each label in a shuffled order."""
    order: list[int] = []
    for pool, _ in halves:
        if not order or len(order) > len(pool):
            order = list(range(len(pool)))
        # The seed is the same each time: what differs is the order that is shuffled.
        np.random.RandomState(config.seed).shuffle(order)
        count: Counter[str] = Counter()
        chosen = []
        for clip in pool[order].tolist():
            if count[labels[clip]] < config.samples:
                count[labels[clip]] += 1
                chosen.append(clip)
        yield np.array(chosen, np.int64)


def _halves(config: Config, train: int, asked: int) -> list[Half]:
    """The clips to draw from and those to ask about, of each draw."""
    if not config.folds:
        return [(np.arange(train), np.arange(asked))] * config.draws
    from sklearn.model_selection import KFold

    folds = min(config.folds, train)
    split = KFold(n_splits=folds, shuffle=True, random_state=config.seed)
    return [(held_in, held) for held_in, held in split.split(np.arange(train))]


def _apart(
    material: Material, train: Clips, scored: Clips, halves: list[Half]
) -> tuple[list[Half] | None, dict[str, Any]]:
    """The halves without training clips of groups that are asked about, and what to say of them;
    None where no groups are known, or too little would be left."""
    of_clip = group_names(material.manifest, material.group)
    if of_clip is None:
        return None, {"groups": "not known; `learn groups` finds them"}
    own, others = (np.array([of_clip[clip] for clip in part.ids]) for part in (train, scored))
    apart = [(pool[~np.isin(own[pool], others[held])], held) for pool, held in halves]
    left_out = max(
        len(pool) - len(rest) for (pool, _), (rest, _) in zip(halves, apart, strict=True)
    )
    about = {"train_clips_of_groups_asked_about": left_out}
    if not left_out:
        return halves, about
    lost = max(len(train.classes) - len(np.unique(train.class_ids[rest])) for rest, _ in apart)
    if lost:
        about["labels_not_learnt_apart"] = lost
    return (apart if lost <= len(train.classes) - TWO else None), about


def _metrics(
    asked: Shaped[np.ndarray, "_"], predicted: Shaped[np.ndarray, "_"]
) -> dict[str, float]:
    """The metrics of mteb's classification, under its names."""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    values = {"accuracy": float((asked == predicted).mean())}
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            asked, predicted, average=average, zero_division=0
        )
        suffix = "" if average == "macro" else "_weighted"
        values |= {f"f1{suffix}": f1, f"precision{suffix}": precision, f"recall{suffix}": recall}
    names = np.unique(asked)
    if len(names) == TWO and set(predicted) <= set(names):
        right, chosen = asked == names[1], predicted == names[1]
        values["ap"] = average_precision_score(right, chosen.astype(float))
    return {name: float(value) for name, value in values.items()}


def _names(clips: Clips) -> list[str]:
    return [clips.classes[c] for c in clips.class_ids]


def build(config: Config) -> Mveb:
    """The protocol that these settings describe."""
    return Mveb(config=config)
