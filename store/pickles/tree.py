"""What a loaded object costs whoever walks it, compares it or prints it."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from store.pickles.budget import MAX_DEPTH, Budget, Fault
from store.pickles.values import OBJECT_BYTES, Array, Tensor

_SLOT, _OBJECT = 16, OBJECT_BYTES
_SMALL = (type(None), bool, float)


def check_tree(value: Any, budget: Budget) -> None:
    """Refuse what is larger, walked from end to end, than its budget, too deep, or in a ring.

    A pickle of a few hundred bytes can name one list twice in another, sixty times over; whoever
    then compares, prints or stacks it never ends.
    """
    done: dict[int, tuple[int, int]] = {}  # of a container: bytes of all in it, and depth
    waiting: list[tuple[Any, bool]] = [(value, False)]
    under_way: set[int] = set()
    while waiting:
        item, is_second = waiting.pop()
        if id(item) in done:
            continue
        inner = _inner(item)
        if is_second or not inner:
            total, depth = _own_bytes(item), 0
            for child in inner:
                size, below = done.get(id(child), (0, 0))
                total, depth = total + size, max(depth, below + 1)
            if total > budget.all_bytes:
                raise Fault(f"more than {budget.all_bytes} bytes in a file of {budget.size_bytes}")
            if depth > MAX_DEPTH:
                raise Fault(f"containers more than {MAX_DEPTH} deep")
            done[id(item)] = total, depth
            under_way.discard(id(item))
            continue
        if id(item) in under_way:
            raise Fault("a container that holds itself")
        under_way.add(id(item))
        waiting.append((item, True))
        waiting.extend((child, False) for child in inner if id(child) not in done)


def _inner(value: Any) -> Sequence[Any]:
    """The containers and arrays in a container."""
    if isinstance(value, Array):
        return [value.array]
    items: Any = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        return ()
    return [i for i in items if isinstance(i, (list, tuple, set, frozenset, dict, Array, Tensor))]


def _own_bytes(value: Any) -> int:
    """The bytes of a value, and of everything in it that is no container."""
    if isinstance(value, (np.ndarray, Tensor)):
        return value.nbytes + 2 * _OBJECT
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        return _OBJECT
    return 2 * _OBJECT + sum(_leaf_bytes(item) for item in _flat(value))


def _flat(value: Any) -> Iterator[Any]:
    yield from value
    if isinstance(value, dict):
        yield from value.values()


def _leaf_bytes(item: Any) -> int:
    if type(item) in _SMALL or (type(item) is int and -5 <= item <= 256):
        return _SLOT
    return _SLOT + (sys.getsizeof(item) if isinstance(item, (str, bytes, int, np.generic)) else 0)
