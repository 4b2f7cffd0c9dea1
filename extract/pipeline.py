"""The three hands of a run: decode processes, the thread with the networks, the thread that writes.

    decode processes ──clips──► networks (the caller's thread) ──units──► writer (a thread)

The queue to the writer holds two units: a slow disk slows the networks down, and memory stays flat.
A unit's batches depend on the unit alone, and its clips come in order, so that a run that was
interrupted makes the same rows when it goes on.
"""

import json
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any

import torch

from extract.child import Outcome
from extract.decode import Clip, failed
from extract.encode import UnitEncoder
from extract.encoders import VisualEncoder
from extract.goals import Goal, Unit
from extract.report import FAILING, INTERRUPTED, Spent
from store import Manifest, Status
from store.errors import InputError

UNITS_AHEAD = 2  # that wait for the writer
ENOUGH_CLIPS = 500  # before a share of failures says anything

# (done, total, message, told): called for every clip; `message` is one line for every commit,
# `told` the rate and the failures so far.
Progress = Callable[..., None]


@dataclass(slots=True, kw_only=True, eq=False)
class Pipeline:
    """One run. `stop`, once set, lets the units that the networks have begun be finished."""

    manifest: Manifest
    units: Sequence[Unit]
    spent: Spent
    progress: Progress
    retrying: bool
    max_failures: float
    stop: Event
    metrics: Path | None = None
    stopped: str = ""  # why, if it was before the end
    failures: Counter[str] = field(default_factory=Counter)  # clips of this run by kind
    _total: int = 0
    _finished: int = 0  # units
    _begun: set[int] = field(default_factory=set)  # units that the networks have seen a clip of

    def work(self, outcomes: Iterator[Outcome]) -> None:
        """Take clips as they are decoded, encode them, and commit a unit when its last is in."""
        self._total = sum(map(len, self.units))
        with _Writer() as writer:
            for number, place, outcome in self._in_turn(outcomes):
                self._encode(number, place, outcome)
                self._tell(writer.done())
                if place + 1 == len(self.units[number]):
                    self._begun.discard(number)
                    self._hand_over(number, writer)
                if self._ends():
                    break
            with self.spent.on("writing"):
                writer.finish()
            self._tell(writer.done())

    def _ends(self) -> bool:
        """Whether to stop before the end, and nothing begun is left to be finished."""
        bad = sum(self.failures.values())
        if self.stop.is_set():
            self.stopped = INTERRUPTED
        elif self.spent.clips >= ENOUGH_CLIPS and bad > self.max_failures * self.spent.clips:
            self.stopped = FAILING
        return bool(self.stopped) and not self._begun

    def _in_turn(self, outcomes: Iterator[Outcome]) -> Iterator[tuple[int, int, Outcome]]:
        """Outcomes with their unit and place in it: in order within a unit, so that its batches
        are the same every time; a clip that hangs holds up the rest of its own unit only.
        """
        firsts = [0, *accumulate(map(len, self.units))]
        waiting: dict[int, dict[int, Outcome]] = {}
        due: dict[int, int] = {}
        while True:
            with self.spent.on("waiting"):
                outcome = next(outcomes, None)
            if outcome is None:
                return
            number = bisect_right(firsts, outcome.index) - 1
            if self.stopped and number not in self._begun:
                continue
            held = waiting.setdefault(number, {})
            held[outcome.index - firsts[number]] = outcome
            place = due.get(number, 0)
            while place in held:
                yield number, place, held.pop(place)
                place += 1
            due[number] = place
            if place == len(self.units[number]):
                del waiting[number], due[number]

    def _encode(self, number: int, place: int, outcome: Outcome) -> None:
        row, wanted = self.units[number][place]
        self._begun.add(number)
        self.spent.clips += 1
        self.spent.decode_cpu_seconds += outcome.cpu_seconds
        self.spent.decoder_bytes = max(self.spent.decoder_bytes, outcome.resident_bytes)
        clip: Clip = outcome.value or failed(outcome.status, outcome.detail)
        with self.spent.on("encoding"):
            for goal in wanted:
                goal.encoder_of(number).put(self.manifest.clip_ids[row], clip)
        sides = {isinstance(goal.encoder, VisualEncoder) for goal in wanted}
        found = [clip.visual if side else clip.audio for side in sides]
        if bad := [status for status in found if status.failed]:
            self.failures[bad[0].kind] += 1
        self.progress(self.spent.clips, self._total, "", self._told())

    def _hand_over(self, number: int, writer: "_Writer") -> None:
        """Give what the unit's features have gathered to the writer."""
        unit = self.units[number]
        for goal in {id(goal): goal for _, wanted in unit for goal in wanted}.values():
            encoder = goal.units.pop(number)
            with self.spent.on("encoding"):
                encoder.flush()
            goal.items += encoder.packer.items
            goal.slots += encoder.packer.slots
            with self.spent.on("writing"):
                writer.put(lambda g=goal, e=encoder: self._commit(number, g, e))

    def _commit(self, number: int, goal: Goal, unit: UnitEncoder) -> dict[str, Any]:
        """In the writer: commit what a unit has gathered, and say what it was."""
        begun = time.perf_counter()
        rows = unit.rows()
        retry = goal.feature.tries(rows.clip_ids) if self.retrying else 0
        goal.feature.commit(rows, goal.notes(), retry=retry)
        kinds = [Status(int(code)).kind for code in rows.status]
        goal.new += len(kinds)
        return {
            "feature": goal.feature.name,
            "unit": number,
            "clips": len(kinds),
            "rows": len(rows.values),
            "status": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
            "commit_seconds": round(time.perf_counter() - begun, 4),
        }

    def _tell(self, commits: Sequence[dict[str, Any]]) -> None:
        """Report what was committed since the last time."""
        for one in commits:
            self.spent.committing += one["commit_seconds"]
            told = ", ".join(f"{count} {kind}" for kind, count in one["status"].items())
            message = (
                f"unit {one['unit'] + 1}/{len(self.units)} {one['feature']}: {one['rows']} rows of "
                f"{one['clips']} clips ({told})"
            )
            self.progress(self.spent.clips, self._total, message, self._told())
            if self.metrics:
                self._measure(one)

    def _told(self) -> str:
        """The rate, and failures by kind."""
        seconds = time.perf_counter() - self.spent.begun
        failures = "".join(f", {count} {kind}" for kind, count in self.failures.most_common(3))
        return f"{self.spent.clips / max(seconds, 1e-9):.1f}/s{failures}"

    def _measure(self, commit: dict[str, Any]) -> None:
        spent = self.spent
        line = {
            "time": round(time.time(), 3),
            **commit,
            "clips_done": spent.clips,
            "clips_total": self._total,
            "seconds": round(time.perf_counter() - spent.begun, 3),
            "waiting_for_decode_seconds": round(spent.waiting, 3),
            "encoder_seconds": round(spent.encoding, 3),
            "waiting_for_disk_seconds": round(spent.writing, 3),
            "decode_cpu_seconds": round(spent.decode_cpu_seconds, 3),
            "failures": dict(self.failures),
        }
        assert self.metrics is not None
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")


