"""A function mapped over items in child processes that may hang, crash or eat all memory.

Media libraries die in ways no exception handler sees, so each child has one item in flight, and the
parent owns the deadline: a child that is late is killed and replaced, and one that dies takes only
its own item with it. Children are fresh interpreters (no fork, no re-import of the caller's main
module), know nothing of the caller's environment and open no port.

Results come in the order of the items, and at most `ahead` items are worked on or wait beyond the
one the caller takes next: that bounds memory, and makes a slow caller slow the children down.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from store.status import Status

MEMORY_BYTES = 4 << 30
START_SECONDS = 120.0
RECYCLE_ITEMS = 2000  # a child serves so many items, so that leaks in libraries stay small
POLL_SECONDS = 0.05
_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "TMPDIR")
_BOOT = (
    "import sys; from multiprocessing.connection import Connection; "
    "parent = Connection(int(sys.argv[1])); sys.path[:] = parent.recv(); "
    "from extract.workers import _serve; _serve(parent, int(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one item: a value, or the reason why there is none."""

    value: Any = None
    status: Status = Status.OK  # else DEADLINE, CRASH or OUT_OF_MEMORY
    detail: str = ""
    cpu_seconds: float = 0.0


def process_map(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int,
    deadline_seconds: float,
    ahead: int = 0,
    memory_bytes: int = MEMORY_BYTES,
) -> Generator[Outcome, None, None]:
    """`function(item)` of each item, in order, from `workers` child processes.

    Close the generator, or exhaust it, and every child is dead.

    Raises:
        RuntimeError: a child does not start, or `items` raised.
    """
    crew = _Crew(
        function,
        workers=workers,
        deadline_seconds=deadline_seconds,
        ahead=max(ahead, workers),
        memory_bytes=memory_bytes,
    )
    thread = threading.Thread(target=crew.drive, args=(iter(items),), name="decode", daemon=True)
    thread.start()
    try:
        while (outcome := crew.take()) is not None:
            yield outcome
    finally:
        crew.stopped = True
        thread.join()


class _Child:
    """One process and the item it works on."""

    def __init__(self, function: Callable[[Any], Any], memory_bytes: int) -> None:
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(memory_bytes)],
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
        self.index: int | None = None
        self.since = time.monotonic()
        self.served = 0

    def give(self, index: int, item: Any) -> None:
        self.index, self.since = index, time.monotonic()
        self.served += 1
        self.connection.send(item)

    def kill(self) -> int:
        self.process.kill()
        self.connection.close()
        return self.process.wait()


class _Crew:
    """The children, and the thread that feeds them."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        workers: int,
        deadline_seconds: float,
        ahead: int,
        memory_bytes: int,
    ) -> None:
        self.function, self.memory_bytes = function, memory_bytes
        self.deadline_seconds, self.ahead = deadline_seconds, ahead
        self.workers = workers
        self.children: list[_Child] = []
        self.finished: dict[int, Outcome] = {}
        self.next_taken = 0
        self.total: int | None = None  # known once `items` is exhausted
        self.changed = threading.Condition()
        self.failure: BaseException | None = None
        self.stopped = False

    def take(self) -> Outcome | None:
        """The next outcome in order; None after the last."""
        with self.changed:
            while self.next_taken not in self.finished:
                if self.failure is not None:
                    raise RuntimeError(f"decoding stopped: {self.failure}") from self.failure
                if self.next_taken == self.total:
                    return None
                self.changed.wait()
            outcome = self.finished.pop(self.next_taken)
            self.next_taken += 1
            self.changed.notify_all()
            return outcome

    def drive(self, items: Iterator[Any]) -> None:
        """Feed the children until the items are used up or the caller is gone."""
        try:
            self.children = [self._spawn() for _ in range(self.workers)]
            given = 0
            while not self.stopped:
                given = self._feed(items, given)
                if self.total is not None and not any(c.index is not None for c in self.children):
                    break
                self._collect()
        except BaseException as error:
            self.failure = error
        finally:
            for child in self.children:
                child.kill()
            with self.changed:
                self.changed.notify_all()

    def _spawn(self) -> _Child:
        return _Child(self.function, self.memory_bytes)

    def _feed(self, items: Iterator[Any], given: int) -> int:
        """Give idle children work, as far ahead as allowed."""
        for child in self.children:
            if self.total is not None or given >= self.next_taken + self.ahead:
                break
            if child.ready and child.index is None:
                try:
                    item = next(items)
                except StopIteration:
                    with self.changed:
                        self.total = given
                        self.changed.notify_all()
                    break
                with suppress(OSError):  # if it died idle, its closed connection says so soon
                    child.give(given, item)
                given += 1
        return given

    def _collect(self) -> None:
        """Take what is ready, and kill what is late."""
        listening = [c for c in self.children if c.index is not None or not c.ready]
        if not listening:
            with self.changed:
                self.changed.wait(POLL_SECONDS)
            return
        ready = set(wait([c.connection for c in listening], timeout=POLL_SECONDS))
        now = time.monotonic()
        for child in listening:
            if child.connection in ready:
                self._receive(child)
            elif not child.ready and now - child.since > START_SECONDS:
                raise TimeoutError(f"a decode process did not start in {START_SECONDS:.0f} s")
            elif child.ready and now - child.since > self.deadline_seconds:
                detail = f"not done after {self.deadline_seconds:g} s"
                self._replace(child, Outcome(status=Status.DEADLINE, detail=detail))

    def _receive(self, child: _Child) -> None:
        try:
            message = child.connection.recv()
        except (EOFError, OSError):
            self._died(child)
            return
        if not child.ready:
            child.ready = True
            return
        self._finish(child.index, message)
        child.index = None
        if child.served >= RECYCLE_ITEMS:
            self._replace(child, None)

    def _died(self, child: _Child) -> None:
        try:
            code = child.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = child.kill()
        if not child.ready:
            raise RuntimeError(f"a decode process does not start (exit code {code}); see stderr")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._replace(child, Outcome(status=Status.CRASH, detail=f"the decoder died: {how}"))

    def _replace(self, child: _Child, outcome: Outcome | None) -> None:
        child.kill()
        if outcome is not None:
            self._finish(child.index, outcome)
        self.children[self.children.index(child)] = self._spawn()

    def _finish(self, index: int | None, outcome: Outcome) -> None:
        assert index is not None
        with self.changed:
            self.finished[index] = outcome
            self.changed.notify_all()


def _serve(parent: Connection, memory_bytes: int) -> None:
    """The life of a child: take an item, answer, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: do not outlive the parent
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        function = parent.recv()
        parent.send("ready")
        while True:
            parent.send(_answer(function, parent.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)


def _answer(function: Callable[[Any], Any], item: Any) -> Outcome:
    begun = time.process_time()
    try:
        value = function(item)
    except MemoryError:
        return Outcome(status=Status.OUT_OF_MEMORY, detail="over the memory limit of a child")
    except Exception as error:  # a bug of ours must not stop a run of a million clips
        return Outcome(status=Status.CRASH, detail=f"{type(error).__name__}: {error}")
    return Outcome(value=value, cpu_seconds=time.process_time() - begun)
