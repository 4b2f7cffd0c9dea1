"""A function mapped over items in child processes that may hang, crash or eat all memory.

The parent owns the deadline of each item: a child that is late is killed and replaced, and one that
dies takes only the item with it that it worked on; what else it had in hand goes to the next.
Children (`extract/processes/child.py`) are replaced after so many items, and when they have grown,
so that leaks in libraries stay small. What a child says is data, held against what it should be:
one that media have taken over can spoil items, and nothing else.

What waits for the caller is bounded, by count and by bytes (`Limits`): that bounds
memory, and makes a slow caller slow the children down. In order, the items behind one that hangs
wait too; `ordered=False` gives them as they are finished, and one that hangs stops nothing.
"""

import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from extract.processes.child import Outcome, Ready, Risk, Work
from extract.processes.sandbox import Confinement
from extract.processes.slot import (
    MESSAGE_SECONDS,
    NOBODYS,
    OVERDUE_SECONDS,
    START_SECONDS,
    ChildProcess,
    Item,
    Pace,
    Slot,
)
from extract.processes.slot import Limits as Limits
from extract.processes.transport import SHARED, Received
from store.errors import ConfigError, MicroshotError, ProcessError
from store.status import Status

FALSE_STARTS = 2
TOGETHER = 16  # the most items in a row with one key that go to one child
POLL_SECONDS = 0.05
MOST_PARTS = 64  # of an answer
NONSENSE_LENGTH = 300  # of what a child said, in a detail


@dataclass(frozen=True, slots=True)
class Parts:
    """Answers that come in parts: what to ask for after one, and what they make together."""

    rest: Callable[[Any, Any], Any]  # of item and answer: the item of what is left out, or None
    joined: Callable[[list[Any]], Any]


def process_map(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int,
    limits: Limits,
    ordered: bool = True,
    together: Callable[[Any], Any] | None = None,
    again: Callable[[Any], Any] | None = None,
    parts: Parts | None = None,
    shared: bool = SHARED,
) -> Generator[Outcome, None, None]:
    """`function(item)` of each item from `workers` child processes, in order if asked.

    Items in a row for which `together` gives the same value go to one child, one after the other.
    Where a child dies, or `function` has called `child.risk` and then takes more than half of its
    time, `again(item)` is tried in what is left of it. With `parts` an answer may leave something
    out, which the same child is then asked for. Close the generator, or exhaust it, and
    every child is dead. `function` reads no files but those that `limits.sandbox` names, and
    answers with what `wire.py` knows.

    Raises:
        ConfigError: the sandbox is required, and this kernel lacks some of it.
        ProcessError: a child does not start.
        OSError, MemoryError: the system gives us no more processes or memory.
        RuntimeError: `items` raised anything else.
    """
    work = Work(function, parts.rest if parts else None)
    pool = _Pool(
        lambda: ChildProcess(work, limits, shared),
        replace(limits, ahead=max(limits.ahead, workers)),
        ordered=ordered,
        together=together,
        again=again,
        parts=parts,
    )
    thread = threading.Thread(
        target=pool.drive, args=(iter(items), workers), name="decode", daemon=True
    )
    thread.start()
    try:
        while (outcome := pool.take()) is not None:
            yield outcome
    finally:
        pool.stopped = True
        thread.join()


