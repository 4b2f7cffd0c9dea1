"""Means in the place of rows, for trainings that look at nothing else of a clip.

Rows are then looked at once, and not at every step: a light projection takes most of its time for
them. Steps give the same numbers to the last bit (`learn/models/means.py`).
"""

from collections.abc import Sequence
from dataclasses import replace

from learn.models.embedder import Embedder
from learn.models.means import bytes_of
from learn.training.dataset import TrainingData
from learn.training.recipe import FAMILIES, Stage
from store import plugins


def with_means(
    embedder: Embedder, stages: Sequence[Stage], data: TrainingData, val: TrainingData | None
) -> tuple[TrainingData, TrainingData | None]:
    """The clips with means, if these suffice and the memory that `data` has to spare holds them;
    else the clips as they are."""
    known = [data] if val is None else [data, val]
    wanted = sum(bytes_of(len(rows), rows.dim) for of in known for rows in of.rows.values())
    if not suffice(embedder, stages) or wanted > data.spare_bytes:
        return data, val
    seen = [replace(of, means=embedder.means(of.rows)) for of in known]
    return seen[0], None if val is None else seen[1]


def suffice(embedder: Embedder, stages: Sequence[Stage]) -> bool:
    """Whether neither network, nor copies of clips, nor objectives look at rows one by one."""
    modules = [plugins.module(FAMILIES["objective"], stage.objective.name) for stage in stages]
    look = any(module.TRAITS.of_rows for module in modules)
    return embedder.of_means and not look and not any(stage.views.differ for stage in stages)
