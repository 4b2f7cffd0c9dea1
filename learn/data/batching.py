"""Which clips meet in a batch, and in what order an epoch sees them.

Where all rows are in memory, any clips meet. Where they are streamed, the clips of a window do:
some blocks of neighbours on the disk, other ones together each epoch. Buckets put clips of like
length side by side, so that less of a batch is padding; a contrastive loss then compares a clip
with others of its length, which is why that is asked for and not the rule.

Shapes: V = clips, B = clips of a batch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor


class Window(NamedTuple):
    """Clips that are in memory together, and the batches made of them."""

    places: Int64[np.ndarray, "_"]
    batches: tuple[Int64[Tensor, "B"], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Which clips may meet in a batch."""

    batch_size: int
    bucket: int = 0  # batches among whose clips those of like length meet; 0: any clips meet
    ways: int = 0  # classes of a batch, as many clips of each; 0: any clips meet


def epoch(
    clips: int,
    batching: Batching,
    *,
    rng: np.random.Generator,
    lengths: Int[np.ndarray, "V"] | None = None,
    blocks: Sequence[Int64[np.ndarray, "_"]] = (),
    at_once: int = 1,
    class_ids: Int[np.ndarray, "V"] | None = None,
) -> list[Window]:
    """Every clip once. `bucket` batches of each window are sorted by `lengths` at a time; windows
    are of `at_once` of the `blocks`, or there is one of everything. Batches are of `ways` of the
    classes that `class_ids` tell apart, if any are asked for."""
    batch_size, bucket, ways = batching.batch_size, batching.bucket, batching.ways
    if not blocks:
        groups = [rng.permutation(clips)]
    else:
        turn = rng.permutation(len(blocks))
        joined = [
            np.concatenate([blocks[i] for i in turn[first : first + at_once]])
            for first in range(0, len(turn), at_once)
        ]
        if len(joined) > 1 and len(joined[-1]) < batch_size:  # no batch of a clip or two
            joined[-2:] = [np.concatenate(joined[-2:])]
        groups = [rng.permutation(group) for group in joined]
    if ways and class_ids is not None:
        return [
            Window(
                np.sort(group), tuple(_of_classes(group, rng, batch_size, ways, class_ids[group]))
            )
            for group in groups
        ]
    return [
        Window(np.sort(group), tuple(_batches(group, rng, batch_size, bucket, lengths)))
        for group in groups
    ]


def _batches(
    order: Int64[np.ndarray, "_"], rng: np.random.Generator, size: int, bucket: int,
    lengths: Int[np.ndarray, "V"] | None,
) -> Iterator[Int64[Tensor, "B"]]:  # fmt: skip
    if not bucket or lengths is None:
        yield from cut(torch.from_numpy(order), size)
        return
    for some in cut(torch.from_numpy(order), size * bucket):
        by_length = some[torch.from_numpy(np.argsort(lengths[some.numpy()], kind="stable"))]
        batches = cut(by_length, size)
        yield from (batches[i] for i in rng.permutation(len(batches)))


def _of_classes(
    order: Int64[np.ndarray, "_"], rng: np.random.Generator, size: int, ways: int,
    class_ids: Int[np.ndarray, "_"],
) -> Iterator[Int64[Tensor, "B"]]:  # fmt: skip
    """As many clips of each of `ways` classes, near enough; every class spread over the epoch."""
    portions = []
    for code in np.unique(class_ids):
        own = order[class_ids == code]
        parts = np.array_split(own, math.ceil(len(own) / (size // ways)))
        portions += [((i + 0.5) / len(parts), rng.random(), part) for i, part in enumerate(parts)]
    portions.sort(key=lambda portion: portion[:2])
    starts = range(0, len(portions), ways)
    batches = [np.concatenate([p[2] for p in portions[i : i + ways]]) for i in starts]
    if len(batches) > 1 and len(portions) % ways == 1:  # no batch of one class
        batches[-2:] = [np.concatenate(batches[-2:])]
    yield from map(torch.from_numpy, batches)


def cut(order: Int[Tensor, "_"], size: int) -> list[Int[Tensor, "B"]]:
    """Batches of nearly one size; two clips at least, as one alone has nothing to tell apart."""
    parts = min(math.ceil(len(order) / size), len(order) // 2)
    return list(torch.tensor_split(order, max(1, parts)))


def fill(counts: Mapping[str, Int[np.ndarray, "V"]], windows: Sequence[Window]) -> float:
    """The share of rows that are no padding, over an epoch and all modalities."""
    mask = padded = 0
    for window in windows:
        for batch in window.batches:
            for count in counts.values():
                some = count[batch.numpy()]
                mask += int(some.sum())
                padded += len(some) * max(1, int(some.max()))
    return mask / max(1, padded)
