"""What children answer, as data: a tree of a few kinds of values, and the bytes of its arrays.

The sender has had hostile media through its hands and may be anybody's by now. So nothing here is a
program, as a pickle is: a message can name the classes that were registered as `carried`, no other,
and says of an array its kind of number and its shape only. Arrays lie one after the other, in the
order in which the tree names them; where each begins and how long it is follows from that, so there
is no offset that could point outside. Fields must have the types that their class declares, and the
class then checks what it stands for itself.

    tree: null, true, 1, 0.5, "text", or a list: [kind, …]
"""

import json
import types
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from math import prod
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import Shaped, UInt8

TREE_BYTES = 1 << 20  # of a message without its arrays
ARRAY_BYTES = 1 << 30  # of the arrays of a message
DEPTH = 16
DIMENSIONS = 8
ALIGN = 64
NUMBERS = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
           "float16", "float32", "float64")  # fmt: skip
_PLAIN = (type(None), bool, float, str)
_carried: dict[str, type] = {}
_fields: dict[type, tuple[str, ...]] = {}  # of the dataclasses among them
Carried = TypeVar("Carried", bound=type)


class Nonsense(ValueError):  # noqa: N818 (says what the message is)
    """A message that no honest sender would write."""


class Unsendable(TypeError):  # noqa: N818
    """A value that is no data, or too much of it."""


def carried(kind: Carried) -> Carried:
    """The class, whose instances children may answer from now on: a dataclass, or an enum."""
    assert is_dataclass(kind) or issubclass(kind, Enum), kind
    assert _carried.get(kind.__name__, kind).__module__ == kind.__module__, kind
    _carried[kind.__name__] = kind
    if is_dataclass(kind):
        _fields[kind] = tuple(field.name for field in fields(kind))
    return kind


def encode(message: Any) -> tuple[bytes, list[Shaped[np.ndarray, "..."]]]:
    """The tree of a message, and its arrays.

    Raises:
        Unsendable: it holds something that is no data, or is too large.
    """
    arrays: list[Shaped[np.ndarray, "..."]] = []
    tree = json.dumps(_packed(message, arrays, DEPTH), separators=(",", ":")).encode()
    if len(tree) > TREE_BYTES:
        raise Unsendable(f"{len(tree)} bytes beside its arrays; at most {TREE_BYTES}")
    if (held := sum(map(padded, arrays))) > ARRAY_BYTES:
        raise Unsendable(f"arrays of {held} bytes; at most {ARRAY_BYTES}")
    return tree, arrays


