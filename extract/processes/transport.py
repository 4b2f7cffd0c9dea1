"""Messages from a child to its parent: frames through a pipe, arrays through a shared file.

A frame says how long its tree is, how many bytes its arrays have (`wire.py`) and whether they
follow, or lie in an anonymous file that the parent made when it started the child. There is one
such file a child: its pages are used again, and a child cannot fill memory with more of them. The
answers to what came in one message lie one after the other in a half of it, those to the next
message in the other half, which the parent has copied out by then. Where a half is full the child
pauses: it forgets what else it was given, and waits until it is answered. The parent copies
arrays before it looks at anything, so whatever the child does to the file later, shorten it or
write into it, meets nobody. Where the system has no such files, and for small messages, the bytes
go through the pipe.
"""

import os
import socket
import struct
import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from extract.processes.wire import ARRAY_BYTES, TREE_BYTES, Nonsense, decode, encode, padded, pieces

SHARED = hasattr(os, "memfd_create")
SMALL_BYTES = 1 << 16  # below this, a pipe is as fast
HALF_BYTES = 8 << 20  # of the file; an answer may lie across the end of its half, and is the last
KEEP_BYTES = 64 << 20  # of pages that wait for the next answer
FILE_BYTES = 2 * HALF_BYTES + ARRAY_BYTES
READ_BYTES = 1 << 20  # at once
MOST_PIECES = 64
# Bytes of the tree, bytes of the arrays, whether those are shared and where, and whether the sender
# pauses.
_FRAME = struct.Struct("!IQ?Q?")


def shared_file() -> int:
    """A file in memory without a name, for the arrays of one child."""
    return os.memfd_create("arrays", os.MFD_CLOEXEC)


class Received(NamedTuple):
    """A message, how many bytes it holds, and whether its sender pauses."""

    message: Any
    size: int
    pauses: bool = False


class Outbox:
    """The child's end."""

    def __init__(self, pipe: int, file: int | None) -> None:
        self.pipe, self.file = pipe, file
        self._at, self._end = 0, HALF_BYTES  # where the next arrays begin, and where the half ends

    def turn(self) -> None:
        """Go on in the other half of the file, which has been copied out."""
        self._at = self._end % (2 * HALF_BYTES)
        self._end = self._at + HALF_BYTES

    def send(self, message: Any, *, pauses: bool = False) -> bool:
        """Hand over a message, which may be changed as soon as this returns; whether the sender has
        to pause after it.

        Raises:
            Unsendable: it is no data, or too much; nothing was sent.
        """
        tree, arrays = encode(message)
        size = sum(map(padded, arrays))
        shared = self.file is not None and size >= SMALL_BYTES
        at = self._at if shared else 0
        pauses = pauses or at + size > self._end
        frame = _FRAME.pack(len(tree), size, shared, at, pauses) + tree
        if self.file is not None and shared:
            self._at += size
            _write_all(self.file, pieces(arrays), at)
            _write(self.pipe, frame)
        else:
            _write(self.pipe, b"".join([frame, *pieces(arrays)]))
        return pauses


def _write_all(file: int, rest: list[Any], at: int) -> None:
    """All pieces one after the other, in one call as a rule."""
    while rest:
        written = os.pwritev(file, rest[:MOST_PIECES], at)
        at += written
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest:
            rest[0] = memoryview(rest[0])[written:]


def _write(file: int, data: Any) -> None:
    """All of the data, which the system may take in several bites."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


class Inbox:
    """The parent's end. It never waits: a child may send half a message, or a byte a minute."""

    def __init__(self, pipe: int, file: int | None) -> None:
        self.file = file
        self.since: float | None = None  # when a message began to come that is not whole yet
        self._socket = socket.socket(fileno=os.dup(pipe))
        self._held = bytearray()
        self._wanted = _FRAME.size

    def close(self) -> None:
        """Give the descriptors back."""
        self._socket.close()
        if self.file is not None:
            os.close(self.file)
            self.file = None

    def receive(self) -> Received | None:
        """The next message; None if it is not whole yet.

        Raises:
            EOFError, OSError: the sender is gone.
            Nonsense, ValueError, RecursionError: it says what no honest sender would.
        """
        while self._fill():
            tree, size, shared, at, pauses = _FRAME.unpack_from(self._held)
            inline = 0 if shared else size
            self._check(tree, size, shared, at)
            self._wanted = _FRAME.size + tree + inline
            if len(self._held) < self._wanted:
                continue
            held, self._held = self._held, bytearray()
            self._wanted, self.since = _FRAME.size, None
            with memoryview(held) as view:
                words = bytes(view[_FRAME.size : _FRAME.size + tree])
                data = np.array(view[_FRAME.size + tree :], np.uint8)
            if shared:
                data = self._copied(size, at)
            return Received(decode(words, data), tree + size, pauses)
        return None

    def _fill(self) -> bool:
        """Read up to what is wanted; False if it has not come."""
        while len(self._held) < self._wanted:
            most = min(self._wanted - len(self._held), READ_BYTES)
            try:
                piece = self._socket.recv(most, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if not piece:
                raise EOFError("the child closed its end")
            self.since = self.since or time.monotonic()
            self._held += piece
        return True

    def _check(self, tree: int, size: int, shared: bool, at: int) -> None:
        if shared and self.file is None:
            raise Nonsense("arrays in a file, and there is none")
        most = SMALL_BYTES if self.file is not None and not shared else ARRAY_BYTES
        if tree > TREE_BYTES or size > most:
            raise Nonsense(f"a message of {tree} bytes with arrays of {size} bytes")
        if at > 2 * HALF_BYTES:
            raise Nonsense(f"arrays from byte {at} of a file on")

    def _copied(self, size: int, at: int) -> UInt8[np.ndarray, "_"]:
        """The arrays out of the file, which is the child's to change again."""
        assert self.file is not None
        data = np.empty(size, np.uint8)
        if size and os.preadv(self.file, [data.data], at) != size:
            raise Nonsense(f"arrays of {size} bytes in a file that is shorter")
        if at + size > KEEP_BYTES:  # and so the child pauses
            os.ftruncate(self.file, 0)
        return data
