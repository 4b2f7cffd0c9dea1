"""Messages from a child to its parent: frames through a pipe, arrays through a shared file.

A frame says how long its tree is, how many bytes its arrays have (`wire.py`) and whether they
follow, or lie in an anonymous file that the parent made when it started the child. There is one
such file a child, and one answer in it at a time: its pages are used again, and a child cannot fill
memory with more of them. The parent copies the arrays out before it looks at anything, so
whatever the child does to the file later, shorten it or write into it, meets nobody. Where the
system has no such files, and for small messages, the bytes go through the pipe.
"""

import os
import socket
import struct
import time
from typing import Any

import numpy as np
from jaxtyping import UInt8

from extract.processes.wire import ARRAY_BYTES, TREE_BYTES, Nonsense, decode, encode, places

SHARED = hasattr(os, "memfd_create")
SMALL_BYTES = 1 << 16  # below this, a pipe is as fast
KEEP_BYTES = 64 << 20  # of pages that wait for the next answer
READ_BYTES = 1 << 20  # at once
_FRAME = struct.Struct("!IQ?")  # bytes of the tree, bytes of the arrays, whether those are shared


def shared_file() -> int:
    """A file in memory without a name, for the arrays of one child."""
    return os.memfd_create("arrays", os.MFD_CLOEXEC)


class Outbox:
    """The child's end."""

    def __init__(self, pipe: int, file: int | None) -> None:
        self.pipe, self.file = pipe, file

    def send(self, message: Any) -> None:
        """Hand over a message; it may be changed as soon as this returns.

        Raises:
            Unsendable: it is no data, or too much; nothing was sent.
        """
        tree, arrays = encode(message)
        begins, end = places(arrays)
        shared = self.file is not None and end >= SMALL_BYTES
        frame = _FRAME.pack(len(tree), end, shared) + tree
        if self.file is not None and shared:
            for begin, array in zip(begins, arrays, strict=True):
                _write(self.file, array.reshape(-1).view(np.uint8).data, begin)
            if os.fstat(self.file).st_size < end:  # the last array may end before its place does
                os.ftruncate(self.file, end)
            _write(self.pipe, frame)
            return
        data = bytearray(end)
        for begin, array in zip(begins, arrays, strict=True):
            data[begin : begin + array.nbytes] = array.tobytes()
        _write(self.pipe, frame + data)


def _write(file: int, data: Any, at: int | None = None) -> None:
    """All of the data, which the system may take in several bites."""
    rest = memoryview(data)
    while rest:
        written = os.write(file, rest) if at is None else os.pwrite(file, rest, at)
        at = None if at is None else at + written
        rest = rest[written:]


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

    def receive(self) -> tuple[Any, int] | None:
        """The next message, and how many bytes it holds; None if it is not whole yet.

        Raises:
            EOFError, OSError: the sender is gone.
            Nonsense, ValueError, RecursionError: it says what no honest sender would.
        """
        while self._fill():
            tree, size, shared = _FRAME.unpack_from(self._held)
            inline = 0 if shared else size
            self._check(tree, size, shared)
            self._wanted = _FRAME.size + tree + inline
            if len(self._held) < self._wanted:
                continue
            held, self._held = self._held, bytearray()
            self._wanted, self.since = _FRAME.size, None
            with memoryview(held) as view:
                words = bytes(view[_FRAME.size : _FRAME.size + tree])
                data = np.array(view[_FRAME.size + tree :], np.uint8)
            if shared:
                data = self._copied(size)
            return decode(words, data), tree + size
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

    def _check(self, tree: int, size: int, shared: bool) -> None:
        if shared and self.file is None:
            raise Nonsense("arrays in a file, and there is none")
        most = SMALL_BYTES if self.file is not None and not shared else ARRAY_BYTES
        if tree > TREE_BYTES or size > most:
            raise Nonsense(f"a message of {tree} bytes with arrays of {size} bytes")

    def _copied(self, size: int) -> UInt8[np.ndarray, "_"]:
        """The arrays out of the file, which is the child's to change again."""
        assert self.file is not None
        data = np.empty(size, np.uint8)
        if size and os.preadv(self.file, [data.data], 0) != size:
            raise Nonsense(f"arrays of {size} bytes in a file that is shorter")
        if size > KEEP_BYTES:
            os.ftruncate(self.file, 0)
        return data
