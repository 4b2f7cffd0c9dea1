"""The batches of an epoch: the clips that meet in each, and their order.

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

    indices: Int64[np.ndarray, "_"]
    batches: tuple[Int64[Tensor, "B"], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batching:
    """The rules by which clips meet in a batch, for all epochs of a training."""

    batch_size: int
    bucket: int = 0  # batches of a window that are sorted by `lengths` at a time
    ways: int = 0  # classes of a batch, if `class_ids` tell them apart
    lengths: Int[np.ndarray, "V"] | None = None
    class_ids: Int[np.ndarray, "V"] | None = None
    disk_blocks: Sequence[
        Int64[np.ndarray, "_"]
    ] = ()  # neighbours on the disk; none: all in memory
    at_once: int = 1  # blocks of a window
    members: Int64[np.ndarray, "_"] | None = None  # the clips of these epochs; None: all

    def epoch(self, clips: int, rng: np.random.Generator) -> list[Window]:
        """Every clip once, or every member: windows of `at_once` blocks, or one of everything."""
        if not self.disk_blocks:
            groups = [rng.permutation(clips if self.members is None else self.members)]
        else:
            blocks = self._blocks()
            turn = rng.permutation(len(blocks))
            joined = [
                np.concatenate([blocks[i] for i in turn[first : first + self.at_once]])
                for first in range(0, len(turn), self.at_once)
            ]
            if len(joined) > 1 and len(joined[-1]) < self.batch_size:  # no batch of a clip or two
                joined[-2:] = [np.concatenate(joined[-2:])]
            groups = [rng.permutation(group) for group in joined]
        batches = self._of_classes if self.ways and self.class_ids is not None else self._batches
        return [Window(np.sort(group), tuple(batches(group, rng))) for group in groups]

    def _blocks(self) -> list[Int64[np.ndarray, "_"]]:
        """The blocks' clips that are members, of blocks that have any."""
        if self.members is None:
            return list(self.disk_blocks)
        kept = (block[np.isin(block, self.members)] for block in self.disk_blocks)
        return [block for block in kept if len(block)]

    def _batches(
        self, order: Int64[np.ndarray, "_"], rng: np.random.Generator
    ) -> Iterator[Int64[Tensor, "B"]]:
        """Batches in this order, or of clips of like length."""
        if not self.bucket or self.lengths is None:
            yield from cut(torch.from_numpy(order), self.batch_size)
            return
        for bucket in cut(torch.from_numpy(order), self.batch_size * self.bucket):
            by_length = np.argsort(self.lengths[bucket.numpy()], kind="stable")
            batches = cut(bucket[torch.from_numpy(by_length)], self.batch_size)
            yield from (batches[i] for i in rng.permutation(len(batches)))

    def _of_classes(
        self, order: Int64[np.ndarray, "_"], rng: np.random.Generator
    ) -> Iterator[Int64[Tensor, "B"]]:
        """Batches of about as many clips of each of `ways` classes, all spread over the epoch."""
        assert self.class_ids is not None
        class_ids, portions = self.class_ids[order], []
        for class_id in np.unique(class_ids):
            members = order[class_ids == class_id]
            parts = np.array_split(
                members, math.ceil(len(members) / (self.batch_size // self.ways))
            )
            portions += [
                ((i + 0.5) / len(parts), rng.random(), part) for i, part in enumerate(parts)
            ]
        portions.sort(key=lambda portion: portion[:2])
        starts = range(0, len(portions), self.ways)
        batches = [np.concatenate([p[2] for p in portions[i : i + self.ways]]) for i in starts]
        if len(batches) > 1 and len(portions) % self.ways == 1:  # no batch of one class
            batches[-2:] = [np.concatenate(batches[-2:])]
        yield from map(torch.from_numpy, batches)


def cut(order: Int[Tensor, "_"], size: int) -> list[Int[Tensor, "B"]]:
    """Batches of nearly one size; two clips at least, as one alone has nothing to tell apart."""
    parts = min(math.ceil(len(order) / size), len(order) // 2)
    return list(torch.tensor_split(order, max(1, parts)))


def fill(counts: Mapping[str, Int[np.ndarray, "V"]], windows: Sequence[Window]) -> float:
    """The share of rows that are no padding, over an epoch and all modalities."""
    rows = padded = 0
    for window in windows:
        for batch in window.batches:
            for count in counts.values():
                batch_counts = count[batch.numpy()]
                rows += int(batch_counts.sum())
                padded += len(batch_counts) * max(1, int(batch_counts.max()))
    return rows / max(1, padded)
