"""What a run has done so far: told as it goes, written as metrics, and why it ends early."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from extract.pipeline.result import FAILING, INTERRUPTED, Timings
from store.errors import InputError

ENOUGH_CLIPS = 500  # before a share of failures says anything

# (done, total, message, told): called for every clip; `message` is one line for every commit,
# `told` the rate and the failures so far.
Progress = Callable[..., None]
Heard = Callable[[Mapping[str, Any]], None]


def silent(done: int, total: int, message: str = "", told: str = "") -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watch:
    """Who follows a run, and who may end it."""

    metrics: Path | None = None  # gets a line of JSON for every commit
    stop: Event = field(default_factory=Event)  # once set, units in hand are finished
    progress: Progress = silent


@dataclass(slots=True, kw_only=True, eq=False)
class RunProgress:
    """One run's. `stop`, once set, ends it."""

    spent: Timings
    clips: int  # to do
    units: int
    max_failures: float = 1.0
    stop: Event = field(default_factory=Event)
    progress: Progress = silent
    heard: Heard | None = None  # is told every commit, with the state of the run
    failures: Counter[str] = field(default_factory=Counter)  # clips of this run by kind
    stopped: str = ""  # why, if it is to end early

    def check(self) -> None:
        """Whether to end now."""
        bad = sum(self.failures.values())
        if self.stop.is_set():
            self.stopped = INTERRUPTED
        elif self.spent.clips >= ENOUGH_CLIPS and bad > self.max_failures * self.spent.clips:
            self.stopped = FAILING

    def clip(self) -> None:
        """Somebody may want to see that it goes on."""
        self.progress(self.spent.clips, self.clips, "", self._told())

    def tell(self, commits: Sequence[Mapping[str, Any]]) -> None:
        """Report what was committed since the last time."""
        for one in commits:
            self.spent.committing += one["commit_seconds"]
            told = ", ".join(f"{count} {kind}" for kind, count in one["status"].items())
            message = (
                f"unit {one['unit'] + 1}/{self.units} {one['feature']}: {one['rows']} rows of "
                f"{one['clips']} clips ({told})"
            )
            self.progress(self.spent.clips, self.clips, message, self._told())
            if self.heard:
                self.heard({"time": round(time.time(), 3), **one, **self._state()})

    def _told(self) -> str:
        """The rate, and failures by kind."""
        seconds = time.perf_counter() - self.spent.begun
        failures = "".join(f", {count} {kind}" for kind, count in self.failures.most_common(3))
        return f"{self.spent.clips / max(seconds, 1e-9):.1f}/s{failures}"

    def _state(self) -> dict[str, Any]:
        spent = self.spent
        return {
            "clips_done": spent.clips,
            "clips_total": self.clips,
            "seconds": round(time.perf_counter() - spent.begun, 3),
            "waiting_for_decode_seconds": round(spent.waiting, 3),
            "encoder_seconds": round(spent.encoding, 3),
            "waiting_for_disk_seconds": round(spent.writing, 3),
            "decode_cpu_seconds": round(spent.decode_cpu_seconds, 3),
            "failures": dict(self.failures),
        }


def into(path: Path | None) -> Heard | None:
    """Appends a line of JSON to a file, which is opened now: before hours of work, not after.

    Raises:
        InputError: it cannot be written.
    """
    if path is None:
        return None
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; name another file") from None

    def write(line: Mapping[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    return write