def check_metrics(path: Path | None) -> None:
    """Open it before hours of work, not after.

    Raises:
        InputError: it cannot be written.
    """
    if path is None:
        return
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; name another file") from None


class _Writer:
    """A thread that does one task after the other; the queue before it is short.

    What a task raises comes out of the next `put` or `finish`. Leaving the context waits for what
    was put, whatever happened, so that nothing encoded is lost.
    """

    def __init__(self) -> None:
        self._tasks: Queue[Callable[[], dict[str, Any]] | None] = Queue(UNITS_AHEAD)
        self._done: Queue[dict[str, Any]] = Queue()
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._work, name="writer", daemon=True)

    def __enter__(self) -> "_Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._tasks.put(None)
            self._thread.join()

    def put(self, task: Callable[[], dict[str, Any]]) -> None:
        """Wait for a place, and leave the task there."""
        self._check()
        self._tasks.put(task)

    def done(self) -> list[dict[str, Any]]:
        """What tasks gave since the last call."""
        found = []
        while not self._done.empty():
            found.append(self._done.get())
        return found

    def finish(self) -> None:
        """Wait until all is done."""
        self._tasks.put(None)
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        with torch.inference_mode():
            while (task := self._tasks.get()) is not None:
                if self._failure is not None:
                    continue  # take what comes, so that nobody waits for a place
                try:
                    self._done.put(task())
                except BaseException as error:
                    self._failure = error
