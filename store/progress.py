"""How far a command is, for those that can take long: told to whoever wants to show it."""

from collections.abc import Callable

Progress = Callable[[int, int], object]  # takes what is done, and all


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function that takes how many more are done."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, total)

    return advance
