"""A function mapped over items in child processes that may hang, crash or eat all memory.

Each child has one item in flight, and the parent owns the deadline: a child that is late is killed
and replaced, and one that dies takes only its own item with it. Children
(`extract/processes/child.py`) are replaced after so many items, and when they have grown, so that
leaks in libraries stay small.

What waits for the caller is bounded, by count (`ahead`) and by bytes (`AHEAD_BYTES`): that bounds
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
from dataclasses import replace
from multiprocessing.connection import Pipe, wait
from typing import Any

from extract.processes.child import Outcome, Ready, Risk
from extract.processes.transport import SHARED, receive
from store.status import Status

MEMORY_BYTES = 4 << 30
AHEAD = 4096
AHEAD_BYTES = 1 << 30
START_SECONDS = 120.0
FALSE_STARTS = 2
RECYCLE_ITEMS = 2000
RECYCLE_BYTES = 1 << 30
TOGETHER = 16  # at most so many items in a row that belong together go to one child
POLL_SECONDS = 0.05
MESSAGE_SECONDS = 10  # a message that has begun to come must have come by then
CPU_SLACK = 2.0  # times the deadline: a library may run two threads
_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "TMPDIR")
_BOOT = (
    "import sys; from multiprocessing.connection import Connection; "
    "parent = Connection(int(sys.argv[1])); sys.path[:] = parent.recv(); "
    "from extract.processes.child import serve; "
    "serve(parent, int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == 'True')"
)
Item = tuple[int, Any]  # an item and its index


def process_map(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int,
    deadline_seconds: float,
    ordered: bool = True,
    ahead: int = AHEAD,
    memory_bytes: int = MEMORY_BYTES,
    together: Callable[[Any], Any] | None = None,
    again: Callable[[Any], Any] | None = None,
    shared: bool = SHARED,
) -> Generator[Outcome, None, None]:
    """`function(item)` of each item from `workers` child processes, in order if asked.

    Items in a row for which `together` gives the same value go to one child, one after the other.
    Where a child dies, or `function` has called `child.risk` and then takes more than half of its
    time, `again(item)` is tried in what is left of it. Close the generator, or exhaust it, and
    every child is dead.

    Raises:
        RuntimeError: a child does not start, or `items` raised.
    """
    crew = _Crew(
        lambda: _Child(function, memory_bytes, CPU_SLACK * deadline_seconds, shared),
        deadline_seconds=deadline_seconds,
        ordered=ordered,
        ahead=max(ahead, workers),
        together=together,
        again=again,
    )
    thread = threading.Thread(
        target=crew.drive, args=(iter(items), workers), name="decode", daemon=True
    )
    thread.start()
    try:
        while (outcome := crew.take()) is not None:
            yield outcome
    finally:
        crew.stopped = True
        thread.join()


class _Child:
    """One process."""

    def __init__(
        self, function: Callable[[Any], Any], memory_bytes: int, cpu_seconds: float, shared: bool
    ) -> None:
        self.connection, theirs = Pipe()
        with socket.socket(fileno=os.dup(self.connection.fileno())) as ours:
            limit = struct.pack("ll", MESSAGE_SECONDS, 0)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        limits = [str(memory_bytes), str(cpu_seconds), str(shared)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), *limits],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
            | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C in a terminal is the parent's to handle
        )
        theirs.close()
        self.connection.send(sys.path)
        self.connection.send(function)
        self.ready = False
        self.served = 0

    def kill(self) -> int:
        self.process.kill()
        self.connection.close()
        return self.process.wait()


class _Seat:
    """A place for one child after the other, and the items that are its own."""

    def __init__(self, child: _Child) -> None:
        self.queue: deque[Item] = deque()
        self.working: Item | None = None
        self.earlier = ""  # what became of the first try; if said, the second is on
        self.left_seconds = 0.0  # for the second
        self.risk = ""  # what the child was about to do
        self.false_starts = 0  # children in a row that died before they were ready
        self.put(child)

    def put(self, child: _Child) -> None:
        self.child = child
        self.since, self.allowed_seconds = time.monotonic(), START_SECONDS

    def give(self, item: Any, allowed_seconds: float) -> None:
        self.since, self.allowed_seconds = time.monotonic(), allowed_seconds
        self.risk = ""
        self.child.served += 1
        with suppress(OSError):  # if it died idle, its closed connection says so soon
            self.child.connection.send(item)


class _Crew:
    """The children, and the thread that feeds them."""

    def __init__(
        self,
        spawn: Callable[[], _Child],
        *,
        deadline_seconds: float,
        ordered: bool,
        ahead: int,
        together: Callable[[Any], Any] | None,
        again: Callable[[Any], Any] | None,
    ) -> None:
        self.spawn, self.together, self.again = spawn, together, again
        self.deadline_seconds, self.ordered, self.ahead = deadline_seconds, ordered, ahead
        self.seats: list[_Seat] = []
        self.coming: deque[Any] = deque()  # looked at, not given to a seat
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
            self.seats = [_Seat(self.spawn()) for _ in range(workers)]
            while not self.stopped:
                self._feed(items)
                if self.total is not None and not any(s.working or s.queue for s in self.seats):
                    break
                self._collect()
        except BaseException as error:
            self.failure = error
        finally:
            for seat in self.seats:
                seat.child.kill()
            with self.changed:
                self.changed.notify_all()

    def _feed(self, items: Iterator[Any]) -> None:
        """Give idle children work: what waits for them, or what may be begun."""
        for seat in self.seats:
            if not seat.child.ready or seat.working is not None:
                continue
            if not seat.queue and self._may_begin():
                seat.queue.extend(self._run(items))
            if seat.queue:
                seat.working, seat.earlier = seat.queue.popleft(), ""
                seat.give(seat.working[1], self.deadline_seconds)

    def _may_begin(self) -> bool:
        with self.changed:
            full = self.given >= self.taken + self.ahead or self.waiting_bytes >= AHEAD_BYTES
            return self.total is None and not full

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
        listening = [s for s in self.seats if s.working is not None or not s.child.ready]
        if not listening:
            with self.changed:
                self.changed.wait(POLL_SECONDS)
            return
        ready = set(wait([s.child.connection for s in listening], timeout=POLL_SECONDS))
        now = time.monotonic()
        for seat in listening:
            if seat.child.connection in ready:
                self._receive(seat)
            elif now - seat.since <= seat.allowed_seconds:
                continue
            elif not seat.child.ready:
                raise TimeoutError(f"a decode process did not start in {START_SECONDS:.0f} s")
            else:
                self._failed(seat, Status.DEADLINE, f"not done after {seat.allowed_seconds:g} s")

    def _receive(self, seat: _Seat) -> None:
        try:
            message, size = receive(seat.child.connection)
        except BlockingIOError:
            self._failed(seat, Status.DEADLINE, "it stopped in the middle of its answer")
            return
        except (EOFError, OSError):
            self._died(seat)
            return
        except Exception as error:  # its memory may be anybody's by now
            message, size = error, 0
        match message:
            case Ready() if not seat.child.ready:
                seat.child.ready = True
                seat.false_starts = 0
                if seat.working is not None:
                    assert self.again is not None
                    seat.give(self.again(seat.working[1]), seat.left_seconds)
            case Risk() if seat.working is not None:
                seat.risk = message.what
                if self.again is not None and not seat.earlier:
                    share = 0.5 if message.what else 1.0
                    seat.allowed_seconds = share * self.deadline_seconds
            case Outcome() if seat.working is not None:
                self._finish(seat, message, size)
                grown = message.resident_bytes > RECYCLE_BYTES
                if grown or seat.child.served >= RECYCLE_ITEMS:
                    self._replace(seat)
            case _:
                self._failed(seat, Status.CRASH, f"the decoder answered nonsense: {message}")

    def _died(self, seat: _Seat) -> None:
        try:
            code = seat.child.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = seat.child.kill()
        if not seat.child.ready:
            seat.false_starts += 1  # somebody may have killed it, as a system short of memory does
            if seat.false_starts > FALSE_STARTS:
                raise RuntimeError(
                    f"a decode process does not start (exit code {code}); see stderr"
                )
            self._replace(seat)
            return
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        late = how == "SIGXCPU"
        self._failed(seat, Status.DEADLINE if late else Status.CRASH, f"the decoder died: {how}")

    def _failed(self, seat: _Seat, status: Status, detail: str) -> None:
        """Replace the child; its item gets a second try if it died, or if there is another way."""
        spent = time.monotonic() - seat.since
        self._replace(seat)
        if seat.working is None:
            return
        detail = f"{seat.risk}: {detail}" if seat.risk else detail
        worth = seat.risk or status == Status.CRASH
        if worth and self.again is not None and not seat.earlier:
            seat.earlier, seat.left_seconds = detail, max(self.deadline_seconds - spent, 0.0)
            return
        detail = f"{seat.earlier}; {detail}" if seat.earlier else detail
        self._finish(seat, Outcome(status=status, detail=detail), 0)

    def _replace(self, seat: _Seat) -> None:
        seat.child.kill()
        seat.put(self.spawn())

    def _finish(self, seat: _Seat, outcome: Outcome, size: int) -> None:
        assert seat.working is not None
        index, _ = seat.working
        seat.working = None
        with self.changed:
            self.finished[index] = (replace(outcome, index=index, earlier=seat.earlier), size)
            self.waiting_bytes += size
            self.changed.notify_all()
