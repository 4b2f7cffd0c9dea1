"""The numbers of results as people see them, in tables and on pages. Imports nothing of ours."""

from collections.abc import Mapping, Sequence
from typing import Any

NOT_ASKED = "not asked for"  # why a projection is not guarded, where that is what was wanted
JOINED_BY = ("early", "late", "weighted")  # how probes join senses
CLASSIC = "n_way_k_shot"  # the task that needs no mention
TASK_SETTINGS = ("ways", "queries", "min_ways", "max_ways", "max_queries", "max_shots", "alpha")
NOT_SHARES = ("median_rank", "threshold", "labels_a_clip", "beta")  # metrics, never in percent
SHORT = {
    "balanced_accuracy": "balanced",
    "largest_class": "largest",
    "top1_std_of_folds": "± folds",
    "average_precision": "AP",
    "median_rank": "MedR",
    "labels_a_clip": "labels/clip",
    "map": "mAP",
    "harmonic_mean": "HM",
    "harmonic_mean_of_means": "HM of means",
    "ausuc": "AUSUC",
    "zsl": "ZSL",
}  # names of metrics that are too long for a column


def never_drawn(draw: Mapping[str, Any]) -> list[tuple[str, Sequence[str]]]:
    """The reasons why classes are in no episode of a draw, each with its classes."""
    idle = draw["classes_never_drawn"]
    lacking = draw.get("classes_of_too_few_clips")  # not in older results
    if lacking is None:
        return [("of too few clips, or not drawn by chance", idle)] if idle else []
    short = [name for name in idle if name in set(lacking)]
    unlucky = [name for name in idle if name not in set(lacking)]
    reasons = [("of too few clips", short), ("not drawn by chance", unlucky)]
    return [(reason, names) for reason, names in reasons if names]


def feature_name(feature: str) -> str:
    """A feature's name without its digest."""
    return feature.rpartition("-")[0] or feature


def weight_text(weight: Mapping[str, float]) -> str:
    """How much a sense counted: mean and deviation over episodes."""
    return f"{weight['mean']:.2f} ± {weight['sd']:.2f}"
