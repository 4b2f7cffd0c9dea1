"""Runs the opcodes of other people's pickles, and counts what they cost.

A pickle is a program. This machine knows a short list of names, all of them ours: placeholders for
numpy arrays and torch tensors, and the containers. Nothing else can be named, so nothing else can
be called. It is Python's own pure-Python machine, whose memory grows with what it makes, and every
opcode and every callable pays for that out of one budget.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np

from store.pickles.budget import MAX_DEPTH, MAX_KEY_BITS, Budget, Fault
from store.pickles.values import (
    OBJECT_BYTES,
    STORAGES,
    Array,
    DType,
    StorageType,
    Stored,
    Tensor,
    filled,
    numpy_of,
)  # fmt: skip

_SLOT, _ENTRY, _OBJECT = 16, 112, OBJECT_BYTES  # on the stack and in a list; of a dictionary

Storage = Callable[[tuple[Any, ...]], Callable[[], np.ndarray]]


class Inert:
    """What stands for any object where a pickle is only looked over; it does nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def extend(self, items: Any) -> None:
        """Nothing."""

    add = append = extend


# ── what may be called ───────────────────────────────────────────────────────────────────────────


def _frombuffer(budget: Budget, data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    made = Array()
    made.array = filled(budget, data, numpy_of(dtype), shape, order)
    return made


def _scalar(budget: Budget, dtype: Any, data: Any = b"") -> Any:
    kind = numpy_of(dtype)
    if kind.hasobject:
        return data
    budget.take(_OBJECT + 2 * kind.itemsize)
    return filled(budget, data, kind, (1,), "C")[0]


def _encode(budget: Budget, text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as pickles of protocol 2 spell them."""
    if not isinstance(text, str) or not isinstance(encoding, str):
        raise Fault("text that is none")
    if encoding not in ("latin1", "latin-1"):
        raise Fault(f"text in {encoding[:40]}")
    budget.take(_OBJECT + len(text))
    return text.encode("latin1")


def _bytes(_: Budget, *args: Any) -> bytes:
    """No bytes, as pickles of protocol 2 spell them; `bytes(n)` would allocate."""
    if args:
        raise Fault("bytes made of something")
    return b""


def _sequence(kind: type, budget: Budget, *args: Any) -> Any:
    budget.take(_OBJECT + _SLOT * sum(map(_count, args)))
    return kind(*args)


def _hashed(kind: type, budget: Budget, *args: Any) -> Any:
    budget.take(4 * _OBJECT + _ENTRY * sum(map(_count, args)))
    for items in args:
        for item in items:
            _check_key(item)
    return kind(*args)


def _dictionary(kind: type, budget: Budget, *args: Any) -> Any:
    budget.take(2 * _OBJECT + _ENTRY * sum(map(_count, args)))
    for items in args:
        for item in () if isinstance(items, dict) else items:
            if not isinstance(item, (list, tuple)) or len(item) != 2:
                raise Fault("a dictionary of no pairs")
            _check_key(item[0])
    return kind(*args)


def _count(items: Any) -> int:
    if not isinstance(items, (list, tuple, set, frozenset, dict)):
        raise Fault(f"a container made of a {type(items).__name__}")
    return len(items)


def _check_key(key: Any) -> None:
    """Refuse what is costly to hash or to compare: a tuple of tuples takes time without end."""
    if type(key) is int:
        if key.bit_length() > MAX_KEY_BITS:
            raise Fault("a key that is a number of too many digits")
    elif key is not None and not isinstance(key, (str, bytes, float, bool, np.generic)):
        raise Fault(f"a {type(key).__name__} as a key")


def _defaultdict(_: Budget, *__: Any) -> dict[Any, Any]:
    return {}


def _placeholder(kind: type, budget: Budget, *args: Any) -> Any:
    budget.take(4 * _OBJECT)
    return kind(*args)


def _nothing(*_: Any) -> None:
    return None


_CONTAINERS: dict[str, Callable[..., Any]] = {
    "list": partial(_sequence, list), "tuple": partial(_sequence, tuple),
    "dict": partial(_dictionary, dict), "set": partial(_hashed, set),
    "frozenset": partial(_hashed, frozenset), "bytes": _bytes,
}  # fmt: skip
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): partial(_dictionary, OrderedDict),
    ("collections", "defaultdict"): _defaultdict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _nothing,
    ("numpy", "dtype"): partial(_placeholder, DType),
    ("torch._utils", "_rebuild_tensor"): partial(_placeholder, Tensor),
    ("torch._utils", "_rebuild_tensor_v2"): partial(_placeholder, Tensor),
    **{(m, name): made for m in ("builtins", "__builtin__") for name, made in _CONTAINERS.items()},
    **{
        (f"numpy.{core}.{module}", name): made
        for core in ("core", "_core")
        for module, name, made in (
            ("multiarray", "_reconstruct", partial(_placeholder, Array)),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


# ── the machine ──────────────────────────────────────────────────────────────────────────────────

_Machine: Any = getattr(pickle, "_Unpickler")  # noqa: B009 (hides the C one's type)
_REFUSED = (
    pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
    pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
)  # fmt: skip
_FREE = (pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.POP, pickle.POP_MARK)
# Bytes of memory that an opcode takes besides those it reads; all others take a slot and an object.
_COSTS = {
    **dict.fromkeys(_FREE, 0),
    **dict.fromkeys(
        (pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT1, pickle.EMPTY_TUPLE,
         pickle.DUP, pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.MARK,
         pickle.APPEND, pickle.APPENDS), _SLOT),
    **dict.fromkeys((pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE), _ENTRY),
    **dict.fromkeys((pickle.EMPTY_SET, pickle.FROZENSET), 4 * _OBJECT),
    **dict.fromkeys((pickle.GLOBAL, pickle.STACK_GLOBAL), 2 * _OBJECT),
}  # fmt: skip


def _charged(run: Callable[[Any], None], cost: int) -> Callable[[Any], None]:
    def charged(machine: Any) -> None:
        budget = machine.budget
        budget.left_bytes -= cost
        budget.left_opcodes -= 1
        if budget.left_bytes < 0 or budget.left_opcodes < 0:
            budget.take(0)
        run(machine)

    return charged


class Unpickler(_Machine):
    """Loads one object; everything it makes is paid for."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Machine.dispatch)

    def __init__(self, file: io.BufferedIOBase, storage: Storage | None, budget: Budget) -> None:
        super().__init__(file, encoding="latin1")
        self.storage, self.budget = storage, budget

    def find_class(self, module: str, name: str, /) -> Any:
        if self.storage and (module, name[-7:]) == ("torch", "Storage") and name in STORAGES:
            return StorageType(name)
        if (module, name) not in _ALLOWED:
            raise Fault(f"{module}.{name}"[:120])
        return partial(_ALLOWED[module, name], self.budget)

    def persistent_load(self, pid: Any) -> Any:
        if self.storage is None or not isinstance(pid, tuple):
            raise Fault("something kept outside of it")
        read = self.storage(pid)
        return Stored(read, pid[1].dtype.itemsize * (1 + pid[1].is_bfloat16))

    def _build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, (DType, Array)):
            made.set_state(state, self.budget)
        elif not isinstance(made, OrderedDict):  # torch hangs metadata on those; nobody needs it
            raise Fault(f"the state of a {type(made).__name__}")

    def _bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def _refuse(self) -> None:
        raise Fault("an object of some class")

    def _mark(self) -> None:
        if len(self.metastack) > MAX_DEPTH:
            raise Fault(f"containers more than {MAX_DEPTH} deep")
        _Machine.load_mark(self)

    def _reduce(self) -> None:
        if not isinstance(self.stack[-1], tuple):
            raise Fault("a call without arguments")
        _Machine.load_reduce(self)

    def _with_keys(self, run: Callable[[Any], None], step: int) -> None:
        """Run an opcode that hashes every `step`th item of those since the last mark."""
        keys = self.stack[::step]
        self.budget.take(_ENTRY * len(keys))
        for key in keys:
            _check_key(key)
        run(self)

    def _setitem(self) -> None:
        self.budget.take(_ENTRY)
        _check_key(self.stack[-2])
        _Machine.load_setitem(self)

    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.BYTEARRAY8[0]] = _bytearray8
    dispatch[pickle.MARK[0]] = _mark
    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.SETITEM[0]] = _setitem
    dispatch[pickle.SETITEMS[0]] = lambda self: self._with_keys(_Machine.load_setitems, 2)
    dispatch[pickle.DICT[0]] = lambda self: self._with_keys(_Machine.load_dict, 2)
    dispatch[pickle.ADDITEMS[0]] = lambda self: self._with_keys(_Machine.load_additems, 1)
    dispatch[pickle.FROZENSET[0]] = lambda self: self._with_keys(_Machine.load_frozenset, 1)
    dispatch |= dict.fromkeys((opcode[0] for opcode in _REFUSED), _refuse)
    dispatch = {
        opcode: _charged(run, _COSTS.get(bytes([opcode]), _SLOT + _OBJECT))
        for opcode, run in dispatch.items()
    }


class Inspector(Unpickler):
    """Runs a pickle with an inert stand-in for every name it does not know: it only counts."""

    dispatch: ClassVar[dict[int, Any]] = {
        **Unpickler.dispatch,
        **{
            opcode[0]: _charged(_Machine.dispatch[opcode[0]], 4 * _OBJECT)
            for opcode in (pickle.NEWOBJ, pickle.NEWOBJ_EX)
        },
    }

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return super().find_class(module, name)
        except Fault:
            return Inert

    def _build_any(self) -> None:
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = _charged(_build_any, 0)
