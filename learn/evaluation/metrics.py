"""Metrics of classification, of several labels a clip, and of retrieval.

Classes without a clip among those scored have no recall, so means over classes leave them out.

Shapes: V = clips, C = classes, Q = queries, G = gallery.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

RECALL_AT = (1, 5, 10)
TOP = 5
NUMBERS_AT_ONCE = 4_000_000
ROUNDING = 1e-12  # cosines in double precision that are closer are equal


@dataclass(frozen=True, slots=True, kw_only=True)
class OfClass:
    """The metrics of one class; None where a protocol does not measure one."""

    name: str
    clips: int
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    average_precision: float | None = None
    threshold: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The class as JSON has it, without what was not measured."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def classification(
    scores: Float[np.ndarray, "V C"], class_ids: Int[np.ndarray, "V"], classes: Sequence[str]
) -> tuple[dict[str, float], list[OfClass]]:
    """Top-1, top-5 (of more than 5 classes), macro-F1, balanced accuracy, and the share of the
    largest class, which is the accuracy of always predicting it; and the metrics of each class. Of
    equal scores the first class is predicted."""
    from sklearn.metrics import precision_recall_fscore_support

    ranked = np.argsort(-scores, axis=1, kind="stable")
    present, sizes = np.unique(class_ids, return_counts=True)
    precision, recall, f1, _ = precision_recall_fscore_support(
        class_ids, ranked[:, 0], labels=present, zero_division=0
    )
    values = {"top1": float((ranked[:, 0] == class_ids).mean())}
    if scores.shape[1] > TOP:
        values[f"top{TOP}"] = float((ranked[:, :TOP] == class_ids[:, None]).any(1).mean())
    values |= {
        "macro_f1": float(f1.mean()),
        "balanced_accuracy": float(recall.mean()),
        "largest_class": float(sizes.max() / len(class_ids)),
    }
    each = zip(present.tolist(), sizes, precision, recall, f1, strict=True)
    return values, [
        OfClass(name=classes[c], clips=int(n), precision=float(p), recall=float(r), f1=float(f))
        for c, n, p, r, f in each
    ]


def multilabel(
    scores: Float[np.ndarray, "V C"],
    truth: Bool[np.ndarray, "V C"],
    thresholds: Float[np.ndarray, "C"],
    classes: Sequence[str],
) -> tuple[dict[str, float], list[OfClass]]:
    """mAP and macro-F1 over classes with positives, micro-F1 over all predictions; and the metrics
    of each class."""
    from sklearn.metrics import average_precision_score

    predicted = scores >= thresholds
    hits = (predicted & truth).sum(0)
    predicted_clips, true_clips = predicted.sum(0), truth.sum(0)
    f1 = 2 * hits / np.maximum(predicted_clips + true_clips, 1)
    with_positives = np.flatnonzero(true_clips).tolist()
    precision = {
        c: float(average_precision_score(truth[:, c], scores[:, c])) for c in with_positives
    }
    values = {
        "map": float(np.mean(list(precision.values()))),
        "macro_f1": float(f1[with_positives].mean()),
        "micro_f1": float(2 * hits.sum() / max(1, (predicted_clips + true_clips).sum())),
        "labels_a_clip": float(truth.sum(1).mean()),
    }
    return values, [
        OfClass(
            name=classes[c],
            clips=int(true_clips[c]),
            precision=float(hits[c] / max(1, predicted_clips[c])),
            recall=float(hits[c] / true_clips[c]),
            f1=float(f1[c]),
            average_precision=precision[c],
            threshold=float(thresholds[c]),
        )
        for c in with_positives
    ]


def best_thresholds(
    scores: Float[np.ndarray, "V C"], truth: Bool[np.ndarray, "V C"], default: float
) -> Float[np.ndarray, "C"]:
    """For each class the threshold with the best F1 on these clips, between two scores; `default`
    for a class without a positive."""
    thresholds = np.full(scores.shape[1], default)
    for c in np.flatnonzero(truth.any(0)):
        order = np.argsort(-scores[:, c], kind="stable")
        sorted_scores, hits = scores[order, c], truth[order, c].cumsum()
        f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
        last_of_equals = np.append(sorted_scores[1:] < sorted_scores[:-1], True)
        best = int(np.argmax(np.where(last_of_equals, f1, -1)))
        below = sorted_scores[best + 1] if best + 1 < len(order) else sorted_scores[best]
        thresholds[c] = (sorted_scores[best] + below) / 2
    return thresholds


def retrieval(
    query: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    relevant: Int[Tensor, "G"],
    wanted: Int[Tensor, "Q"],
    hidden: Int[Tensor, "G"] | None = None,
    hides: Int[Tensor, "Q"] | None = None,
) -> tuple[dict[str, float], int]:
    """R@1/5/10, median rank of the first hit and mAP by cosine; and how many queries had a hit to
    find: the others are left out.

    A gallery item is a hit where `relevant` is the query's `wanted`, and is not in the gallery at
    all where `hidden` is what the query `hides`. Among items of equal scores no order is known: a
    recall and a rank are what they are on average over all orders of these, and average precision
    counts them at once, as scikit-learn does.
    """
    q, g = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (query, gallery))
    hits_of = _positions(relevant)
    hidden_by = _positions(hidden) if hidden is not None and hides is not None else {}
    goals, hiding = wanted.tolist(), [] if hides is None else hides.tolist()
    ranks: list[_Ranks] = []
    for part in torch.split(torch.arange(len(q)), max(1, NUMBERS_AT_ONCE // max(1, len(g)))):
        scores = (q[part] @ g.T).cpu().numpy()
        for i, row in zip(part.tolist(), scores, strict=True):
            hits = hits_of.get(goals[i], _NOBODY)
            removed = hidden_by.get(hiding[i], _NOBODY) if hidden_by else _NOBODY
            if len(removed):
                row[removed] = -np.inf
                hits = hits[row[hits] > -np.inf]
            if len(hits):
                ranks.append(_ranked(row, hits))
    if not ranks:
        return {}, 0
    first, precision, *equals = (np.array(column) for column in zip(*ranks, strict=True))
    before, size, of_best = map(torch.from_numpy, equals)
    values = {f"r{k}": float(_found(k - before, size, of_best).mean()) for k in RECALL_AT}
    values |= {"median_rank": float(np.median(first)), "map": float(precision.mean())}
    return values, len(ranks)


_NOBODY = np.empty(0, np.int64)


class _Ranks(NamedTuple):
    """What one query finds."""

    first: float  # the expected rank of its first hit
    precision: float  # on average
    before: int  # items above the first hit's equals
    size: int  # of these equals
    of_best: int  # hits among them


def _positions(codes: Int[Tensor, "G"]) -> dict[int, Int[np.ndarray, "_"]]:
    """The items of each code."""
    order = np.argsort(codes.cpu().numpy(), kind="stable")
    known, begins = np.unique(codes.cpu().numpy()[order], return_index=True)
    return dict(zip(known.tolist(), np.split(order, begins[1:]), strict=True))


def _ranked(scores: Float[np.ndarray, "G"], hits: Int[np.ndarray, "_"]) -> _Ranks:
    """Ranks of the hits among all scores. Scores alone are sorted, not items, and only hits are
    looked up among them: a fraction of what an order of all items costs."""
    size = len(scores)
    ascending = np.sort(scores)
    # -inf, for what is not in the gallery, is less than any and equal to itself.
    begins = np.flatnonzero(ascending[1:] - ROUNDING > ascending[:-1]) + 1
    run = np.searchsorted(begins, np.searchsorted(ascending, scores[hits]), side="right")
    runs, hits_in = np.unique(run, return_counts=True)
    runs, hits_in = runs[::-1], hits_in[::-1]  # best first
    edges = np.concatenate([[0], begins, [size]])
    before, stop = size - edges[runs + 1], size - edges[runs]
    precision = (hits_in * np.cumsum(hits_in) / stop).sum() / len(hits)
    equals = int(stop[0] - before[0])
    first = before[0] + (equals + 1) / (hits_in[0] + 1)
    return _Ranks(float(first), float(precision), int(before[0]), equals, int(hits_in[0]))


def _found(
    looked_at: Int[Tensor, "Q"], size: Int[Tensor, "Q"], hits: Int[Tensor, "Q"]
) -> Float[Tensor, "Q"]:
    """The chance that one of so many hits is among the first of so many equals in random order."""
    looked_at = looked_at.clamp(min=0).minimum(size)
    missed = torch.ones(len(size), dtype=torch.float64)
    for drawn in range(max(RECALL_AT)):
        left = (size - drawn).clamp_min(1)
        step = (size - hits - drawn).clamp_min(0) / left
        missed = torch.where(drawn < looked_at, missed * step, missed)
    return 1 - missed
