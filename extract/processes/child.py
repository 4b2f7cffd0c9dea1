"""The life of a decode process: limits first, then one item after the other.

Items come several in a message, and the next message while the last item of one is in hand, so
that a child need not wait for its parent. It answers each by itself. Where its answers fill their
room, or one has left something out, it pauses: it forgets all else it was given.

Media libraries die in ways no exception handler sees, and media may be made to make them. A child
is therefore a fresh interpreter (no fork, no re-import of the caller's main module) that knows
nothing of the caller's environment, opens no port, may use so much memory, processor time and file
size, leaves no core file, and dies with its parent. And media may be made to take it over: so it is
confined (`sandbox.py`) before the first item, and what it answers is data (`wire.py`).
"""

import ctypes
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from extract.processes import heap
from extract.processes.sandbox import Confinement, Sandbox, confine
from extract.processes.transport import FILE_BYTES, Outbox
from extract.processes.wire import Unsendable, carried
from store.status import Status

DETAIL_LENGTH = 4096
KEPT_BLOCK_BYTES = 128 << 20  # of memory that is freed after a clip and kept for the next,
KEPT_BYTES = 256 << 20  # and of all of it
SPARE = 1.125  # times an item's processor time: the limit is moved once in many items
# The way to the parent, so that `risk` can be called from deep inside.
_outbox: ContextVar[Outbox | None] = ContextVar("outbox", default=None)
carried(Status)
carried(Confinement)


@carried
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of one item: a value, or the reason why there is none."""

    value: Any = None
    status: Status = Status.OK  # else DEADLINE, CRASH or OUT_OF_MEMORY
    detail: str = ""
    cpu_seconds: float = 0.0
    index: int = 0  # of the item
    earlier: str = ""  # what became of a first try, if this is of the second
    resident_bytes: int = 0  # of the child that answered
    confinement: Confinement | None = None  # of that child
    seconds: float = 0.0  # that the item took by the clock

    def __post_init__(self) -> None:
        times = (self.cpu_seconds, self.seconds)
        if not (all(0 <= time < math.inf for time in times) and self.resident_bytes >= 0):
            raise ValueError(f"{times} s and {self.resident_bytes} bytes are no cost")
        if len(self.detail) > DETAIL_LENGTH:
            raise ValueError(f"a detail of {len(self.detail)} characters is none")


@carried
@dataclass(frozen=True, slots=True)
class Ready:
    """The child's first message."""

    confinement: Confinement


@dataclass(frozen=True, slots=True)
class Work:
    """What a child does with each item, and what tells of an answer whether it left something out:
    the item to ask for next, or None.
    """

    function: Callable[[Any], Any]
    rest: Callable[[Any, Any], Any] | None = None


@carried
@dataclass(frozen=True, slots=True)
class Risk:
    """A step that may hang or crash, where there is another way; empty once it is over."""

    step: str

    def __post_init__(self) -> None:
        if len(self.step) > 80:
            raise ValueError(f"a step of {len(self.step)} characters is none")


def risk(step: str) -> None:
    """Tell the parent, if there is one, that the item deserves a second try should this step go
    wrong; with an empty `step`, that it went well.
    """
    if (outbox := _outbox.get()) is not None:
        outbox.send(Risk(step))


def serve(parent: Connection, file: int | None, memory_bytes: int, cpu_seconds: float) -> None:
    """Take an item, answer, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: do not outlive the parent
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    heap.keep(KEPT_BLOCK_BYTES, KEPT_BYTES)
    outbox, memory = Outbox(parent.fileno(), file), _Memory()
    try:
        work: Work
        sandbox: Sandbox
        work, sandbox = parent.recv()  # with its imports, which may read anything
        confinement = confine(sandbox)
        outbox.send(Ready(confinement))
        _outbox.set(outbox)
        limit, pausing = _ProcessorLimit(cpu_seconds), False
        while True:
            items, answering = parent.recv()
            if pausing and not answering:
                continue  # it was sent before the parent knew of the pause
            outbox.turn()
            for item in items:
                if pausing := _answer(outbox, work, item, memory, limit):
                    break
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)


def processor_seconds() -> float:
    """Processor time of this process to the moment. Where it is limited, the system counts the
    process only at ticks, 4 ms apart, unless a thread has just asked for its own.
    """
    time.thread_time()
    return time.process_time()


class _ProcessorLimit:
    """The system's limit of processor time, moved on when an item might reach it: the deadline,
    should the parent be stopped.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._until = seconds, 0.0  # of an item

    def allow(self, now: float) -> None:
        """See to it that an item that begins now may take its time, and little more."""
        if now + self.seconds > self._until:
            self._until = now + SPARE * self.seconds
            _, most = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (int(self._until) + 1, most))


def _answer(
    outbox: Outbox, work: "Work", item: Any, memory: "_Memory", limit: _ProcessorLimit
) -> bool:
    """Answer an item; whether to forget what else was sent with it or after it."""
    since, begun, more = time.perf_counter(), processor_seconds(), False
    limit.allow(begun)
    try:
        outcome = Outcome(value=work.function(item))
        more = work.rest is not None and work.rest(item, outcome.value) is not None
    except MemoryError:
        outcome = _failure(Status.OUT_OF_MEMORY, "over the memory limit of a child")
    except Exception as error:  # a bug of ours must not stop a run of a million clips
        outcome = _failure(Status.CRASH, f"{type(error).__name__}: {error}")
    outcome = replace(
        outcome,
        cpu_seconds=processor_seconds() - begun,
        seconds=time.perf_counter() - since,
        resident_bytes=memory.resident_bytes(),
    )
    try:
        return outbox.send(outcome, pauses=more)
    except Unsendable as error:
        why = _failure(Status.CRASH, f"the answer cannot be sent: {error}")
        return outbox.send(replace(why, cpu_seconds=outcome.cpu_seconds))
    except MemoryError:
        return outbox.send(_failure(Status.OUT_OF_MEMORY, "over the memory limit of a child"))


def _failure(status: Status, detail: str) -> Outcome:
    return Outcome(status=status, detail=detail[:DETAIL_LENGTH])


class _Memory:
    """The system's count of this process's memory: a file that is opened while files can be."""

    def __init__(self) -> None:
        self.file = -1
        with suppress(OSError):
            self.file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def resident_bytes(self) -> int:
        """Memory of this process that is in use; 0 where the system does not say."""
        if self.file < 0:
            return 0
        return int(os.pread(self.file, 200, 0).split()[1]) * resource.getpagesize()
