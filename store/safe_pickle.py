"""Reads other people's pickles without running any of them.

Only arrays, tensors and plain containers are made (`store.pickles.machine`), within a budget of
bytes, opcodes and depth that grows with the file; what is made is no larger to walk than that.

Shapes: none are known before `array` gives one.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import InputError
from store.pickles.budget import Budget, Fault
from store.pickles.machine import Inspector, Storage, Unpickler
from store.pickles.tree import check_tree
from store.pickles.values import STORAGES, Array, StorageType, Tensor

__all__ = ["STORAGES", "StorageType"]

MAX_PICKLE_BYTES = 4 << 30
MAX_ITEMS = 5_000_000  # of one list of names or rows; more would be a gigabyte of objects
_PLAIN = {int, float, bool, str, bytes}


def load(
    file: io.BufferedIOBase,
    *,
    name: str,
    storage: Storage | None = None,
    size_bytes: int | None = None,
) -> Any:
    """The next object of a pickle: containers, text, numbers, and what `array` understands.

    `storage` answers torch's references to data outside of the pickle; `size_bytes` is the size of
    the file that holds both, by which the cost is judged.

    Raises:
        InputError: it is damaged, costs too much, or names anything that is not a plain array or
            container.
    """
    return _run(Unpickler, file, name, storage, size_bytes)


def inspect(file: io.BufferedIOBase, *, name: str, storage: Storage, size_bytes: int) -> None:
    """Look over a pickle that another reader is to load: what it costs, and not what it names.

    Raises:
        InputError: it is damaged, or costs more than a file of its size may.
    """
    _run(Inspector, file, name, storage, size_bytes)


def _size(file: io.BufferedIOBase) -> int:
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end


def _run(
    kind: type[Unpickler],
    file: io.BufferedIOBase,
    name: str,
    storage: Storage | None,
    size: int | None,
) -> Any:
    budget = Budget(_size(file) if size is None else size)
    try:
        made = kind(file, storage, budget).load()
        check_tree(made, budget)
    except Fault as fault:
        raise InputError(
            f"{name} holds {fault}, which is not read: only arrays and plain containers are"
        ) from None
    except InputError:
        raise
    except Exception as error:  # whatever a hostile pickle makes the machine say
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{name} is not a readable pickle ({reason})") from error
    return made


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
        content = value.array if isinstance(value, (Array, Tensor)) else value
        if isinstance(content, (list, tuple)):
            if not _PLAIN.issuperset(map(type, content)):
                content = np.stack([arrays(item) for item in content])
            elif _text_bytes(content) > left:
                raise Fault(f"more than {MAX_PICKLE_BYTES} bytes")
        made = np.asarray(content)
        left -= made.nbytes + 64
        if left < 0:
            raise Fault(f"more than {MAX_PICKLE_BYTES} bytes")
        return made

    try:
        made = arrays(value)
    except (Fault, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise InputError(f"{name} is no array ({str(error).splitlines()[0][:120]})") from None
    if made.dtype.hasobject:
        raise InputError(f"{name} holds a {type(value).__name__} where an array belongs")
    return made


def _text_bytes(items: Sequence[Any]) -> int:
    """The bytes of an array of these plain items: all of its text is as long as the longest."""
    longest = max((len(item) for item in items if isinstance(item, (str, bytes))), default=0)
    return 4 * max(longest, 32) * len(items)


def _content(value: Any, name: str) -> Any:
    """The value, or what an array or a tensor holds.

    Raises:
        InputError: the tensor is not as large as it says.
    """
    try:
        return value.array if isinstance(value, (Array, Tensor)) else value
    except (Fault, ValueError, MemoryError) as error:
        raise InputError(f"{name} holds {str(error)[:120]}") from None


def items(value: Any, *, name: str) -> list[Any]:
    """The items of a list, a tuple, or an array whose items are objects or numbers.

    Raises:
        InputError: it is none of these, or there are too many.
    """
    content = _content(value, name)
    is_array = isinstance(content, np.ndarray) and content.ndim > 0
    if not is_array and not isinstance(content, (list, tuple)):
        raise InputError(f"{name} holds a {type(value).__name__} where a list belongs")
    if len(content) > MAX_ITEMS:
        raise InputError(f"{name} has a list of {len(content)}; {MAX_ITEMS} at most are read")
    try:
        return list(content)
    except ValueError as error:  # no such character
        raise InputError(f"{name} holds text that is none ({error})") from None


def mapping(value: Any, keys: Sequence[str] = (), *, name: str) -> Mapping[Any, Any]:
    """A dictionary (also one in an array without axes) that has at least these keys.

    Raises:
        InputError: it is none, or says which key is missing.
    """
    content = _content(value, name)
    if not isinstance(content, dict):
        raise InputError(f"{name} holds a {type(value).__name__} where a dictionary belongs")
    if missing := [key for key in keys if key not in content]:
        has = ", ".join(sorted(repr(key)[:60] for key in content)[:8])
        raise InputError(f"{name} has no key {missing[0]!r}; it has {has[:200] or 'none'}")
    return content
