"""Trainings without a descent: whitening, solved for each modality by itself.

How far the covariance is shrunk is told by episodes of classes that the solution did not see: the
val split's where it has classes of its own, else some of the train classes, others each time,
solved without and asked about. The mildest one stands unless the identity is better by more than
the difference's own standard error, and gives way to stronger ones only for such a gain; the power
likewise stands unless rows as they are do surely better. Without classes that could tell, rows stay
as they are; without labels, sources (column `group`) stand in for classes.

Shapes: V = clips, D = stored size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from learn.data.clips import UNLABELLED, Clips
from learn.fewshot.tasks import Episodes
from learn.models.embedder import Embedder
from learn.models.projections.whiten import SHRINKAGES, Whiten, map_of
from learn.training import unseen
from learn.training.dataset import TrainingData

FEWEST = 4  # classes, for two to ask about and two to solve from
ROUNDS, SHARE = 5, 4  # how often one class in so many is left out and asked about, two at least
_STREAM = 0x1DA


def solve(
    embedder: Embedder, data: TrainingData, val: TrainingData | None, seed: int
) -> tuple[dict[str, dict[str, Any]], str]:
    """Solve every modality's projection; what was tried and chosen, and by what, in words."""
    classes, noun = _classes(data.clips)
    facts: dict[str, dict[str, Any]] = {}
    what = f"nothing: too few {noun}, so stored rows are left as they are"
    for modality, first in embedder.firsts().items():
        projection = embedder.of(modality).get_submodule("projection")
        assert isinstance(projection, Whiten), "a closed form is whitening, so far"
        rows = data.rows[modality]
        there = (rows.counts > 0).cpu().numpy() & (classes != UNLABELLED)
        means = rows.means().cpu()
        clips = replace(_labelled(data.clips, classes), groups=None if noun != "classes" else
                        data.clips.groups).keep(there)  # fmt: skip
        kept = means[torch.from_numpy(there)]
        folds: list[_Fold] = []
        if val is not None:
            of_val = unseen.complete(val.clips, {modality: val.counts[modality]})
            asked = val.rows[modality].means().cpu()
            folds = [_Fold(kept, _ids(clips), asked, of_val, unseen.draw(of_val, seed))]
            what = f"episodes of {len(set(val.clips.class_ids.tolist()))} val classes"
        elif len(clips.classes) >= FEWEST:
            folds = list(_rounds(kept, clips, seed))
            what = f"episodes of some of {len(clips.classes)} {noun}, solved from the others"
        tried: dict[float, unseen.Scores] = {}
        if folds and all(fold.drawn for fold in folds):
            tried = _tried(projection, folds)
        else:
            projection.power.fill_(1)
        chosen = _chosen(tried)
        projection.place(*projection.solve(kept, _ids(clips)), chosen, first)
        facts[modality] = {
            "power": float(projection.power), "shrinkage": chosen, "clips": len(clips),
            noun: len(clips.classes), "accuracy": {str(a): x.mean for a, x in tried.items()},
        }  # fmt: skip
    return facts, what


class _Fold(NamedTuple):
    """Clips to solve from, and others to ask about."""

    means: Float[Tensor, "V D"]
    classes: Int[Tensor, "V"]
    asked: Float[Tensor, "W D"]
    clips: Clips  # those asked about
    drawn: tuple[Episodes, ...]

    def scores(self, vectors: Float[Tensor, "W D"]) -> unseen.Scores:
        """The accuracies of these vectors of the clips asked about."""
        return unseen.scores({"visual": vectors}, self.clips, self.drawn, None)


def _tried(projection: Whiten, folds: Sequence[_Fold]) -> dict[float, unseen.Scores]:
    """The scores of every shrinkage, with the power unless that is surely worse than none."""
    with_power = float(projection.power)
    plain = {1.0: _joined([fold.scores(_units(_fill(projection, 1), fold)) for fold in folds])}
    power = _joined([fold.scores(_units(_fill(projection, with_power), fold)) for fold in folds])
    _fill(projection, 1 if plain[1.0].better(power, power) else with_power)
    parts: dict[float, list[unseen.Scores]] = {a: [] for a in SHRINKAGES}
    for fold in folds:
        solution = projection.solve(fold.means, fold.classes)
        units = projection.units(fold.asked)
        for a in SHRINKAGES:
            parts[a].append(fold.scores(units @ map_of(*solution, a).T))
    return {a: _joined(of_one) for a, of_one in parts.items()}


def _fill(projection: Whiten, power: float | int) -> Whiten:
    projection.power.fill_(power)
    return projection


def _units(projection: Whiten, fold: _Fold) -> Float[Tensor, "W D"]:
    projection.settle(fold.means)
    return projection.units(fold.asked)


def _rounds(means: Float[Tensor, "V D"], clips: Clips, seed: int) -> Iterator[_Fold]:
    """Some classes to ask about, and the others to solve from, `ROUNDS` times."""
    rng = np.random.default_rng([seed, _STREAM])
    for _ in range(ROUNDS):
        order = rng.permutation(len(clips.classes))
        out = np.isin(clips.class_ids, order[: max(2, len(order) // SHARE)])
        asked, others, out_of = clips.keep(out), clips.keep(~out), torch.from_numpy(out)
        drawn = unseen.draw(asked, seed)
        yield _Fold(means[~out_of], _ids(others), means[out_of], asked, drawn)


def _joined(parts: Sequence[unseen.Scores]) -> unseen.Scores:
    return unseen.Scores(
        episodes=np.concatenate([part.episodes for part in parts], axis=1),
        classes=np.concatenate([part.classes for part in parts], axis=1),
    )


def _chosen(tried: Mapping[float, unseen.Scores]) -> float:
    """The mildest shrinkage but where the identity is surely better; less of it for sure gains."""
    if not tried:
        return 1.0
    best = SHRINKAGES[1]
    if tried[1.0].better(tried[best], tried[best]):
        return 1.0
    for a in SHRINKAGES[2:]:
        if tried[a].better(tried[best], tried[best]):
            best = a
    return best


def _classes(clips: Clips) -> tuple[Int32[np.ndarray, "V"], str]:
    """The class of every clip, or its source where there are no labels; and what these are."""
    if clips.labelled.any() and clips.targets is None:
        return clips.class_ids, "classes"
    if clips.groups is None:
        return np.full(len(clips), UNLABELLED, np.int32), "labels or groups"
    return np.unique(clips.groups, return_inverse=True)[1].astype(np.int32), "groups"


def _labelled(clips: Clips, classes: Int32[np.ndarray, "V"]) -> Clips:
    names = tuple(str(c) for c in range(int(classes.max(initial=-1)) + 1))
    return replace(clips, class_ids=classes, classes=names, targets=None)


def _ids(clips: Clips) -> Int[Tensor, "V"]:
    return torch.from_numpy(clips.class_ids).long()
