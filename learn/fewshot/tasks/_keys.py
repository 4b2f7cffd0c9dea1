"""Random keys of clips by their place in a generator's stream, made only where they are looked at.

`Generator.random` of a table of episodes, classes and clips makes a number for every place of it.
An episode that fails in one of its classes needs those of this class alone, and PCG64 goes to any
place of its stream at once. The numbers, and those that come after, are the same.

Shapes: R = rows of the table that are looked at, P = clips of the largest class.
"""

import numpy as np
from jaxtyping import Bool, Int, UInt64

_LOW_BITS = 11  # of 64, which are not in a random double
_LOW = np.uint64((1 << _LOW_BITS) - 1)
_LAST = ~_LOW  # with a place that there is


class Keys:
    """Rows of keys whose order is that of the numbers that `Generator.random` would have given."""

    def __init__(self, rng: np.random.Generator, width: int) -> None:
        bits = rng.bit_generator
        assert isinstance(bits, np.random.PCG64), bits
        self._bits, self._width = bits, width
        self._before = bits.state  # with half a number, maybe, that is kept for the next integer
        self._position = self._begin = 0

    def rows(self, numbers: Int[np.ndarray, "R"]) -> UInt64[np.ndarray, "R P"]:
        """These rows of the table, whose numbers increase."""
        ends = np.flatnonzero(np.diff(numbers) != 1) + 1
        runs = zip([0, *ends.tolist()], [*ends.tolist(), len(numbers)], strict=True)
        keys = np.empty((len(numbers), self._width), np.uint64)
        for first, last in runs if len(numbers) else ():
            start = self._begin + int(numbers[first]) * self._width
            self._bits.advance(start - self._position)
            size = (last - first) * self._width
            keys[first:last] = self._bits.random_raw(size).reshape(-1, self._width)
            self._position = start + size
        return keys

    def next_table(self, rows: int) -> None:
        """Go on behind a table of so many rows: the next one begins there."""
        self._begin += rows * self._width

    def close(self) -> None:
        """Leave the generator where it is after the last table."""
        self._bits.state = self._before
        self._bits.advance(self._begin)
        if self._before["has_uint32"]:  # going on forgets it
            state = self._bits.state
            state["has_uint32"] = self._before["has_uint32"]
            state["uinteger"] = self._before["uinteger"]
            self._bits.state = state


def first(
    keys: UInt64[np.ndarray, "R P"], allowed: Bool[np.ndarray, "R P"], most: int
) -> Int[np.ndarray, "R _"]:
    """Places of the allowed keys of each row in their order, at most `most`; whatever there is
    behind the last allowed one says nothing. The keys are used up."""
    width = keys.shape[1]
    if width > _LOW:  # no room for a place beside the number
        keys >>= _LOW_BITS
        np.putmask(keys, ~allowed, _LAST)
        return np.argsort(keys, axis=1)[:, :most]
    keys &= ~_LOW
    keys |= np.arange(width, dtype=np.uint64)
    np.putmask(keys, ~allowed, _LAST)
    keys.sort(axis=1)
    return (keys[:, :most] & _LOW).astype(np.int64)
