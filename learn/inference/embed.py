"""Vectors of more clips than fit in memory, batch after batch, in the order asked for.

Shapes: B = clips of a batch, D = size of a vector.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learn.data.rows import load_rows
from learn.fewshot import modes
from learn.fewshot.guard import both_sides
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
    """Clips with a vector per modality, zero where a clip has none, and masks of who has one.

    Stored vectors beside a projection's are named `stored …` and have no masks of their own.
    """

    ids: Sequence[str]
    vectors: Mapping[str, Float[Tensor, "B _"]]
    present: Mapping[str, Bool[Tensor, "B"]]


def parts_of(mode: str, run: Run | None, senses: Iterable[str]) -> tuple[str, ...]:
    """The vectors that a mode joins: of each of its senses, or the one that a network makes."""
    return (mode,) if run and mode in run.space.outputs else modes.senses_in(mode, senses)


def embed(
    features: Mapping[str, "Feature"],
    ids: Sequence[str],
    run: Run | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
    both: bool = False,
) -> Iterator[EmbeddedBatch]:
    """The vectors of all `ids`, in batches whose rows take at most `memory_bytes` unless one clip's
    alone take more; with `both`, stored vectors beside the run's (`learn/fewshot/guard.py`)."""
    sizes = np.zeros(len(ids), np.int64)
    for feature in features.values():
        row = feature.dim * feature.dtype.itemsize * _WIDENED
        sizes += feature.locate(ids).rows * row + 4 * feature.dim
    sizes = np.maximum(sizes, -(-memory_bytes // CLIPS))
    for members in cut(np.arange(len(ids)), sizes, memory_bytes):
        yield _embed_batch(features, tuple(ids[i] for i in members.tolist()), run, both)


def _embed_batch(
    features: Mapping[str, "Feature"], ids: tuple[str, ...], run: Run | None, both: bool
) -> EmbeddedBatch:
    rows = {modality: load_rows(feature, ids) for modality, feature in features.items()}
    has = {modality: torch.from_numpy(loaded.valid) for modality, loaded in rows.items()}
    whole = torch.stack(list(has.values())).all(0)
    vectors, present = {}, {}
    for part, x in vectors_of(rows, run).items():
        present[part] = whole if run and run.space.joint else has.get(part, whole)
        vectors[part] = torch.where(present[part][:, None], x.float(), 0)
    if both:
        stored = {m: torch.where(has[m][:, None], x, 0) for m, x in vectors_of(rows, None).items()}
        vectors = both_sides(vectors, stored)
    return EmbeddedBatch(ids, vectors, present)


def without(batch: EmbeddedBatch, clips: Collection[str]) -> EmbeddedBatch:
    """The batch but for these clips."""
    ids = tuple(batch.ids)
    kept = [i for i, clip in enumerate(ids) if clip not in clips]
    if len(kept) == len(ids):
        return batch._replace(ids=ids)
    return EmbeddedBatch(
        tuple(ids[i] for i in kept),
        {name: x[kept] for name, x in batch.vectors.items()},
        {name: x[kept] for name, x in batch.present.items()},
    )


def all_clips(features: Mapping[str, "Feature"]) -> list[str]:
    """Every committed clip once, in the order of the first feature's disk."""
    return list(dict.fromkeys(clip for feature in features.values() for clip in feature.clip_ids))


def refuse_unknown(features: Mapping[str, "Feature"], ids: Sequence[str], source: str) -> None:
    """Refuse clips that are not in the store, extracted or failed.

    Raises:
        InputError: names a few of them, and what may have been meant.
    """
    pending = np.logical_and.reduce(
        [feature.status_of(ids) == Status.PENDING for feature in features.values()]
    )
    if not pending.any():
        return
    unknown = [ids[i] for i in np.flatnonzero(pending).tolist()]
    known = set(all_clips(features))
    raise InputError(
        f"{len(unknown)} of {len(ids)} clips of {source} are not in the store: "
        + "; ".join(_with_guess(clip, known) for clip in unknown[:4])
        + ("; …" if len(unknown) > 4 else "")
        + ". Name clips by clip_id, or run: extract run MANIFEST --store DIR"
    )


def _with_guess(clip: str, known: set[str]) -> str:
    """The unknown clip, with the nearest that is known."""
    _, separator, guess = choices(clip, known).rpartition(" (did you mean ")
    return f"{clip!r} (did you mean {guess}" if separator else repr(clip)
