"""Metrics of classification, of several labels a clip, and of retrieval.

Classes without a clip among those scored have no recall, so means over classes leave them out.

Shapes: V = clips, C = classes, Q = queries, G = gallery.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
    found: list[Tensor] = []
    first: list[Tensor] = []
    precision: list[Tensor] = []
    at_once = max(1, NUMBERS_AT_ONCE // max(1, len(g)))
    for part in torch.split(torch.arange(len(q)), at_once):
        score = q[part] @ g.T
        hit = relevant == wanted[part][:, None]
        if hidden is not None and hides is not None:
            removed = hidden == hides[part][:, None]
            score, hit = score.masked_fill(removed, -torch.inf), hit & ~removed
        score, hit = score[hit.any(1)], hit[hit.any(1)]
        ranked, order = score.sort(dim=1, descending=True, stable=True)
        hit = hit.gather(1, order)
        start, stop = equals(ranked)
        hits = hit.cumsum(1)
        precision.append((hits.gather(1, stop - 1) / stop * hit).sum(1) / hits[:, -1])
        best = hit.int().argmax(1, keepdim=True)
        before, size = start.gather(1, best)[:, 0], (stop - start).gather(1, best)[:, 0]
        of_best = hits.gather(1, stop.gather(1, best) - 1)[:, 0]  # hits among the first's equals
        first.append(before + (size + 1) / (of_best + 1))
        found.append(torch.stack([_found(k - before, size, of_best) for k in RECALL_AT], 1))
    rank, average = torch.cat(first), torch.cat(precision)
    if not len(rank):
        return {}, 0
    recall = torch.cat(found).mean(0).tolist()
    values = {f"r{k}": share for k, share in zip(RECALL_AT, recall, strict=True)}
    values |= {"median_rank": float(np.median(rank.numpy())), "map": float(average.mean())}
    return values, len(rank)


def equals(ranked: Float[Tensor, "Q G"]) -> tuple[Int[Tensor, "Q G"], Int[Tensor, "Q G"]]:
    """Where the run of equals begins and ends that each of these scores, best first, is in."""
    positions = torch.arange(ranked.shape[1]).expand(ranked.shape)
    new = torch.ones_like(ranked, dtype=torch.bool)
    # -inf, for what is not in the gallery, is no number to take from another.
    new[:, 1:] = (ranked[:, :-1] - ROUNDING > ranked[:, 1:]).logical_or(ranked[:, 1:].isneginf())
    start = torch.where(new, positions, 0).cummax(1).values
    last = torch.cat([new[:, 1:], torch.ones_like(new[:, :1])], 1)
    ends = torch.where(last, positions + 1, ranked.shape[1])
    return start, ends.flip(1).cummin(1).values.flip(1)


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
