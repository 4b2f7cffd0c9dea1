"""Batches of one shape, filled across clips, and the rows split back.

Shapes: n = items of one clip (frames, or windows of its sound), B = items of a batch, D = embedding
size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from store.errors import ConfigError


@dataclass(slots=True)
class _Group:
    """The batch being filled with items of one shape, and whose they are."""

    batch: Tensor
    filled: int = 0
    owners: list[tuple[int, int, int]] = field(default_factory=list)  # clip, its item, how many


class HalvingNetwork:
    """A network whose batches are cut into halves for good once one did not fit the memory."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.limit: int | None = None  # items at once, once that is known
        self._forward = forward

    def __call__(self, batch: Float[Tensor, "B ..."]) -> Float[Tensor, "B D"]:
        """The rows of a batch, which the network takes whole or in halves.

        Raises:
            ConfigError: not even one item fits.
        """
        while True:
            size = min(self.limit or len(batch), len(batch))
            try:
                rows = [self._forward(part) for part in torch.split(batch, size)]
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise ConfigError(
                        f"not even one item fits the memory of {batch.device}; take a smaller "
                        "network, `precision` bf16 or another device"
                    ) from error
                self.limit = size // 2
            else:
                return torch.cat(rows) if len(rows) > 1 else rows[0]
            if batch.device.type == "cuda":
                torch.cuda.empty_cache()


class Packer:
    """Gathers the items of many clips and hands the network full batches.

    The network sees the same batch shape every time, the last batch of a unit being padded with
    zeros: the kernels a library picks, and so the last bits of a row, depend on the shape. Items of
    unequal shape (one window over a whole clip) fill batches of their own.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], batch_size: int) -> None:
        self.batch_size = batch_size
        self.items = 0  # ever put
        self.slots = 0  # ever run, padding included
        self._forward = forward
        self._groups: dict[torch.Size, _Group] = {}
        self._length = 0  # items of the last clip
        self._done: list[
            list[tuple[int, Tensor]]
        ] = []  # per clip: its rows in parts, each with the number of its first row

    @property
    def fill(self) -> float:
        """Share of the network's work that was not padding."""
        return self.items / self.slots if self.slots else 1.0

    def put(self, items: Float[Tensor, "n ..."]) -> None:
        """Add a clip with these items."""
        self.begin()
        self.extend(items)

    def begin(self) -> None:
        """Add a clip without items, so far."""
        self._done.append([])
        self._length = 0

    def extend(self, items: Float[Tensor, "n ..."]) -> None:
        """Add items to the last clip; runs the network as often as a batch is full."""
        clip, start = len(self._done) - 1, 0
        while start < len(items):
            group = self._group(items)
            count = min(len(items) - start, self.batch_size - group.filled)
            group.batch[group.filled : group.filled + count] = items[start : start + count]
            group.owners.append((clip, self._length + start, count))
            group.filled += count
            start += count
            if group.filled == self.batch_size:
                self._run(group)
        self._length += len(items)
        self.items += len(items)

    def flush(self) -> None:
        """Run what is left, padded with zeros."""
        for group in self._groups.values():
            if group.filled:
                group.batch[group.filled :] = 0
                self._run(group)
        self._groups = {}

    def finish(self) -> list[Float[Tensor, "_ D"]]:
        """The rows of every clip put since the last call, on the CPU and in order."""
        self.flush()
        rows = [
            torch.cat([part for _, part in sorted(parts, key=_first_row)]) for parts in self._done
        ]
        sizes = [len(clip) for clip in rows]
        self._done = []
        return list(torch.split(torch.cat(rows).cpu(), sizes)) if rows else []

    def _group(self, items: Tensor) -> _Group:
        shape = items.shape[1:]
        if shape not in self._groups:
            self._groups[shape] = _Group(items.new_empty((self.batch_size, *shape)))
        return self._groups[shape]

    def _run(self, group: _Group) -> None:
        rows = self._forward(group.batch)
        at = 0
        for clip, start, count in group.owners:
            self._done[clip].append((start, rows[at : at + count]))
            at += count
        self.slots += self.batch_size
        group.filled, group.owners = 0, []


def _first_row(part: tuple[int, Tensor]) -> int:
    return part[0]
