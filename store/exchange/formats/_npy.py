"""Headers of NumPy arrays, read before their bytes are."""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import InputError
from store.exchange.formats._common import opened


def header(file: Any, name: str, source: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that an open file begins with.

    Raises:
        InputError: a version or a shape that is none.
    """
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise InputError(f"{source}: {name} is npy of version {version}")
    shape, _, dtype = readers[version](file)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(f"{source}: {name} has the shape {str(shape)[:60]}")
    return tuple(shape), dtype


def read_rows(path: Path, dim: int | None = None) -> np.ndarray:
    """The rows of a clip from a file of its own: [rows, size], or [size] of one row.

    Raises:
        InputError: no such array, Python objects, or rows of another size than `dim`.
    """
    # Whatever type numpy raises for a damaged header becomes one line.
    with opened(path, lambda file: file.open("rb")) as stream:
        shape, dtype = header(stream, path.name, path)
        whole = prod(shape) * dtype.itemsize == path.stat().st_size - stream.tell()
        if dtype.hasobject or not whole or dtype.kind not in "fiu":
            raise InputError(f"{path} holds {dtype}{list(shape)}, not rows of numbers")
        stream.seek(0)
        rows = np.lib.format.read_array(stream, allow_pickle=False)
    if rows.ndim == 1 and rows.size:
        rows = rows[None]
    if rows.ndim != 2 or (dim is not None and rows.shape[1] != dim):
        wanted = f" of {dim} numbers" if dim else ""
        raise InputError(f"{path} is {rows.dtype}{list(rows.shape)}, not rows{wanted}")
    return rows
