"""The life of a decode process: limits first, then one item after the other.

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

from extract.processes.sandbox import Confinement, Sandbox, confine
from extract.processes.transport import Outbox
from extract.processes.wire import ARRAY_BYTES, Unsendable, carried
from store.status import Status

DETAIL_LENGTH = 4096
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

    def __post_init__(self) -> None:
        if not (0 <= self.cpu_seconds < math.inf and self.resident_bytes >= 0):
            raise ValueError(f"{self.cpu_seconds} s and {self.resident_bytes} bytes are no cost")
        if len(self.detail) > DETAIL_LENGTH:
            raise ValueError(f"a detail of {len(self.detail)} characters is none")


@carried
@dataclass(frozen=True, slots=True)
class Ready:
    """The child's first message."""

    confinement: Confinement


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
    resource.setrlimit(resource.RLIMIT_FSIZE, (ARRAY_BYTES, ARRAY_BYTES))
    outbox, memory = Outbox(parent.fileno(), file), _Memory()
    try:
        function: Callable[[Any], Any]
        sandbox: Sandbox
        function, sandbox = parent.recv()  # with its imports, which may read anything
        confinement = confine(sandbox)
        outbox.send(Ready(confinement))
        _outbox.set(outbox)
        while True:
            item = parent.recv()
            _limit_cpu(cpu_seconds)
            _answer(outbox, function, item, memory)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)


def processor_seconds() -> float:
    """Processor time of this process to the moment. Where it is limited, the system counts the
    process only at ticks, 4 ms apart, unless a thread has just asked for its own.
    """
    time.thread_time()
    return time.process_time()


def _limit_cpu(seconds: float) -> None:
    """Limit the processor time from now on: the deadline, should the parent be stopped."""
    limit = int(processor_seconds() + seconds) + 1
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, most))


def _answer(outbox: Outbox, function: Callable[[Any], Any], item: Any, memory: "_Memory") -> None:
    begun = processor_seconds()
    try:
        outcome = Outcome(value=function(item))
    except MemoryError:
        outcome = _failure(Status.OUT_OF_MEMORY, "over the memory limit of a child")
    except Exception as error:  # a bug of ours must not stop a run of a million clips
        outcome = _failure(Status.CRASH, f"{type(error).__name__}: {error}")
    outcome = replace(
        outcome, cpu_seconds=processor_seconds() - begun, resident_bytes=memory.resident_bytes()
    )
    try:
        outbox.send(outcome)
    except Unsendable as error:
        why = _failure(Status.CRASH, f"the answer cannot be sent: {error}")
        outbox.send(replace(why, cpu_seconds=outcome.cpu_seconds))
    except MemoryError:
        outbox.send(_failure(Status.OUT_OF_MEMORY, "over the memory limit of a child"))


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
