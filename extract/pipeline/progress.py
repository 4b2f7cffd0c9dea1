"""The progress of a run: shown as it goes, written as metrics, and the reasons to end early."""

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

# (done, total or None, message, status): called for every clip; `message` is one line for every
# commit, `status` the rate and the failures so far.
Progress = Callable[..., None]
OnCommit = Callable[[Mapping[str, Any]], None]


def silent(done: int, total: int | None, message: str = "", status: str = "") -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watch:
    """Ways to follow a run and to end it."""

    metrics: Path | None = None  # gets a line of JSON for every commit
    stop: Event = field(default_factory=Event)  # once set, units in hand are finished
    progress: Progress = silent

    def say(self, notes: Sequence[str]) -> None:
        """Show what is to be known before the work begins, while there is time to stop it."""
        for note in notes:
            self.progress(0, None, f"note: {note}")


@dataclass(slots=True, kw_only=True, eq=False)
class RunProgress:
    """The progress of one run. `stop`, once set, ends it."""

    timings: Timings
    clips: int  # to do
    units: int
    max_failures: float = 1.0
    stop: Event = field(default_factory=Event)
    progress: Progress = silent
    on_commit: OnCommit | None = None  # is told every commit, with the state of the run
    failures: Counter[str] = field(default_factory=Counter)  # clips of this run by kind
    stopped: str = ""  # why, if it is to end early

    def check(self) -> None:
        """Set `stopped` if the run is to end now."""
        bad = sum(self.failures.values())
        if self.stop.is_set():
            self.stopped = INTERRUPTED
        elif self.timings.clips >= ENOUGH_CLIPS and bad > self.max_failures * self.timings.clips:
            self.stopped = FAILING

    def report_clip(self) -> None:
        """Show the progress after a clip."""
        self.progress(self.timings.clips, self.clips, "", self._rate_and_failures())

    def report_commits(self, commits: Sequence[Mapping[str, Any]]) -> None:
        """Report what was committed since the last time."""
        for commit in commits:
            self.timings.committing += commit["commit_seconds"]
            counts = ", ".join(f"{count} {kind}" for kind, count in commit["status"].items())
            message = (
                f"unit {commit['unit'] + 1}/{self.units} {commit['feature']}: "
                f"{commit['rows']} rows of {commit['clips']} clips ({counts})"
            )
            if commit["by_others"]:
                message += f"; {commit['by_others']} of them another run had committed first"
            self.progress(self.timings.clips, self.clips, message, self._rate_and_failures())
            if self.on_commit:
                self.on_commit({"time": round(time.time(), 3), **commit, **self._state()})

    def _rate_and_failures(self) -> str:
        """The rate, and failures by kind."""
        seconds = time.perf_counter() - self.timings.begun
        failures = "".join(f", {count} {kind}" for kind, count in self.failures.most_common(3))
        return f"{self.timings.clips / max(seconds, 1e-9):.1f}/s{failures}"

    def _state(self) -> dict[str, Any]:
        timings = self.timings
        return {
            "clips_done": timings.clips,
            "clips_total": self.clips,
            "seconds": round(time.perf_counter() - timings.begun, 3),
            "waiting_for_decode_seconds": round(timings.waiting, 3),
            "encoder_seconds": round(timings.encoding, 3),
            "encoder_gpu_seconds": round(timings.device, 3),
            "waiting_for_disk_seconds": round(timings.writing, 3),
            "decode_cpu_seconds": round(timings.decode_cpu_seconds, 3),
            "failures": dict(self.failures),
        }


def metrics_writer(path: Path | None) -> OnCommit | None:
    """A function that appends a line of JSON to a file, which is tried now and not after hours.

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
