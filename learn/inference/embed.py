"""Vectors of more clips than fit in memory, block after block, in the order asked for.

Shapes: B = clips of a block, D = size of a vector.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learn.data.rows import load_rows
from learn.fewshot import modes
from learn.inference.selection import vectors_of
from learn.training.runs import Run
from store.errors import InputError, choices
from store.features.streaming import MEMORY_BYTES, cut
from store.status import Status

if TYPE_CHECKING:
    from store import Feature

CLIPS = 8192
_WIDENED = 3  # a row is held in float16 and, while it is averaged or projected, in float32


class EmbeddedBatch(NamedTuple):
    """Some clips: by modality a vector each, zero for a clip that has none, and which have one."""

    ids: tuple[str, ...]
    vectors: Mapping[str, Float[Tensor, "B _"]]
    there: Mapping[str, Bool[Tensor, "B"]]


def parts_of(mode: str, run: Run | None) -> tuple[str, ...]:
    """The vectors that a mode joins: one per modality, or the one of both that a network makes."""
    return (mode,) if run and mode in run.space.outputs else modes.MODES[mode]


def blocks(
    features: Mapping[str, "Feature"],
    ids: Sequence[str],
    run: Run | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[EmbeddedBatch]:
    """All of `ids`; a block's rows take at most `memory_bytes`, unless one clip does by itself."""
    sizes = np.zeros(len(ids), np.int64)
    for feature in features.values():
        row = feature.dim * feature.dtype.itemsize * _WIDENED
        sizes += feature.locate(ids).rows * row + 4 * feature.dim
    sizes = np.maximum(sizes, -(-memory_bytes // CLIPS))
    for members in cut(np.arange(len(ids)), sizes, memory_bytes):
        some = tuple(ids[i] for i in members.tolist())
        yield _block(features, some, run)


def _block(
    features: Mapping[str, "Feature"], ids: tuple[str, ...], run: Run | None
) -> EmbeddedBatch:
    rows = {modality: load_rows(feature, ids) for modality, feature in features.items()}
    has = {modality: torch.from_numpy(one.valid) for modality, one in rows.items()}
    both = torch.stack(list(has.values())).all(0)
    vectors, there = {}, {}
    for name, found in vectors_of(rows, run).items():
        there[name] = both if run and run.space.joint else has.get(name, both)
        vectors[name] = torch.where(there[name][:, None], found.float(), 0)
    return EmbeddedBatch(ids, vectors, there)


def refuse_unknown(features: Mapping[str, "Feature"], ids: Sequence[str], of: str) -> None:
    """Every clip must be in the store, extracted or failed.

    Raises:
        InputError: names some that are not, and what may have been meant.
    """
    pending = np.logical_and.reduce(
        [feature.status_of(ids) == Status.PENDING for feature in features.values()]
    )
    if not pending.any():
        return
    unknown = [ids[i] for i in np.flatnonzero(pending).tolist()]
    known = {clip for feature in features.values() for clip in feature.clip_ids}
    raise InputError(
        f"{len(unknown)} of {len(ids)} clips of {of} are not in the store: "
        + "; ".join(_meant(clip, known) for clip in unknown[:4])
        + ("; …" if len(unknown) > 4 else "")
        + ". Name clips by clip_id, or run: extract run MANIFEST --store DIR"
    )


def _meant(clip: str, known: set[str]) -> str:
    """The unknown clip, with the nearest that is known."""
    told = choices(clip, known)
    _, found, guess = told.rpartition(" (did you mean ")
    return f"{clip!r} (did you mean {guess}" if found else repr(clip)