def padded(array: Shaped[np.ndarray, "..."]) -> int:
    """Bytes of the array and of the gap behind it."""
    return -(-array.nbytes // ALIGN) * ALIGN


def pieces(arrays: Sequence[Shaped[np.ndarray, "..."]]) -> list[Any]:
    """The bytes of arrays, with what lies between them."""
    found: list[Any] = []
    for array in arrays:
        found += [array.reshape(-1).view(np.uint8).data, bytes(padded(array) - array.nbytes)]
    return found


def _packed(value: Any, arrays: list[Any], depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        if not -(1 << 63) <= value < 1 << 63:
            raise Unsendable("an integer of more than 64 bits")
        return value
    if not depth:
        raise Unsendable(f"values within values, {DEPTH} deep")
    if kind is np.ndarray:
        if value.dtype.name not in NUMBERS or value.ndim > DIMENSIONS:
            raise Unsendable(f"an array of {value.dtype} with {value.ndim} dimensions")
        if value.nbytes > ARRAY_BYTES:
            raise Unsendable(f"an array of {value.nbytes} bytes; at most {ARRAY_BYTES}")
        arrays.append(np.asarray(value, value.dtype.newbyteorder("="), order="C"))
        return ["array", value.dtype.name, *value.shape]
    if kind is bytes:
        arrays.append(np.frombuffer(value, np.uint8))
        return ["bytes", len(value)]
    if isinstance(value, np.generic):
        return _packed(value.item(), arrays, depth - 1)
    if kind in (list, tuple):
        return [kind.__name__, *(_packed(item, arrays, depth - 1) for item in value)]
    if kind is dict:
        items = [_packed(item, arrays, depth - 1) for pair in value.items() for item in pair]
        return ["dict", *items]
    if _carried.get(kind.__name__) is not kind:
        raise Unsendable(f"{kind.__module__}.{kind.__qualname__} is no value that a child may send")
    if issubclass(kind, Enum):
        return ["enum", kind.__name__, value.name]
    parts = (_packed(getattr(value, name), arrays, depth - 1) for name in _fields[kind])
    return ["class", kind.__name__, *parts]


def decode(tree: bytes | bytearray, data: UInt8[np.ndarray, "_"]) -> Any:
    """The message of a tree, whose arrays are views of `data`.

    Raises:
        Nonsense, ValueError, RecursionError: it is none.
    """
    reader = _Reader(data)
    message = reader.value(json.loads(tree), DEPTH)
    if reader.end != len(data):
        raise Nonsense(f"{len(data) - reader.end} bytes that belong to no array")
    return message


class _Reader:
    """Builds values out of a tree, and takes arrays off the front of the data as it meets them."""

    def __init__(self, data: UInt8[np.ndarray, "_"]) -> None:
        self.data = data
        self.end = 0  # of the arrays so far

    def value(self, node: Any, depth: int) -> Any:
        """The value of a node, with all below it."""
        kind = type(node)
        if kind in _PLAIN:
            return node
        if kind is int:
            if not -(1 << 63) <= node < 1 << 63:
                raise Nonsense("an integer of more than 64 bits")
            return node
        if not depth:
            raise Nonsense(f"values within values, more than {DEPTH} deep")
        build = _KINDS.get(str(node[0])) if kind is list and node else None
        if build is None:
            raise Nonsense(f"a {kind.__name__} that is no value")
        return build(self, node[1:], depth - 1)

    def values(self, nodes: Sequence[Any], depth: int) -> list[Any]:
        """The values of some nodes."""
        return [self.value(node, depth) for node in nodes]

    def array(self, node: Sequence[Any], _: int) -> Shaped[np.ndarray, "..."]:
        """An array: its kind of number, and its shape."""
        if not node or node[0] not in NUMBERS or len(node) > DIMENSIONS + 1:
            raise Nonsense(f"an array of {node[:1]} with {len(node) - 1} dimensions")
        kind, shape = np.dtype(node[0]), node[1:]
        if any(type(side) is not int or not 0 <= side <= ARRAY_BYTES for side in shape):
            raise Nonsense(f"an array of shape {shape}")
        size = prod(shape) * kind.itemsize  # Python's integers do not overflow
        begin, self.end = self.end, self.end + -(-size // ALIGN) * ALIGN
        if self.end > len(self.data):
            raise Nonsense(f"{self.end} bytes of arrays where {len(self.data)} came")
        return self.data[begin : begin + size].view(kind).reshape(shape)

    def blob(self, node: Sequence[Any], depth: int) -> bytes:
        """Bytes, which travel as an array of them."""
        if len(node) != 1:
            raise Nonsense(f"bytes of {len(node)} lengths")
        return self.array(["uint8", *node], depth).tobytes()

    def table(self, node: Sequence[Any], depth: int) -> dict[Any, Any]:
        """A dictionary by text or by number."""
        items = self.values(node, depth)
        if len(items) % 2 or any(type(key) not in (str, int) for key in items[::2]):
            raise Nonsense("a dictionary by something else than text or numbers")
        return dict(zip(items[::2], items[1::2], strict=True))

    def member(self, node: Sequence[Any], _: int) -> Enum:
        """A member of an enum."""
        kind = _registered(node)
        if not issubclass(kind, Enum) or len(node) != 2 or type(node[1]) is not str:
            raise Nonsense(f"{node[:2]} is no member of an enum")
        if node[1] not in kind.__members__:
            raise Nonsense(f"{kind.__name__} has no such member")
        return kind[node[1]]

    def instance(self, node: Sequence[Any], depth: int) -> Any:
        """An instance of a dataclass, its fields in their order."""
        kind = _registered(node)
        if kind not in _fields or len(node) != len(_fields[kind]) + 1:
            raise Nonsense(f"{kind.__name__} with {len(node) - 1} fields")
        values = self.values(node[1:], depth)
        check_fields(kind, values)
        return kind(**dict(zip(_fields[kind], values, strict=True)))


_KINDS: dict[str, Callable[[_Reader, Sequence[Any], int], Any]] = {
    "array": _Reader.array,
    "bytes": _Reader.blob,
    "dict": _Reader.table,
    "enum": _Reader.member,
    "class": _Reader.instance,
    "list": _Reader.values,
    "tuple": lambda reader, node, depth: tuple(reader.values(node, depth)),
}


def _registered(node: Sequence[Any]) -> type:
    name = node[0] if node else None
    if type(name) is not str or name not in _carried:
        raise Nonsense(f"{str(name)[:80]!r} is no class that a child may name")
    return _carried[name]


Check = Callable[[Any], bool]
Bound = tuple[tuple[Any, Any], ...]  # what type variables stand for


def check_fields(kind: type, values: Sequence[Any], bound: Bound = ()) -> None:
    """Nothing, if the fields have the types that the class declares.

    Raises:
        Nonsense: one has another.
    """
    for (name, check), value in zip(_checks(kind, bound), values, strict=True):
        if not check(value):
            raise Nonsense(f"{kind.__name__}.{name} is a {type(value).__name__}")


@cache
def _checks(kind: type, bound: Bound) -> list[tuple[str, Check]]:
    """The fields of a class, each with what tells whether a value may stand in it."""
    hints = get_type_hints(kind)
    return [(name, _check(hints[name], bound)) for name in _fields[kind]]


def _check(hint: Any, bound: Bound) -> Check:
    """What tells whether a value is of a type, for such types as fields of carried classes have."""
    if hint is Any:
        return lambda value: True
    if isinstance(hint, TypeVar):
        return _check(dict(bound).get(hint, hint.__bound__ or Any), bound)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        either = [_check(one, bound) for one in arguments]
        return lambda value: any(check(value) for check in either)
    if origin is None:
        return _plain_check(hint)
    if origin in _fields:
        own = tuple(zip(origin.__parameters__, arguments, strict=True))
        return lambda value: type(value) is origin and _fields_fit(value, own)
    checks = [_check(one, bound) for one in arguments]
    if len(arguments) == 2 and ... not in arguments:
        key, item = checks
        return lambda value: (
            type(value) is dict and all(key(k) and item(v) for k, v in value.items())
        )
    return lambda value: isinstance(value, origin) and all(map(checks[0], value))


def _plain_check(hint: Any) -> Check:
    if hint in (int, float, bool, str, bytes) or hint in _fields:
        return lambda value: type(value) is hint  # a boolean is no number here
    return lambda value: isinstance(value, hint)  # enums; arrays, of any length that fits


def _fields_fit(value: Any, bound: Bound) -> bool:
    check_fields(type(value), [getattr(value, name) for name in _fields[type(value)]], bound)
    return True
