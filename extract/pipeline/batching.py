"""Batches of one shape, filled across clips, and the rows split back.

Shapes: n = items of one clip (frames, or windows of its sound), B = items of a batch, D = embedding
size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from extract.encoders import Encoder, StackEncoder
from extract.pipeline.landing import DeviceClock, Landed, Landing
from store.errors import ConfigError


@dataclass(slots=True)
class _Group:
    """The batch being filled with items of one shape, and whose they are."""

    batch: Tensor
    filled: int = 0
    owners: list[tuple[int, int, int]] = field(default_factory=list)  # clip, its item, how many


@dataclass(slots=True, eq=False)
class Limit:
    """How many items a device's memory holds at once: None until more of them did not fit."""

    items: int | None = None

    def of(self, wanted: int) -> int:
        """As many as wanted, or as fit."""
        return wanted if self.items is None else min(wanted, self.items)


class Halving:
    """A function of a batch, which is cut into halves for good once one did not fit the memory."""

    def __init__(self, function: Callable[[Tensor], Tensor], limit: Limit | None = None) -> None:
        self.limit = limit or Limit()
        self._function = function

    def __call__(self, batch: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "_ ..."]:
        """What the function gives of a batch, which it takes whole or in halves.

        Raises:
            ConfigError: not even one item fits.
        """
        while True:
            size = self.limit.of(len(batch))
            parts: list[Tensor] = []
            try:
                for part in torch.split(batch, size):
                    parts.append(self._function(part))
                return torch.cat(parts) if len(parts) > 1 else parts[0]
            except torch.OutOfMemoryError as error:
                self.limit.items = smaller(size, batch.device, error)
            parts.clear()
            give_back()


def smaller(size: int, device: torch.device, error: Exception) -> int:
    """Half as many items, after so many did not fit.

    Raises:
        ConfigError: there was one.
    """
    if size == 1:
        raise ConfigError(
            f"not even one item fits the memory of {device}; take a smaller network, `precision` "
            "bf16 or another device"
        ) from error
    return size // 2


def give_back() -> None:
    """Let devices have the memory that torch keeps for later, which may be in the way."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


@dataclass(slots=True, eq=False)
class Limits:
    """What an encoder's device holds at once, found by trying."""

    preprocess: Limit = field(default_factory=Limit)
    forward: Limit = field(default_factory=Limit)
    buffer: Limit = field(default_factory=Limit)  # of a batch before the network has it

    def batch_size(self, wanted: int) -> int:
        """The largest batch that is computed at once."""
        return self.forward.of(self.buffer.of(wanted))


_limits: WeakKeyDictionary[Encoder, Limits] = WeakKeyDictionary()


def limits_of(encoder: Encoder) -> Limits:
    """What is known of an encoder's limits: what one unit learns, the next one need not."""
    return _limits.setdefault(encoder, Limits())


def device_of(encoder: Encoder) -> torch.device:
    """The device that the encoder computes on."""
    return torch.device(getattr(encoder, "device", "cpu"))  # a word, of an encoder from outside


def items_of(encoder: Encoder, batch_size: int) -> int:
    """The items of a batch: frames or windows, or as many stacks as have no more frames."""
    if isinstance(encoder, StackEncoder):
        return max(1, batch_size // encoder.stack_frames)
    return batch_size


class Packer:
    """Gathers the items of many clips and hands the network full batches.

    The network sees the same batch shape every time, the last batch of a unit being padded with
    zeros: the kernels a library picks, and so the last bits of a row, depend on the shape. Items of
    unequal shape (one window over a whole clip) fill batches of their own. Rows leave the device
    batch by batch.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        batch_size: int,
        buffer: Limit | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.clock = DeviceClock()
        self.items = 0  # ever put
        self.slots = 0  # ever run, padding included
        self._forward, self._most = forward, buffer or Limit()
        self._landing = Landing()
        self._groups: dict[torch.Size, _Group] = {}
        self._length = 0  # items of the last clip
        # Per clip: its rows in parts, each with its first row's number and its place in a batch.
        self._done: list[list[tuple[int, Landed, slice]]] = []

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
            count = min(len(items) - start, len(group.batch) - group.filled)
            group.batch[group.filled : group.filled + count] = items[start : start + count]
            group.owners.append((clip, self._length + start, count))
            group.filled += count
            start += count
            if group.filled == len(group.batch):
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
        """The rows of every clip put since the last call, on the CPU and in order. What a GPU has
        not done is waited for here, which may be in another thread than that which gives it work.
        """
        self.flush()
        self._landing.wait()
        self.clock.settle()
        done, self._done = self._done, []
        return [
            torch.cat([batch.rows[place] for _, batch, place in sorted(parts, key=_first_row)])
            for parts in done
        ]

    def _group(self, items: Tensor) -> _Group:
        shape = items.shape[1:]
        if shape not in self._groups:
            self._groups[shape] = _Group(self._buffer(items))
        return self._groups[shape]

    def _buffer(self, items: Tensor) -> Tensor:
        """Room for a batch of items like these; for fewer where memory does not hold it."""
        while True:
            size = self._most.of(self.batch_size)
            try:
                return items.new_empty((size, *items.shape[1:]))
            except torch.OutOfMemoryError as error:
                self._most.items = smaller(size, items.device, error)
            self._landing.wait()
            give_back()

    def _run(self, group: _Group) -> None:
        with self.clock.on(group.batch.device):
            landed = self._landing.take(self._forward(group.batch))
        at = 0
        for clip, start, count in group.owners:
            self._done[clip].append((start, landed, slice(at, at + count)))
            at += count
        self.slots += len(group.batch)
        group.filled, group.owners = 0, []


def _first_row(part: tuple[int, Landed, slice]) -> int:
    return part[0]