class _Pool:
    """The children, and the thread that feeds them."""

    def __init__(
        self,
        spawn: Callable[[], ChildProcess],
        limits: Limits,
        *,
        ordered: bool,
        together: Callable[[Any], Any] | None,
        again: Callable[[Any], Any] | None,
        parts: Parts | None = None,
    ) -> None:
        self.spawn, self.together, self.again = spawn, together, again
        self.parts = parts
        self.limits, self.ordered = limits, ordered
        self.slots: list[Slot] = []
        self.pace = Pace()
        self.coming: deque[Any] = deque()  # looked at, not given to a slot
        self.orphans: deque[Item] = deque()  # given to one that has no time for them
        self.exhausted = False
        self.given = 0
        self.taken = 0
        self.total: int | None = None  # known once the last item is given
        self.finished: dict[int, tuple[Outcome, int]] = {}  # with its bytes
        self.waiting_bytes = 0
        self.changed = threading.Condition()
        self.failure: BaseException | None = None
        self.stopped = False

    def take(self) -> Outcome | None:
        """The next outcome; None after the last."""
        with self.changed:
            while (index := self._next()) is None:
                if isinstance(self.failure, MicroshotError | OSError | MemoryError):
                    raise self.failure
                if self.failure is not None:
                    raise RuntimeError(f"decoding stopped: {self.failure}") from self.failure
                if self.taken == self.total:
                    return None
                self.changed.wait()
            outcome, size = self.finished.pop(index)
            self.taken += 1
            self.waiting_bytes -= size
            self.changed.notify_all()
            return outcome

    def _next(self) -> int | None:
        if self.ordered:
            return self.taken if self.taken in self.finished else None
        return next(iter(self.finished), None)

    def drive(self, items: Iterator[Any], workers: int) -> None:
        """Feed the children until the items are used up or the caller is gone."""
        try:
            self.slots = [Slot(self.spawn()) for _ in range(workers)]
            while not self.stopped:
                self._feed(items)
                if self.total is not None and not (
                    self.orphans or any(s.owing for s in self.slots)
                ):
                    break
                self._collect()
        except BaseException as error:
            self.failure = error
        finally:
            for slot in self.slots:
                slot.child.kill()
            with self.changed:
                self.changed.notify_all()

    def _feed(self, items: Iterator[Any]) -> None:
        """Give idle children work: what waits for them, or what may be begun."""
        for slot in self.slots:
            if not slot.child.ready:
                continue
            if slot.rest is not None:
                if self._may_go_on(slot):
                    slot.ask(slot.rest, self.limits.deadline_seconds)
            elif len(slot.hand) <= 1 and not slot.alone:
                self._hand_out(slot, items)

    def _hand_out(self, slot: Slot, items: Iterator[Any]) -> None:
        """Give a child that is idle, or works on the last item it has, as much as it may have."""
        left = self.limits.recycle_items - slot.child.served
        count = min(self.pace.in_hand - len(slot.hand), max(left, 0 if slot.hand else 1))
        while len(slot.queue) < count and (self.orphans or self._may_begin()):
            slot.queue.extend([self.orphans.popleft()] if self.orphans else self._run(items))
        if slot.queue and count:
            slot.give(count, self.limits.deadline_seconds)

    def _may_begin(self) -> bool:
        with self.changed:
            full = (
                self.given >= self.taken + self.limits.ahead
                or self.waiting_bytes >= self.limits.ahead_bytes
            )
            return self.total is None and not full

    def _may_go_on(self, slot: Slot) -> bool:
        """Whether there is room for another part; always for the oldest item, or nobody would ever
        give any back.
        """
        begun = [s for s in self.slots if s.hand and s.hand[0][0] != NOBODYS]
        if slot is min(begun, key=lambda s: s.hand[0][0]):
            return True
        held = self.waiting_bytes + sum(s.part_bytes for s in begun)
        return held < self.limits.ahead_bytes

    def _run(self, items: Iterator[Any]) -> list[Item]:
        """The next item, and those after it that belong to it."""
        run: list[Item] = []
        first = None  # what they have in common
        while len(run) < (TOGETHER if self.together else 1) and self._look(items):
            of = self.together(self.coming[0]) if self.together else None
            if not run:
                first = of
            elif of != first:
                break
            run.append((self.given, self.coming.popleft()))
            self.given += 1
        if self.exhausted and not self.coming:
            with self.changed:
                self.total = self.given
                self.changed.notify_all()
        return run

    def _look(self, items: Iterator[Any]) -> bool:
        """Have the next item at hand; False if there is none."""
        if not self.coming and not self.exhausted:
            try:
                self.coming.append(next(items))
            except StopIteration:
                self.exhausted = True
        return bool(self.coming)

    def _collect(self) -> None:
        """Take what is ready, and kill what is late."""
        listening = [s for s in self.slots if (s.hand and s.rest is None) or not s.child.ready]
        if not listening:
            with self.changed:
                self.changed.wait(POLL_SECONDS)
            return
        ready = _readable([s.child.connection.fileno() for s in listening])
        for slot in listening:
            child, item = slot.child, slot.hand[0] if slot.hand else None
            if child.connection.fileno() in ready:
                while self._receive(slot):
                    pass
            if slot.child is child and slot.hand and slot.hand[0] is item:
                self._check_time(slot)  # also of one that says something all the while

    def _check_time(self, slot: Slot) -> None:
        now, since = time.monotonic(), slot.child.inbox.since
        if since is not None and now - since > MESSAGE_SECONDS:
            self._failed(slot, Status.DEADLINE, "it stopped in the middle of its answer")
        elif now - slot.since <= slot.allowed_seconds:
            if slot.hand and now - slot.since > OVERDUE_SECONDS:
                self.orphans.extend(slot.disown())
        elif not slot.child.ready:
            raise TimeoutError(f"a decode process did not start in {START_SECONDS:.0f} s")
        elif slot.hand:
            self._failed(slot, Status.DEADLINE, f"not done after {slot.allowed_seconds:g} s")

    def _receive(self, slot: Slot) -> bool:
        """Take in a message; whether it is worth asking for another one now."""
        try:
            received = slot.child.inbox.receive()
        except (EOFError, OSError):
            self._died(slot)
            return False
        except Exception as error:  # its memory may be anybody's by now
            received = Received(error, 0)
        if received is None:
            return False
        match message := received.message:
            case Ready() if not slot.child.ready:
                self._begin(slot, message.confinement)
            case Risk() if slot.hand:
                slot.risk = message.step
                if self.again is not None and not slot.earlier:
                    share = 0.5 if message.step else 1.0
                    slot.allowed_seconds = share * self.limits.deadline_seconds
            case Outcome() if slot.hand:
                return self._answered(slot, message, received)
            case _:
                said = str(message)[:NONSENSE_LENGTH]
                self._failed(slot, Status.CRASH, f"the decoder answered nonsense: {said}")
        return False

    def _begin(self, slot: Slot, confinement: Confinement) -> None:
        """A child is ready: an item that killed the one before is tried in another way."""
        self._check_confinement(confinement)
        slot.child.ready = True
        slot.false_starts = 0
        slot.confinement = confinement
        if slot.hand and slot.rest is None:
            assert self.again is not None
            slot.ask(self.again(slot.asked), slot.left_seconds)

    def _answered(self, slot: Slot, outcome: Outcome, received: Received) -> bool:
        """Take in an answer; whether the same child has gone on to the next item."""
        self.pace.learn(outcome.seconds, received.size)
        left_out = self._keep_part(slot, outcome, received.size)
        if not left_out:
            self._finish(slot, outcome, received.size)
        if left_out or received.pauses:
            slot.take_back(int(left_out))
            slot.paused = True
        if slot.hand and not left_out:
            slot.begin(self.limits.deadline_seconds)
        spent = slot.child.served >= self.limits.recycle_items and (left_out or not slot.hand)
        if spent or outcome.resident_bytes > self.limits.recycle_bytes:
            slot.take_back(int(left_out))
            self._replace(slot)
            return False
        return bool(slot.hand)

    def _check_confinement(self, confinement: Confinement) -> None:
        if self.limits.sandbox.mode == "require" and confinement.missing:
            why = "; ".join(f"{layer}: {why}" for layer, why in confinement.missing.items())
            raise ConfigError(f"the sandbox is required and not whole here ({why}); see: --sandbox")

    def _died(self, slot: Slot) -> None:
        try:
            code = slot.child.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = slot.child.kill()
        if not slot.child.ready:
            slot.false_starts += 1  # somebody may have killed it, as a system short of memory does
            if slot.false_starts > FALSE_STARTS:
                raise ProcessError(
                    f"a decode process does not start (exit code {code} each of "
                    f"{slot.false_starts} times); what it printed stands above. Is there memory "
                    "for it, and are --workers no more than the system allows?"
                )
            self._replace(slot)
            return
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        late = cause == "SIGXCPU"
        self._failed(slot, Status.DEADLINE if late else Status.CRASH, f"the decoder died: {cause}")

    def _failed(self, slot: Slot, status: Status, detail: str) -> None:
        """Replace the child; its item gets a second try if it died, or if there is another way."""
        elapsed = time.monotonic() - slot.since
        mine = bool(slot.hand) and slot.hand[0][0] != NOBODYS
        slot.take_back(int(mine))
        self._replace(slot)
        if not mine:
            return
        detail = f"{slot.risk}: {detail}" if slot.risk else detail
        worth = slot.risk or status == Status.CRASH
        if worth and self.again is not None and not slot.earlier:
            slot.earlier = detail
            slot.left_seconds = max(self.limits.deadline_seconds - elapsed, 0.0)
            return
        detail = f"{slot.earlier}; {detail}" if slot.earlier else detail
        self._finish(slot, Outcome(status=status, detail=detail), 0)

    def _replace(self, slot: Slot) -> None:
        slot.child.kill()
        slot.put(self.spawn())

    def _keep_part(self, slot: Slot, outcome: Outcome, size: int) -> bool:
        """Keep an answer that left something out, to ask for that; False if it did not."""
        counts = slot.hand[0][0] != NOBODYS and outcome.status == Status.OK
        if self.parts is None or not counts or len(slot.parts) >= MOST_PARTS:
            return False
        slot.rest = self.parts.rest(slot.asked, outcome.value)
        if slot.rest is None:
            return False
        slot.parts.append(outcome)
        slot.part_bytes += size
        return True

    def _whole(self, slot: Slot, last: Outcome) -> Outcome:
        """The outcome of all parts of an item."""
        outcomes = [*slot.parts, last]
        seconds = sum(outcome.cpu_seconds for outcome in outcomes)
        if self.parts is None or last.status != Status.OK:
            return replace(last, cpu_seconds=seconds)
        try:
            value = self.parts.joined([outcome.value for outcome in outcomes])
        except Exception as error:  # its memory may be anybody's by now
            detail = f"the decoder answered nonsense: {error}"[:NONSENSE_LENGTH]
            return Outcome(status=Status.CRASH, detail=detail, cpu_seconds=seconds)
        return replace(last, value=value, cpu_seconds=seconds)

    def _finish(self, slot: Slot, outcome: Outcome, size: int) -> None:
        index, _ = slot.hand.popleft()
        if index == NOBODYS:
            return
        if slot.parts:
            outcome, size = self._whole(slot, outcome), size + slot.part_bytes
        slot.rest, slot.parts, slot.part_bytes = None, [], 0
        with self.changed:
            known = replace(
                outcome, index=index, earlier=slot.earlier, confinement=slot.confinement
            )
            self.finished[index] = (known, size)
            self.waiting_bytes += size
            self.changed.notify_all()
        slot.earlier = ""


def _readable(files: list[int]) -> set[int]:
    """Those of which something can be read, now or soon."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    return {file for file, _ in poll.poll(1000 * POLL_SECONDS)}
