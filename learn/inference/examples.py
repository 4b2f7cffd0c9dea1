"""The labelled clips that `learn predict` learns from: their labels, sources and vectors.

Shapes: S = support clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from learn.fewshot.guard import STORED
from learn.inference.embed import EmbeddedBatch
from store.errors import InputError, UnknownColumn, choices

if TYPE_CHECKING:
    from store import Manifest, Store


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """Support clips: a vector per part, a mask of those that have one, and numbers of sources."""

    vectors: Mapping[str, Float[Tensor, "S _"]]
    present: Mapping[str, Bool[Tensor, "S"]]
    groups: Int64[Tensor, "S"] | None

    @property
    def parts(self) -> tuple[str, ...]:
        """The vectors that a clip may have."""
        return tuple(self.present)


def join(
    batches: Sequence[EmbeddedBatch], parts: Sequence[str], groups: Int64[Tensor, "S"] | None
) -> Examples:
    """The examples of all batches."""
    return Examples(
        vectors={
            name: torch.cat([batch.vectors[name] for batch in batches])
            for name in batches[0].vectors
            if name in parts or name.startswith(STORED)
        },
        present={part: torch.cat([batch.present[part] for batch in batches]) for part in parts},
        groups=groups,
    )


def read_labels(table: "Manifest", column: str) -> list[str]:
    """The label of each clip, "" where it has none.

    Raises:
        UnknownColumn: says which there are.
        InputError: a cell with several labels, or no label at all.
    """
    if column not in table.label_columns:
        known = choices(column, table.label_columns)
        raise UnknownColumn(f"the support has no column {column!r}; there are {known}")
    cells = table.labels(column)
    if several := [i for i, cell in enumerate(cells) if len(cell) > 1]:
        raise InputError(
            f"{len(several)} support clips have several labels in column {column!r} (first "
            f"{table.clip_ids[several[0]]!r}); give each clip one, or each question its own column"
        )
    names = [cell[0] if cell else "" for cell in cells]
    if not any(names):
        raise InputError(f"no clip of the support has a label in column {column!r}; fill it in")
    return names


def read_groups(table: "Manifest", store: "Store", column: str | None) -> Int64[Tensor, "S"] | None:
    """Equal numbers for support clips of one source, as the support or else the store says.

    Raises:
        UnknownColumn: neither has the column that was named.
    """
    if column == "none":
        return None
    name = column or "group"
    kept = store.manifest() if store.manifest_names() else None
    if name in table.columns:
        cells = table.column(name)
    elif kept is not None and name in kept.columns:
        by_clip = dict(zip(kept.clip_ids, kept.column(name), strict=True))
        cells = tuple(by_clip.get(clip, "") for clip in table.clip_ids)
    elif column is None:
        return None
    else:
        known = [*table.columns, *(kept.columns if kept else ())]
        raise UnknownColumn(f"no column {column!r}; there are {choices(column, known)}")
    return _numbered(cells)


def _numbered(cells: Sequence[str]) -> Int64[Tensor, "S"]:
    """Equal numbers for equal cells; a clip whose cell is empty stands alone."""
    keys = [("source", cell) if cell else ("alone", str(i)) for i, cell in enumerate(cells)]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return torch.from_numpy(np.array([numbers[key] for key in keys], np.int64))
