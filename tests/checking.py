"""The checks of `--jaxtyping-packages` at half their price.

`jaxtyping.jaxtyped(typechecker=…)` checks arguments twice in every call, and binds them to names so
that sizes can be compared, whether or not there is an array among them. With `install()`

- a function without arrays is checked by beartype and nothing else,
- a function with arrays by beartype within one frame of sizes,
- what is neither (classes, properties, generators, coroutines …) as jaxtyping has it.
"""

import functools
import inspect
import types
import typing
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError
from jaxtyping import _decorator as decorator


class RefusedError(TypeCheckError):
    """Says what jaxtyping's own message begins with."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Type-check error: {message}")


# It holds values against array types by itself: each of its calls needs a frame of its own.
ASKS_ITSELF = ("extract.processes.wire",)
CONF = BeartypeConf(violation_type=RefusedError)
_theirs = decorator.jaxtyped
_UNSET = decorator._sentinel


def install() -> None:
    """Before any package that is checked is imported."""
    decorator.jaxtyped = jaxtyping.jaxtyped = jaxtyped


def jaxtyped(fn=_UNSET, *, typechecker=_UNSET):
    if fn is _UNSET:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if typechecker in (_UNSET, None) or not _is_plain(fn) or fn.__module__ in ASKS_ITSELF:
        return _theirs(fn, typechecker=typechecker)
    hints = {name: decorator._destring_annotation(hint, fn.__globals__)
             for name, hint in fn.__annotations__.items()}  # fmt: skip
    checked = beartype(_with_hints(fn, hints), conf=CONF)
    if any(map(_has_arrays, hints.values())):
        checked = _theirs(checked, typechecker=None)
    if checked is fn or not hasattr(checked, "__wrapped__"):  # nothing is annotated
        return fn
    return functools.update_wrapper(checked, fn)


def _is_plain(fn) -> bool:
    return (
        isinstance(fn, types.FunctionType)
        and not inspect.isgeneratorfunction(fn)
        and not inspect.isasyncgenfunction(fn)
        and not inspect.iscoroutinefunction(fn)
        and not getattr(fn, "__no_type_check__", False)
        and not hasattr(fn, "__wrapped__")
    )


def _with_hints(fn, hints: dict[str, Any]):
    """The function with other annotations, for beartype; the real one keeps its own."""
    twin = types.FunctionType(
        fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__
    )
    functools.update_wrapper(twin, fn)
    del twin.__wrapped__
    twin.__kwdefaults__, twin.__annotations__ = fn.__kwdefaults__, hints
    return twin


def _has_arrays(hint) -> bool:
    if isinstance(hint, list | tuple):  # of a Callable
        return any(map(_has_arrays, hint))
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(map(_has_arrays, typing.get_args(hint)))
