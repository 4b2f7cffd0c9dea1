"""The three stages of a run: decode processes, a thread with the networks, one that writes.

    decode processes ──clips──► networks (the caller's thread) ──units──► writer (a thread)

The queue to the writer holds two units: a slow disk slows the networks down, and memory stays flat.
A unit's batches depend on the unit alone, and its clips come in order, so that a run that was
interrupted makes the same rows when it goes on.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Queue
from threading import Thread
from typing import Any

import torch

from extract.media.clip import Clip, failed
from extract.pipeline.outputs import Output, Units
from extract.pipeline.progress import RunProgress
from extract.pipeline.unit_encoder import UnitEncoder
from extract.processes.child import Outcome
from store import Manifest, Status

UNITS_AHEAD = 2  # that wait for the writer
# Rows that are gathered before they are committed, though their unit goes on: 512 clips of every
# frame would take gigabytes, several times over.
PIECE_BYTES = 256 << 20


@dataclass(slots=True, kw_only=True, eq=False)
class Pipeline:
    """Encodes and commits units. When the run is to end early, the units that the networks have
    begun are finished.
    """

    manifest: Manifest
    units: Units
    progress: RunProgress
    _begun: set[int] = field(default_factory=set)  # units that the networks have seen a clip of

    def work(self, outcomes: Iterator[Outcome]) -> None:
        """Take clips as they are decoded, encode them, and commit a unit when its last is in."""
        with _Writer() as writer:
            for number, position, outcome in self._in_turn(outcomes):
                self._encode(number, position, outcome, writer)
                self.progress.report_commits(writer.done())
                if position + 1 == len(self.units[number]):
                    self._begun.discard(number)
                    self._hand_over(number, writer)
                self.progress.check()
                if self.progress.stopped and not self._begun:
                    break
            with self.progress.timings.on("writing"):
                writer.finish()
            self.progress.report_commits(writer.done())

    def _in_turn(self, outcomes: Iterator[Outcome]) -> Iterator[tuple[int, int, Outcome]]:
        """Outcomes with their unit and index in it: in order within a unit, so that its batches
        are the same every time; a clip that hangs holds up the rest of its own unit only.
        """
        firsts = self.units.planned.first.tolist()
        waiting: dict[int, dict[int, Outcome]] = {}
        due: dict[int, int] = {}
        while True:
            with self.progress.timings.on("waiting"):
                outcome = next(outcomes, None)
            if outcome is None:
                return
            number = bisect_right(firsts, outcome.index) - 1
            if self.progress.stopped and number not in self._begun:
                continue
            held = waiting.setdefault(number, {})
            held[outcome.index - firsts[number]] = outcome
            position = due.get(number, 0)
            while position in held:
                yield number, position, held.pop(position)
                position += 1
            due[number] = position
            if position == len(self.units[number]):
                del waiting[number], due[number]

    def _encode(self, number: int, position: int, outcome: Outcome, writer: "_Writer") -> None:
        row, wanted = self.units[number][position]
        timings = self.progress.timings
        self._begun.add(number)
        timings.clips += 1
        timings.decode_cpu_seconds += outcome.cpu_seconds
        timings.decoder_bytes = max(timings.decoder_bytes, outcome.resident_bytes)
        if outcome.confinement is not None:
            timings.confinement = outcome.confinement.and_of(timings.confinement)
        clip: Clip = outcome.value or failed(outcome.status, outcome.detail)
        with timings.on("encoding"):
            for output in wanted:
                output.encoder_of(number).put(self.manifest.clip_ids[row], clip)
        for output in wanted:
            if output.encoder_of(number).bytes >= PIECE_BYTES:
                self._hand_over_piece(number, output, writer)
        modalities = {output.encoder.modality for output in wanted}
        statuses = [clip.stream(modality).status for modality in sorted(modalities)]
        if bad := [status for status in statuses if status.failed]:
            self.progress.failures[bad[0].kind] += 1
        self.progress.report_clip()

    def _hand_over(self, number: int, writer: "_Writer") -> None:
        """Give what the unit's features have gathered to the writer."""
        unit = self.units[number]
        for output in {id(output): output for _, wanted in unit for output in wanted}.values():
            if number in output.units:  # a piece may have ended with the unit
                self._hand_over_piece(number, output, writer)

    def _hand_over_piece(self, number: int, output: Output, writer: "_Writer") -> None:
        """Give what one feature has gathered of a unit so far to the writer. Where pieces end
        follows from the clips alone, so that an interrupted run goes on with the same batches.
        """
        encoder, timings = output.units.pop(number), self.progress.timings
        with timings.on("encoding"):
            encoder.flush()
        output.items += encoder.packer.items
        output.slots += encoder.packer.slots
        with timings.on("writing"):
            writer.put(lambda: self._commit(number, output, encoder))

    def _commit(self, number: int, output: Output, unit: UnitEncoder) -> dict[str, Any]:
        """Commit what a unit has gathered, in the writer's thread; returns its counts."""
        begun = time.perf_counter()
        rows, feature = unit.rows(), output.feature
        self.progress.timings.device += unit.packer.clock.seconds
        retry = self.units.retry(number, output)
        clips = new = len(rows.clip_ids)
        status, row_count = rows.status, len(rows.values)
        if not feature.commit(rows, output.notes(), retry=retry):
            new = feature.commit_lacking(rows, output.notes())
            located = feature.locate(rows.clip_ids)  # what the store holds is what is reported
            status, row_count = located.status, int(located.rows.sum())
        output.new += new
        output.by_others += clips - new
        kinds = [Status(int(code)).kind for code in status]
        return {
            "feature": feature.name,
            "unit": number,
            "clips": clips,
            "by_others": clips - new,
            "rows": row_count,
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
        """Queue a task, once there is room for it."""
        self._check()
        self._tasks.put(task)

    def done(self) -> list[dict[str, Any]]:
        """Results of the tasks that ended since the last call."""
        results = []
        while not self._done.empty():
            results.append(self._done.get())
        return results

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
