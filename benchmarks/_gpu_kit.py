"""What the steps of `benchmarks/gpu.py` have in common: rows, clocks, and how busy the card is."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from threading import Thread
from typing import Any

import torch

WARM, TIMED = 5, 20
LOAD_MS = 100  # from one look at the card's load to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: what was measured, beside what it is held against."""

    what: str
    value: float | None = None
    unit: str = ""
    bare: float | None = None  # what it is held against, in the same unit
    against: str = ""  # what that is
    ratio: float | None = None
    goal: str = ""  # of the ratio, or of the value where there is none
    met: bool | None = None
    predicted: str = ""  # before any card had run it
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Kit:
    """The device, the sizes, a folder to work in."""

    dry: bool
    device: torch.device = field(init=False)
    folder: Path = field(init=False)
    _held: Any = field(init=False)

    def __post_init__(self) -> None:
        self.device = torch.device("cpu" if self.dry else "cuda:0")
        self._held = tempfile.TemporaryDirectory()
        self.folder = Path(self._held.name)

    def close(self) -> None:
        """Give the folder back."""
        self._held.cleanup()

    @property
    def name(self) -> str:
        return self.device.type

    def size(self, real: Any, tiny: Any) -> Any:
        """What is measured on a card, and what is enough to see that it runs."""
        return tiny if self.dry else real

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def median_ms(self, call: Callable[[], Any]) -> float:
        """Milliseconds of the device for a call: events, median of 20 after 5 that do not count."""
        warm, timed = self.size((WARM, TIMED), (1, 2))
        for _ in range(warm):
            call()
        if self.device.type != "cuda":
            return median(1000 * self.seconds(call) for _ in range(timed))
        pairs = []
        for _ in range(timed):
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            call()
            ended.record()
            pairs.append((begun, ended))
        self.wait()
        return median(begun.elapsed_time(ended) for begun, ended in pairs)

    def seconds(self, call: Callable[[], Any]) -> float:
        """Seconds by the clock until the device has done what the call gave it."""
        self.wait()
        begun = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - begun


@contextmanager
def load() -> Iterator[list[float]]:
    """Percentages of time in which the card computed, a look every 100 ms; none without a card."""
    seen: list[float] = []
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        watch = subprocess.Popen(
            [*command, "-i", "0", f"-lms={LOAD_MS}"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    except OSError:
        yield seen
        return

    def read() -> None:
        assert watch.stdout is not None
        for line in watch.stdout:
            with suppress(ValueError):
                seen.append(float(line))

    thread = Thread(target=read, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        watch.kill()
        watch.wait()
        thread.join(2)


def mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def at_least(ratio: float, goal: float) -> dict[str, Any]:
    """The goal of a row, and whether it is met."""
    return {"ratio": ratio, "goal": f"≥ {goal:g}", "met": ratio >= goal}


def at_most(value: float, goal: float) -> dict[str, Any]:
    return {"value": value, "goal": f"≤ {goal:g}", "met": value <= goal}
