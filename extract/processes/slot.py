"""A place in the pool: one child process after the other, and the items that are its own.

A child has several items in hand where they are short (`Pace`): it begins the next one without
waiting for its parent. It works on the first, answers in order, and may pause (`child.py`). Where
the first takes long after all, the others are given to another child as well.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from typing import Any

from extract.processes.child import Outcome, Work
from extract.processes.sandbox import AUTO, Confinement, Sandbox
from extract.processes.transport import HALF_BYTES, Inbox, shared_file

START_SECONDS = 120.0
MESSAGE_SECONDS = 10  # a message that has begun to come must have come by then
IN_HAND_SECONDS = 0.05  # of work, that a child may have in hand,
MOST_IN_HAND = 16  # and so many items, of which one
ITEMS_KNOWN = 4  # for so many that were answered
OVERDUE_SECONDS = 0.5  # after which nothing waits behind an item any more
NOBODYS = -1  # index of an item that a child still has, and another one does
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


class ChildProcess:
    """One process, as its parent sees it."""

    def __init__(self, work: Work, limits: Limits, shared: bool) -> None:
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
            self.connection.send((work, limits.sandbox))
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


class Pace:
    """How long items take and how large their answers are, by the last ones."""

    def __init__(self) -> None:
        self._seconds = self._bytes = 0.0
        self._count = 0

    def learn(self, seconds: float, size: int) -> None:
        """An item took so long, and its answer has so many bytes."""
        self._count += 1
        of_last = max(1 / self._count, 0.2)
        self._seconds += of_last * (seconds - self._seconds)
        self._bytes += of_last * (size - self._bytes)

    @property
    def in_hand(self) -> int:
        """How many items a child may have in hand, the one that it works on included. It is one
        where items are long, as the others would wait although another child is idle, and until
        several are known.
        """
        by_time = IN_HAND_SECONDS / max(self._seconds, 1e-9)
        by_size = HALF_BYTES / max(self._bytes, 1.0)
        many = min(by_time, by_size, MOST_IN_HAND, self._count / ITEMS_KNOWN)
        return max(1, int(many))


class Slot:
    """One child after the other, and the items that are its own."""

    def __init__(self, child: ChildProcess) -> None:
        self.queue: deque[Item] = deque()
        self.hand: deque[Item] = deque()  # what the child has; it works on the first
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

    def put(self, child: ChildProcess) -> None:
        """Another child takes the place."""
        self.child = child
        self.paused = False  # it waits for an answer, and forgets what it is sent before
        self.since, self.allowed_seconds = time.monotonic(), START_SECONDS

    @property
    def owing(self) -> bool:
        """Whether there are items that only this place is to answer."""
        return bool(self.queue) or any(index != NOBODYS for index, _ in self.hand)

    @property
    def alone(self) -> bool:
        """Whether the item in hand is asked about again, so that no other may stand behind it."""
        return bool(self.earlier or self.parts)

    def give(self, count: int, allowed_seconds: float) -> None:
        """Send so many items of the queue."""
        items = [self.queue.popleft() for _ in range(min(count, len(self.queue)))]
        idle = not self.hand
        self.hand.extend(items)
        if idle:
            self.begin(allowed_seconds)
        self._send([item for _, item in items])

    def begin(self, allowed_seconds: float) -> None:
        """The child works on its first item from now on."""
        self._time(self.hand[0][1], allowed_seconds)

    def ask(self, item: Any, allowed_seconds: float) -> None:
        """Ask about the first item once more, in this way."""
        self._time(item, allowed_seconds)
        self._send([item])

    def take_back(self, kept: int) -> None:
        """What the child has not begun waits again, but for so many."""
        while len(self.hand) > kept:
            index, item = self.hand.pop()
            if index != NOBODYS:
                self.queue.appendleft((index, item))

    def disown(self) -> list[Item]:
        """What the child has not begun, for another one; its own answers will not count."""
        first, *behind = self.hand
        self.hand = deque([first, *((NOBODYS, item) for _, item in behind)])
        return [item for item in behind if item[0] != NOBODYS]

    def _time(self, item: Any, allowed_seconds: float) -> None:
        self.since, self.allowed_seconds = time.monotonic(), allowed_seconds
        self.risk, self.asked, self.rest = "", item, None

    def _send(self, items: Iterable[Any]) -> None:
        items = list(items)
        self.child.served += len(items)
        with suppress(OSError):  # if it died idle, its closed connection says so soon
            self.child.connection.send((items, self.paused))
        self.paused = False
