"""Messages between processes whose arrays travel through shared memory.

A message is pickled with its arrays' bytes left out (pickle protocol 5); the bytes go into an
anonymous shared file that is sent along, and the receiver's arrays are views of it. So pixels are
copied once, and freed with the last array that views them: nothing has a name, nothing is left
behind when either side dies. Where the system has no anonymous files, and for small messages, the
bytes go through the pipe.

Only dataclasses, enums and numpy arrays are built from what comes in: the sender has had hostile
media through its hands, and a pickle could ask for any function to be called.
"""

import io
import mmap
import os
import pickle
import sys
from dataclasses import is_dataclass
from enum import Enum
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

SHARED = hasattr(os, "memfd_create")
SMALL_BYTES = 1 << 16  # below this, a pipe is as fast
ALIGN = 64
_NUMPY = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


def send(connection: Connection, message: Any, *, shared: bool = SHARED) -> None:
    """Hand over a message; it may be changed as soon as this returns."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    if not shared or sum(view.nbytes for view in views) < SMALL_BYTES:
        connection.send_bytes(b"\1")
        connection.send_bytes(data if not views else pickle.dumps(message, protocol=5))
        return
    extents, end = [], 0
    for view in views:
        extents.append((end, view.nbytes))
        end += -(-view.nbytes // ALIGN) * ALIGN
    file = os.memfd_create("arrays", os.MFD_CLOEXEC)
    try:
        os.ftruncate(file, end)
        with mmap.mmap(file, end) as memory:
            for (at, size), view in zip(extents, views, strict=True):
                memory[at : at + size] = view
        connection.send_bytes(b"\2")
        send_handle(connection, file, None)
    finally:
        os.close(file)
    connection.send_bytes(pickle.dumps(extents))
    connection.send_bytes(data)


def receive(connection: Connection) -> tuple[Any, int]:
    """A message, and how many bytes it holds.

    Raises:
        EOFError, OSError: the sender is gone.
        pickle.UnpicklingError: it says what no honest sender would.
    """
    if connection.recv_bytes() != b"\2":
        data = connection.recv_bytes()
        return _Reader(io.BytesIO(data)).load(), len(data)
    file = recv_handle(connection)
    try:
        size = os.fstat(file).st_size
        memory = memoryview(mmap.mmap(file, size))
    finally:
        os.close(file)
    extents = _Reader(io.BytesIO(connection.recv_bytes())).load()
    views = [memory[at : at + length] for at, length in extents]
    rest = io.BytesIO(connection.recv_bytes())
    return _Reader(rest, buffers=views).load(), size


class _Reader(pickle.Unpickler):
    """Builds values, calls nothing."""

    def find_class(self, module: str, name: str) -> Any:
        value = getattr(sys.modules.get(module), name, None)
        is_value = isinstance(value, type) and (is_dataclass(value) or issubclass(value, Enum))
        if value is not None and (is_value or (module, name) in _NUMPY):
            return value
        raise pickle.UnpicklingError(f"{module}.{name} is no value that may come from a child")
