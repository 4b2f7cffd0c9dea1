"""Reads other people's pickles without running any of them.

A pickle is a program. This reader knows a short list of names, all of them ours: placeholders for
numpy arrays and torch tensors, and the containers. Nothing else can be named, so nothing else can
be called. It is the pure-Python machine, whose memory grows with the bytes that are really there.

Shapes: none are known before `array` gives one.
"""

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from store.errors import InputError

MAX_PICKLE_BYTES = 4 << 30
_DTYPE = re.compile(r"[<>|=]?([biuf][1248]|[SU]\d{1,5}|O8?)")
_REFUSED_OPCODES = (
    pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
    pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
)  # fmt: skip

# torch's storage types, as numpy says them; bfloat16 is the upper half of a float32
STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "b1",
}  # fmt: skip


class _Fault(Exception):  # noqa: N818 (never leaves this module)
    """Something a pickle asked for and does not get."""


class StorageType:
    """The type of a torch storage, named in a pickle."""

    def __init__(self, name: str) -> None:
        self.is_bfloat16 = STORAGES[name] == "bf16"
        self.dtype = np.dtype("<u2" if self.is_bfloat16 else STORAGES[name]).newbyteorder("<")


class _Stored:
    """A storage outside of the pickle, read when a tensor is asked for."""

    def __init__(self, read: Callable[[], np.ndarray]) -> None:
        self.read = read


class _DType:
    def __init__(self, name: Any = "", *_: Any) -> None:
        name = name.decode("ascii", "replace") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise _Fault(f"an array of dtype {str(name)[:40]!r}")
        self.dtype = np.dtype(name)

    def set_state(self, state: Any) -> None:
        _, order, *structure = state
        if any(part is not None for part in structure[:3]):
            raise _Fault("an array with fields")
        if order in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """An array of which `_reconstruct` said nothing yet, and BUILD will say all."""

    def __init__(self, *_: Any) -> None:
        self.array: Any = None

    def set_state(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _filled(data, _numpy(dtype), shape, "F" if fortran else "C")


class _Tensor:
    """A view of a torch storage that may not have been read yet."""

    def __init__(
        self,
        storage: Any,
        offset: int,
        size: Sequence[int],
        stride: Sequence[int],
        *_: Any,
    ) -> None:
        numbers = (offset, *size, *stride)
        if not isinstance(storage, _Stored):
            raise _Fault("a tensor without a storage")
        if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
            raise _Fault("a tensor of an impossible shape")
        self._storage, self._offset, self._size, self._stride = storage, offset, size, stride

    @property
    def array(self) -> np.ndarray:
        flat = self._storage.read()
        numel = prod(self._size)
        last = sum((n - 1) * step for n, step in zip(self._size, self._stride, strict=True))
        if numel and (numel > flat.size or self._offset + last >= flat.size):
            raise _Fault("a tensor larger than its storage")
        if not numel:
            return np.empty(self._size, flat.dtype)
        strides = [step * flat.itemsize for step in self._stride]
        view = np.lib.stride_tricks.as_strided(flat[self._offset :], tuple(self._size), strides)
        return np.ascontiguousarray(view).reshape(self._size)


def _numpy(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _DType):
        raise _Fault("an array without a dtype")
    return dtype.dtype


def _filled(data: Any, dtype: np.dtype, shape: Any, order: Any) -> Any:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise _Fault("an array of an impossible shape")
    if dtype.hasobject:  # its items are in the pickle itself; they stay a list
        if not isinstance(data, list) or len(data) != prod(shape):
            raise _Fault("an object array of another size than it says")
        return data[0] if shape == () else data
    if isinstance(data, str):  # Python 2
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or len(data) != prod(shape) * dtype.itemsize:
        raise _Fault("an array of another size than it says")
    if order not in ("C", "F"):
        raise _Fault("an array of unknown order")
    flat = np.frombuffer(data, dtype) if dtype.itemsize else np.zeros(prod(shape), dtype)
    return flat.reshape(shape, order=order)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    made = _Array()
    made.array = _filled(data, _numpy(dtype), shape, order)
    return made


def _scalar(dtype: Any, data: Any = b"") -> Any:
    kind = _numpy(dtype)
    return data if kind.hasobject else _filled(data, kind, (1,), "C")[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as pickles of protocol 2 spell them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Fault(f"text in {str(encoding)[:40]}")
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    """No bytes, as pickles of protocol 2 spell them; `bytes(n)` would allocate."""
    if args:
        raise _Fault("bytes made of something")
    return b""


def _defaultdict(*_: Any) -> dict[Any, Any]:
    return {}


def _nothing(*_: Any) -> None:
    return None


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _defaultdict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _nothing,
    ("numpy", "dtype"): _DType,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    **{
        (module, name): kind
        for module in ("builtins", "__builtin__")
        for name, kind in {
            "list": list, "dict": dict, "tuple": tuple, "set": set, "frozenset": frozenset,
            "bytes": _bytes,
        }.items()
    },
    **{
        (f"numpy.{core}.{module}", name): made
        for core in ("core", "_core")
        for module, name, made in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}  # fmt: skip

_Machine: Any = getattr(pickle, "_Unpickler")  # noqa: B009 (hides the C one's type)
_PLAIN = {int, float, bool, str, bytes}

Storage = Callable[[tuple[Any, ...]], Callable[[], np.ndarray]]


class _Unpickler(_Machine):
    dispatch: ClassVar[dict[int, Any]] = dict(_Machine.dispatch)

    def __init__(self, file: io.BytesIO, storage: Storage | None) -> None:
        super().__init__(file, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str, /) -> Any:
        if self._storage and (module, name[-7:]) == ("torch", "Storage") and name in STORAGES:
            return StorageType(name)
        if (module, name) not in _ALLOWED:
            raise _Fault(f"{module}.{name}"[:120])
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None or not isinstance(pid, tuple):
            raise _Fault("something kept outside of it")
        return _Stored(self._storage(pid))

    def _build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, (_DType, _Array)):
            made.set_state(state)
        elif not isinstance(made, OrderedDict):  # torch hangs metadata on those; nobody needs it
            raise _Fault(f"the state of a {type(made).__name__}")

    def _bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def _refuse(self) -> None:
        raise _Fault("an object of some class")

    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.BYTEARRAY8[0]] = _bytearray8
    dispatch |= dict.fromkeys((opcode[0] for opcode in _REFUSED_OPCODES), _refuse)


