"""A function mapped over items in child processes that may hang, crash or eat all memory.

Each child has one item in flight, and the parent owns the deadline: a child that is late is killed
and replaced, and one that dies takes only its own item with it. Children
(`extract/processes/child.py`) are replaced after so many items, and when they have grown, so that
leaks in libraries stay small. What a child says is data, held against what it should be: one that
media have taken over can spoil items, and nothing else.

What waits for the caller is bounded, by count and by bytes (`Limits`): that bounds
memory, and makes a slow caller slow the children down. In order, the items behind one that hangs
wait too; `ordered=False` gives them as they are finished, and one that hangs stops nothing.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Pipe, wait
from typing import Any

from extract.processes.child import Outcome, Ready, Risk
from extract.processes.sandbox import AUTO, Confinement, Sandbox
from extract.processes.transport import SHARED, Inbox, shared_file
from store.errors import ConfigError, MicroshotError, ProcessError
from store.status import Status

START_SECONDS = 120.0
FALSE_STARTS = 2
TOGETHER = 16  # the most items in a row with one key that go to one child
POLL_SECONDS = 0.05
MESSAGE_SECONDS = 10  # a message that has begun to come must have come by then
MOST_PARTS = 64  # of an answer
NONSENSE_LENGTH = 300  # of what a child said, in a detail
CPU_SLACK = 2.0  # times the deadline: a library may run two threads
_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "TMPDIR")
_BOOT = (
    "import sys; from multiprocessing.connection import Connection; "
    "parent = Connection(int(sys.argv[1])); sys.path[:] = parent.recv(); "
    "from extract.processes.child import serve; "
    "file = int(sys.argv[2]); "
    "serve(parent, None if file < 0 else file, int(sys.argv[3]), float(sys.argv[4]))"
)
Item = tuple[int, Any]  # an item and its index


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a child for an item, of its life, and of the results that wait for the caller."""

    deadline_seconds: float
    memory_bytes: int = 4 << 30
    recycle_items: int = 2000  # after so many a child is replaced,
    recycle_bytes: int = 1 << 30  # or once it has grown so large
    ahead: int = 4096  # items begun and not taken
    ahead_bytes: int = 1 << 30  # of their values
    sandbox: Sandbox = AUTO


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
    pool = _Pool(
        lambda: _Child(function, limits, shared),
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


class _Child:
    """One process."""

    def __init__(self, function: Callable[[Any], Any], limits: Limits, shared: bool) -> None:
        self.connection, child_end = Pipe()
        file = shared_file() if shared else None
        self.inbox = Inbox(self.connection.fileno(), file)
        with socket.socket(fileno=os.dup(self.connection.fileno())) as parent_end:
            patience = struct.pack("ll", MESSAGE_SECONDS, 0)  # with a child that takes nothing
            parent_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        cpu_seconds = CPU_SLACK * limits.deadline_seconds
        passed = [child_end.fileno(), *([] if file is None else [file])]
        arguments = [-1 if file is None else file, limits.memory_bytes, cpu_seconds]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(child_end.fileno()), *map(str, arguments)],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
            | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C in a terminal is the parent's to handle
        )
        child_end.close()
        with suppress(ConnectionError):  # it is dead already, which whoever listens will see
            self.connection.send(sys.path)
            self.connection.send((function, limits.sandbox))
        self.ready = False
        self.served = 0

    def kill(self) -> int:
        """End it, and whatever it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.connection.close()
        self.inbox.close()
        return self.process.wait()


class _Slot:
    """One child after the other, and the items that are its own."""

    def __init__(self, child: _Child) -> None:
        self.queue: deque[Item] = deque()
        self.working: Item | None = None
        self.earlier = ""  # detail of the first try; not empty during the second
        self.left_seconds = 0.0  # for the second
        self.risk = ""  # what the child was about to do
        self.asked: Any = None  # the item itself, or that of its part in hand
        self.rest: Any = None  # that of the next part, once there is room for it
        self.parts: list[Outcome] = []  # that have come
        self.part_bytes = 0
        self.false_starts = 0  # children in a row that died before they were ready
        self.confinement: Confinement | None = None  # of the last child that was ready
        self.put(child)

    def put(self, child: _Child) -> None:
        self.child = child
        self.since, self.allowed_seconds = time.monotonic(), START_SECONDS

    def give(self, item: Any, allowed_seconds: float) -> None:
        self.since, self.allowed_seconds = time.monotonic(), allowed_seconds
        self.risk, self.asked, self.rest = "", item, None
        self.child.served += 1
        with suppress(OSError):  # if it died idle, its closed connection says so soon
            self.child.connection.send(item)


class _Pool:
    """The children, and the thread that feeds them."""

    def __init__(
        self,
        spawn: Callable[[], _Child],
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
        self.slots: list[_Slot] = []
        self.coming: deque[Any] = deque()  # looked at, not given to a slot
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
            self.slots = [_Slot(self.spawn()) for _ in range(workers)]
            while not self.stopped:
                self._feed(items)
                if self.total is not None and not any(s.working or s.queue for s in self.slots):
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
            if slot.child.ready and slot.rest is not None and self._may_go_on(slot):
                slot.give(slot.rest, self.limits.deadline_seconds)
            if not slot.child.ready or slot.working is not None:
                continue
            if not slot.queue and self._may_begin():
                slot.queue.extend(self._run(items))
            if slot.queue:
                slot.working, slot.earlier = slot.queue.popleft(), ""
                slot.give(slot.working[1], self.limits.deadline_seconds)

    def _may_begin(self) -> bool:
        with self.changed:
            full = (
                self.given >= self.taken + self.limits.ahead
                or self.waiting_bytes >= self.limits.ahead_bytes
            )
            return self.total is None and not full

    def _may_go_on(self, slot: _Slot) -> bool:
        """Whether there is room for another part; always for the oldest item, or nobody would ever
        give any back.
        """
        begun = [s for s in self.slots if s.working is not None]
        if slot is min(begun, key=lambda s: s.working[0] if s.working else 0):
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
        listening = [
            s for s in self.slots if (s.working is not None and s.rest is None) or not s.child.ready
        ]
        if not listening:
            with self.changed:
                self.changed.wait(POLL_SECONDS)
            return
        ready = set(wait([s.child.connection for s in listening], timeout=POLL_SECONDS))
        for slot in listening:
            child, working = slot.child, slot.working
            if child.connection in ready:
                self._receive(slot)
            if slot.child is child and slot.working is working:
                self._check_time(slot)  # also of one that says something all the while

    def _check_time(self, slot: _Slot) -> None:
        now, since = time.monotonic(), slot.child.inbox.since
        if since is not None and now - since > MESSAGE_SECONDS:
            self._failed(slot, Status.DEADLINE, "it stopped in the middle of its answer")
        elif now - slot.since <= slot.allowed_seconds:
            return
        elif not slot.child.ready:
            raise TimeoutError(f"a decode process did not start in {START_SECONDS:.0f} s")
        elif slot.working is not None:
            self._failed(slot, Status.DEADLINE, f"not done after {slot.allowed_seconds:g} s")

    def _receive(self, slot: _Slot) -> None:
        try:
            received = slot.child.inbox.receive()
        except (EOFError, OSError):
            self._died(slot)
            return
        except Exception as error:  # its memory may be anybody's by now
            received = error, 0
        if received is None:
            return
        message, size = received
        match message:
            case Ready() if not slot.child.ready:
                self._check_confinement(message.confinement)
                slot.child.ready = True
                slot.false_starts = 0
                slot.confinement = message.confinement
                if slot.working is not None and slot.rest is None:
                    assert self.again is not None
                    slot.give(self.again(slot.asked), slot.left_seconds)
            case Risk() if slot.working is not None:
                slot.risk = message.step
                if self.again is not None and not slot.earlier:
                    share = 0.5 if message.step else 1.0
                    slot.allowed_seconds = share * self.limits.deadline_seconds
            case Outcome() if slot.working is not None:
                if not self._keep_part(slot, message, size):
                    self._finish(slot, message, size)
                grown = message.resident_bytes > self.limits.recycle_bytes
                if grown or slot.child.served >= self.limits.recycle_items:
                    self._replace(slot)
            case _:
                said = str(message)[:NONSENSE_LENGTH]
                self._failed(slot, Status.CRASH, f"the decoder answered nonsense: {said}")

    def _check_confinement(self, confinement: Confinement) -> None:
        if self.limits.sandbox.mode == "require" and confinement.missing:
            why = "; ".join(f"{layer}: {why}" for layer, why in confinement.missing.items())
            raise ConfigError(f"the sandbox is required and not whole here ({why}); see: --sandbox")

    def _died(self, slot: _Slot) -> None:
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

    def _failed(self, slot: _Slot, status: Status, detail: str) -> None:
        """Replace the child; its item gets a second try if it died, or if there is another way."""
        elapsed = time.monotonic() - slot.since
        self._replace(slot)
        if slot.working is None:
            return
        detail = f"{slot.risk}: {detail}" if slot.risk else detail
        worth = slot.risk or status == Status.CRASH
        if worth and self.again is not None and not slot.earlier:
            slot.earlier = detail
            slot.left_seconds = max(self.limits.deadline_seconds - elapsed, 0.0)
            return
        detail = f"{slot.earlier}; {detail}" if slot.earlier else detail
        self._finish(slot, Outcome(status=status, detail=detail), 0)

    def _replace(self, slot: _Slot) -> None:
        slot.child.kill()
        slot.put(self.spawn())

    def _keep_part(self, slot: _Slot, outcome: Outcome, size: int) -> bool:
        """Keep an answer that left something out, to ask for that; False if it did not."""
        if self.parts is None or outcome.status != Status.OK or len(slot.parts) >= MOST_PARTS:
            return False
        slot.rest = self.parts.rest(slot.asked, outcome.value)
        if slot.rest is None:
            return False
        slot.parts.append(outcome)
        slot.part_bytes += size
        return True

    def _whole(self, slot: _Slot, last: Outcome) -> Outcome:
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

    def _finish(self, slot: _Slot, outcome: Outcome, size: int) -> None:
        assert slot.working is not None
        index, _ = slot.working
        if slot.parts:
            outcome, size = self._whole(slot, outcome), size + slot.part_bytes
        slot.working, slot.rest, slot.parts, slot.part_bytes = None, None, [], 0
        with self.changed:
            known = replace(
                outcome, index=index, earlier=slot.earlier, confinement=slot.confinement
            )
            self.finished[index] = (known, size)
            self.waiting_bytes += size
            self.changed.notify_all()
