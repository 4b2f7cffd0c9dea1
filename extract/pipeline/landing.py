"""Rows on their way from a device into memory, and the time that a device works on them.

A GPU is given work long before it does it. Rows that waited there for the end of their unit would
fill its memory, and a copy that waits for them would let it stand idle. So each batch's rows are
copied out behind the work that makes them, and nobody waits but for a batch long since given.

Shapes: B = rows of a batch, D = embedding size.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

BATCHES_AHEAD = 4  # that a device has been given and not done: more would only fill its memory
MAX_FLOAT16 = 65_504.0


def as_stored(rows: Float[Tensor, "B D"]) -> Shaped[Tensor, "B D"]:
    """The rows as stores keep them, in half precision; NaN where one does not fit."""
    return torch.where(rows.abs() <= MAX_FLOAT16, rows, torch.nan).half()


def _event(*, enable_timing: bool = False) -> Any:
    """An event of a GPU's, which torch leaves without types."""
    return torch.cuda.Event(enable_timing=enable_timing)  # type: ignore[no-untyped-call]


@dataclass(slots=True, eq=False)
class Landed:
    """The rows of one batch: in memory once `Landing.wait` has been there."""

    rows: Shaped[Tensor, "B _"]
    arrived: Any = None  # an event of the device's; None: they are there

    def wait(self) -> None:
        """Wait until they are there, and give pinned memory back."""
        if self.arrived is not None:
            self.arrived.synchronize()
            self.rows, self.arrived = self.rows.clone(), None


@dataclass(slots=True, eq=False)
class DeviceClock:
    """Seconds that a GPU spends on what it is given, told by events: nothing waits for them."""

    seconds: float = 0.0
    _open: deque[tuple[Any, Any]] = field(default_factory=deque)

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Count what is given to the device here; on a processor, nothing."""
        if device.type != "cuda":
            yield
            return
        begun, ended = (_event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(device)  # which need not be the current device's
        begun.record(stream)
        yield
        ended.record(stream)
        self._open.append((begun, ended))
        while self._open and self._open[0][1].query():
            self._add()

    def settle(self) -> None:
        """Count what is left, and wait for it."""
        while self._open:
            self._open[0][1].synchronize()
            self._add()

    def _add(self) -> None:
        begun, ended = self._open.popleft()
        self.seconds += begun.elapsed_time(ended) / 1000


@dataclass(slots=True, eq=False)
class Landing:
    """Takes the rows of one batch after the other off their device."""

    _under_way: deque[Landed] = field(default_factory=deque)

    def take(self, rows: Shaped[Tensor, "B _"]) -> Landed:
        """Begin to bring these rows into memory; waits for an earlier batch if many are ahead."""
        if rows.device.type != "cuda":
            return Landed(rows)
        pinned = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        pinned.copy_(rows, non_blocking=True)
        arrived = _event()
        arrived.record(torch.cuda.current_stream(rows.device))
        landed = Landed(pinned, arrived)
        self._under_way.append(landed)
        while len(self._under_way) > BATCHES_AHEAD:
            self._under_way.popleft().wait()
        return landed

    def wait(self) -> None:
        """Wait until all rows are in memory."""
        while self._under_way:
            self._under_way.popleft().wait()
