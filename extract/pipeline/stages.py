"""The three hands of a run: decode processes, the thread with the networks, the thread that writes.

    decode processes ──clips──► networks (the caller's thread) ──units──► writer (a thread)

The queue to the writer holds two units: a slow disk slows the networks down, and memory stays flat.
A unit's batches depend on the unit alone, and its clips come in order, so that a run that was
interrupted makes the same rows when it goes on.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from queue import Queue
from threading import Thread
from typing import Any

import torch

from extract.media.clip import Clip, failed
from extract.pipeline.outputs import Output, Unit
from extract.pipeline.progress import RunProgress
from extract.pipeline.unit_encoder import UnitEncoder
from extract.processes.child import Outcome
from store import Manifest, Status

UNITS_AHEAD = 2  # that wait for the writer


@dataclass(slots=True, kw_only=True, eq=False)
class Pipeline:
    """Units under way. When the ledger says that the run ends, those are finished that the networks
    have begun.
    """

    manifest: Manifest
    units: Sequence[Unit]
    ledger: RunProgress
    retrying: bool
    _begun: set[int] = field(default_factory=set)  # units that the networks have seen a clip of

    def work(self, outcomes: Iterator[Outcome]) -> None:
        """Take clips as they are decoded, encode them, and commit a unit when its last is in."""
        with _Writer() as writer:
            for number, place, outcome in self._in_turn(outcomes):
                self._encode(number, place, outcome)
                self.ledger.tell(writer.done())
                if place + 1 == len(self.units[number]):
                    self._begun.discard(number)
                    self._hand_over(number, writer)
                self.ledger.check()
                if self.ledger.stopped and not self._begun:
                    break
            with self.ledger.spent.on("writing"):
                writer.finish()
            self.ledger.tell(writer.done())

    def _in_turn(self, outcomes: Iterator[Outcome]) -> Iterator[tuple[int, int, Outcome]]:
        """Outcomes with their unit and place in it: in order within a unit, so that its batches
        are the same every time; a clip that hangs holds up the rest of its own unit only.
        """
        firsts = [0, *accumulate(map(len, self.units))]
        waiting: dict[int, dict[int, Outcome]] = {}
        due: dict[int, int] = {}
        while True:
            with self.ledger.spent.on("waiting"):
                outcome = next(outcomes, None)
            if outcome is None:
                return
            number = bisect_right(firsts, outcome.index) - 1
            if self.ledger.stopped and number not in self._begun:
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
        spent = self.ledger.spent
        self._begun.add(number)
        spent.clips += 1
        spent.decode_cpu_seconds += outcome.cpu_seconds
        spent.decoder_bytes = max(spent.decoder_bytes, outcome.resident_bytes)
        clip: Clip = outcome.value or failed(outcome.status, outcome.detail)
        with spent.on("encoding"):
            for goal in wanted:
                goal.encoder_of(number).put(self.manifest.clip_ids[row], clip)
        modalities = {goal.encoder.modality for goal in wanted}
        found = [clip.stream(modality).status for modality in sorted(modalities)]
        if bad := [status for status in found if status.failed]:
            self.ledger.failures[bad[0].kind] += 1
        self.ledger.clip()

    def _hand_over(self, number: int, writer: "_Writer") -> None:
        """Give what the unit's features have gathered to the writer."""
        unit = self.units[number]
        for goal in {id(goal): goal for _, wanted in unit for goal in wanted}.values():
            encoder = goal.units.pop(number)
            with self.ledger.spent.on("encoding"):
                encoder.flush()
            goal.items += encoder.packer.items
            goal.slots += encoder.packer.slots
            with self.ledger.spent.on("writing"):
                writer.put(lambda g=goal, e=encoder: self._commit(number, g, e))

    def _commit(self, number: int, goal: Output, unit: UnitEncoder) -> dict[str, Any]:
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
