"""The life of a decode process: limits first, then one item after the other.

Media libraries die in ways no exception handler sees, and media may be made to make them. A child
is therefore a fresh interpreter (no fork, no re-import of the caller's main module) that knows
nothing of the caller's environment, opens no port, may use so much memory, processor time and file
size, leaves no core file, and dies with its parent.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from extract.processes.transport import SHARED, send
from store.status import Status

FILE_BYTES = 1 << 30  # also bounds the shared memory of one message
# The connection of the item being worked on, so that `risk` can be called from deep inside.
_parent: ContextVar[Connection | None] = ContextVar("parent", default=None)


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


@dataclass(frozen=True, slots=True)
class Ready:
    """The child's first message."""


@dataclass(frozen=True, slots=True)
class Risk:
    """A step that may hang or crash, where there is another way; empty once it is over."""

    step: str


def risk(step: str) -> None:
    """Tell the parent, if there is one, that the item deserves a second try should this step go
    wrong; with an empty `step`, that it went well.
    """
    if (parent := _parent.get()) is not None:
        send(parent, Risk(step))


def serve(parent: Connection, memory_bytes: int, cpu_seconds: float, shared: bool = SHARED) -> None:
    """Take an item, answer, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: do not outlive the parent
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    try:
        function = parent.recv()
        send(parent, Ready())
        _parent.set(parent)
        while True:
            item = parent.recv()
            _limit_cpu(cpu_seconds)
            _answer(parent, function, item, shared)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)


def _limit_cpu(seconds: float) -> None:
    """Limit the processor time from now on: the deadline, should the parent be stopped."""
    limit = int(time.process_time() + seconds) + 1
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, most))


def _answer(parent: Connection, function: Callable[[Any], Any], item: Any, shared: bool) -> None:
    begun = time.process_time()
    try:
        outcome = Outcome(value=function(item))
    except MemoryError:
        outcome = Outcome(status=Status.OUT_OF_MEMORY, detail="over the memory limit of a child")
    except Exception as error:  # a bug of ours must not stop a run of a million clips
        outcome = Outcome(status=Status.CRASH, detail=f"{type(error).__name__}: {error}")
    cpu_seconds = time.process_time() - begun
    send(
        parent,
        replace(outcome, cpu_seconds=cpu_seconds, resident_bytes=_resident_bytes()),
        shared=shared,
    )


def _resident_bytes() -> int:
    """Memory of this process that is in use; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123 (no path object per clip)
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
