"""Placeholders for what pickles hold beside containers: numpy's arrays and torch's tensors.

Shapes: none are known before `array` gives one.
"""

import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from store.pickles.budget import MAX_AXES, Budget, Fault

OBJECT_BYTES = 64  # of any small one
_DTYPE = re.compile(r"[<>|=]?([biuf][1248]|[SU]\d{1,5}|O8?)")

# torch's storage types, as numpy says them; bfloat16 is the upper half of a float32
STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "b1",
}  # fmt: skip


class StorageType:
    """The type of a torch storage, named in a pickle."""

    def __init__(self, name: str) -> None:
        self.is_bfloat16 = STORAGES[name] == "bf16"
        self.dtype = np.dtype("<u2" if self.is_bfloat16 else STORAGES[name]).newbyteorder("<")


class Stored:
    """A storage outside of the pickle, read when a tensor is asked for."""

    def __init__(self, read: Callable[[], np.ndarray], item_bytes: int) -> None:
        self.read, self.item_bytes = read, item_bytes


class DType:
    """A numpy dtype of numbers, text or bytes, or of objects."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        name = name.decode("ascii", "replace") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            shown = name[:40] if isinstance(name, str) else type(name).__name__
            raise Fault(f"an array of dtype {shown!r}")
        self.dtype = np.dtype(name)

    def set_state(self, state: Any, _: Budget) -> None:
        """What BUILD brings: the order of bytes."""
        _, order, *structure = state
        if any(part is not None for part in structure[:3]):
            raise Fault("an array with fields")
        if order in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class Array:
    """An array of which `_reconstruct` said nothing yet, and BUILD will say all."""

    def __init__(self, *_: Any) -> None:
        self.array: Any = None

    def set_state(self, state: Any, budget: Budget) -> None:
        """What BUILD brings: shape, dtype and bytes."""
        _, shape, dtype, fortran, data = state
        self.array = filled(budget, data, numpy_of(dtype), shape, "F" if fortran else "C")


class Tensor:
    """A view of a torch storage that may not have been read yet."""

    def __init__(
        self, storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
    ) -> None:
        if not isinstance(storage, Stored):
            raise Fault("a tensor without a storage")
        shaped = isinstance(size, (tuple, list)) and isinstance(stride, (tuple, list))
        if not shaped or not len(size) == len(stride) <= MAX_AXES:
            raise Fault("a tensor of an impossible shape")
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in (offset, *size, *stride)):
            raise Fault("a tensor of an impossible shape")
        self._storage, self._offset, self._size, self._stride = storage, offset, size, stride

    @property
    def nbytes(self) -> int:
        """The bytes it takes when it is read."""
        return prod(self._size) * self._storage.item_bytes

    @property
    def array(self) -> np.ndarray:
        """Its numbers, which are there or refused."""
        flat = self._storage.read()
        numel = prod(self._size)
        last = sum((n - 1) * step for n, step in zip(self._size, self._stride, strict=True))
        if numel and (numel > flat.size or self._offset + last >= flat.size):
            raise Fault("a tensor larger than its storage")
        if not numel:
            return np.empty(self._size, flat.dtype)
        strides = [step * flat.itemsize for step in self._stride]
        view = np.lib.stride_tricks.as_strided(flat[self._offset :], tuple(self._size), strides)
        return np.ascontiguousarray(view).reshape(self._size)


def numpy_of(dtype: Any) -> np.dtype:
    """The numpy dtype of a placeholder."""
    if not isinstance(dtype, DType):
        raise Fault("an array without a dtype")
    return dtype.dtype


def filled(budget: Budget, data: Any, dtype: np.dtype, shape: Any, order: Any) -> Any:
    """An array of bytes that are there; of objects, the list of them."""
    whole = isinstance(shape, tuple) and len(shape) <= MAX_AXES
    if not whole or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape):
        raise Fault("an array of an impossible shape")
    items = prod(shape)
    if dtype.hasobject:  # its items are in the pickle itself; they stay a list
        if not isinstance(data, list) or len(data) != items:
            raise Fault("an object array of another size than it says")
        return data[0] if shape == () else data
    if items and not dtype.itemsize:
        raise Fault("an array whose items have no bytes")
    if isinstance(data, str):  # Python 2
        budget.take(len(data))
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or len(data) != items * dtype.itemsize:
        raise Fault("an array of another size than it says")
    if order not in ("C", "F"):
        raise Fault("an array of unknown order")
    flat = np.frombuffer(data, dtype) if items else np.empty(0, dtype)
    return flat.reshape(shape, order=order)
