"""How far a command is, for those that can take long: told to whoever wants to show it.

What a caller asks for is counted by the `progress` that he hands over. Long work below that, of
which callers know nothing (a look-up that has to be built first), is told in steps to whoever
listens, as the command line does.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Progress = Callable[[int, int], object]  # takes what is done, and all
Listener = Callable[[str, int, int | None], object]  # what, what is done, and all if that is known

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that takes how many more are done."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, total)

    return advance


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have `listener` hear of steps."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def steps(what: str, total: int | None) -> Callable[[int], None]:
    """A function that takes how many more of such steps are done."""
    listener = _listener.get()
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if listener:
            listener(what, done, total)

    return advance


def in_steps(what: str, items: Iterable[T], total: int | None) -> Iterator[T]:
    """The items, each a step that is done once the next is asked for."""
    advance = steps(what, total)
    for item in items:
        yield item
        advance(1)