def load(file: io.BytesIO, *, name: str, storage: Storage | None = None) -> Any:
    """The next object of a pickle: containers, text, numbers, and what `array` understands.

    `storage` answers torch's references to data outside of the pickle.

    Raises:
        InputError: it is damaged, or names anything that is not a plain array or container.
    """
    try:
        return _Unpickler(file, storage).load()
    except _Fault as fault:
        raise InputError(
            f"{name} holds {fault}, which is not read: only arrays and plain containers are"
        ) from None
    except InputError:
        raise
    except Exception as error:  # whatever a hostile pickle makes the machine say
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{name} is not a readable pickle ({reason})") from error


def read(path: Path, *, trust_pickle: bool) -> Any:
    """The object in a pickle file, by the restricted reader and only if the user says so.

    Raises:
        InputError: not trusted, too large, damaged, or with more in it than arrays.
    """
    check_trust(path, trust_pickle)
    return load(io.BytesIO(read_bytes(path)), name=str(path))


def read_npy(path: Path, *, trust_pickle: bool) -> Any:
    """The object in an npy file of objects; numpy's own loader would run the pickle in it.

    Raises:
        InputError: as `read`, or it holds numbers.
    """
    check_trust(path, trust_pickle)
    file = io.BytesIO(read_bytes(path))
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        _, _, dtype = readers[np.lib.format.read_magic(file)](file)
    except Exception as error:  # numpy raises many types on damaged bytes
        raise InputError(f"{path} is no npy file") from error
    if not dtype.hasobject:
        raise InputError(f"{path} holds {dtype} where names are expected")
    return load(file, name=str(path))


def read_bytes(path: Path) -> bytes:
    """A whole file that may be a pickle.

    Raises:
        InputError: no plain file, or larger than is read.
    """
    if not path.is_file():
        raise InputError(f"{path} is no plain file")
    if (size := path.stat().st_size) > MAX_PICKLE_BYTES:
        raise InputError(f"{path} has {size} bytes; pickles of {MAX_PICKLE_BYTES} at most are read")
    return path.read_bytes()


def check_trust(path: Path, trust_pickle: bool) -> None:
    """Refuse a pickle nobody spoke up for.

    Raises:
        InputError: says how to speak up.
    """
    if not trust_pickle:
        raise InputError(
            f"{path} is a pickle; if you trust who made it, add `trust_pickle` "
            "(only arrays and plain containers are read, nothing is run)"
        )


def array(value: Any, *, name: str) -> np.ndarray:
    """The numbers or text in a value `load` gave: an array, a tensor, or a list of them.

    Raises:
        InputError: it is none, or ragged.
    """
    left = MAX_PICKLE_BYTES  # one array may be named a million times in a few bytes

    def arrays(value: Any) -> np.ndarray:
        nonlocal left
        content = value.array if isinstance(value, (_Array, _Tensor)) else value
        if isinstance(content, (list, tuple)) and not _PLAIN.issuperset(map(type, content)):
            content = np.stack([arrays(item) for item in content])
        made = np.asarray(content)
        left -= made.nbytes + 64
        if left < 0:
            raise _Fault(f"more than {MAX_PICKLE_BYTES} bytes")
        return made

    try:
        made = arrays(value)
    except (_Fault, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"{name} is no array ({str(error).splitlines()[0][:120]})") from None
    if made.dtype.hasobject:
        raise InputError(f"{name} holds a {type(value).__name__} where an array belongs")
    return made


def items(value: Any, *, name: str) -> list[Any]:
    """The items of a list, a tuple, or an array whose items are objects or numbers.

    Raises:
        InputError: it is none of these.
    """
    content = value.array if isinstance(value, (_Array, _Tensor)) else value
    if isinstance(content, np.ndarray) and content.ndim:
        try:
            return list(content)
        except ValueError as error:  # no such character
            raise InputError(f"{name} holds text that is none ({error})") from None
    if not isinstance(content, (list, tuple)):
        raise InputError(f"{name} holds a {type(value).__name__} where a list belongs")
    return list(content)


def mapping(value: Any, keys: Sequence[str] = (), *, name: str) -> Mapping[Any, Any]:
    """A dictionary (also one in an array without axes) that has at least these keys.

    Raises:
        InputError: it is none, or says which key is missing.
    """
    content = value.array if isinstance(value, _Array) else value
    if not isinstance(content, dict):
        raise InputError(f"{name} holds a {type(value).__name__} where a dictionary belongs")
    if missing := [key for key in keys if key not in content]:
        has = ", ".join(sorted(map(repr, content))[:8])
        raise InputError(f"{name} has no key {missing[0]!r}; it has {has[:200] or 'none'}")
    return content
