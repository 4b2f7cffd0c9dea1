"""Columns of text as Arrow holds them, a tenth of what Python's own text takes.

A column becomes a tuple of text when somebody asks for it by name; equal cells of a column with few
different ones are then one object.

Shapes: n = rows.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt64

from store.names import clip_keys

if TYPE_CHECKING:
    from pyarrow import ChunkedArray

_SHARED = 8  # a column with that many rows to each different cell shares its text
_SAMPLE = 1024
_AT_ONCE = 1 << 16  # rows that are Python's text at a time


class Columns(Mapping[str, tuple[str, ...]]):
    """Columns by name, of one length: text as tuples, or as Arrow has it by `arrow`."""

    def __init__(
        self,
        arrow: "Mapping[str, ChunkedArray] | None" = None,
        text: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._arrow = dict(arrow or {})
        self._text = dict(text or {})
        self._names = tuple(self._arrow) if arrow is not None else tuple(self._text)
        self._keys: dict[str, UInt64[np.ndarray, "n 2"]] = {}

    def __getitem__(self, name: str) -> tuple[str, ...]:
        if name not in self._text:
            self._text[name] = _text_of(self._arrow[name])
        return self._text[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names  # without making its text

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def length_of(self, name: str) -> int:
        """The number of rows of a column."""
        return len(self._text[name] if name in self._text else self._arrow[name])

    def arrow(self, name: str) -> "ChunkedArray":
        """A column as Arrow has it."""
        if name not in self._arrow:
            self._arrow[name] = arrow_of(self._text[name])
        return self._arrow[name]

    def keys_of(self, name: str) -> UInt64[np.ndarray, "n 2"]:
        """The 16-byte keys of a column's cells, as of clip ids; made once, without their text."""
        if name not in self._keys:
            nothing = np.empty((0, 2), np.uint64)
            self._keys[name] = np.concatenate([nothing, *map(clip_keys, self.chunks(name))])
        return self._keys[name]

    def has_doubles(self, name: str) -> bool:
        """Whether a cell of a column occurs twice."""
        keys = self.keys_of(name)
        high = np.sort(keys[:, 0])
        if not (high[1:] == high[:-1]).any():
            return False  # a half of a key is enough, but for one in millions of millions
        return len(np.unique(keys, axis=0)) < len(keys)

    def with_keys_of(self, other: "Columns", name: str) -> "Columns":
        """These columns, with keys that were made already."""
        self._keys[name] = other.keys_of(name)
        return self

    @property
    def bytes(self) -> int:
        """About what its text takes."""
        return sum(self.arrow(name).nbytes for name in self)

    def slice(self, first: int, count: int) -> "Columns":
        """Some rows that follow each other."""
        return Columns({name: self.arrow(name).slice(first, count) for name in self})

    def whole(self, names: Iterable[str]) -> "Columns":
        """These columns, of those there are, each in one piece: `take` of some chunks joins all."""
        import pyarrow

        large = pyarrow.large_string()
        return Columns(
            {
                name: pyarrow.chunked_array([self.arrow(name).cast(large).combine_chunks()], large)
                for name in names
                if name in self
            }
        )

    def take(self, rows: Int64[np.ndarray, "n"]) -> "Columns":
        """Those rows, in that order."""
        return Columns({name: _taken(self.arrow(name), rows) for name in self})

    def chunks(self, name: str) -> Iterator[Sequence[str]]:
        """The cells of a column, some at a time; nothing is kept."""
        if name in self._text:
            yield self._text[name]
            return
        column = self._arrow[name]
        for first in range(0, len(column), _AT_ONCE):
            yield column.slice(first, _AT_ONCE).to_pylist()

    def canonical_json(self) -> Iterator[bytes]:
        """The bytes of `store.spec.canonical_json` of these columns, some at a time."""
        separator = "{"
        for name in sorted(self):
            yield f"{separator}{json.dumps(name)}:[".encode()
            comma = ""
            for cells in self.chunks(name):
                if cells:
                    text = json.dumps(cells, separators=(",", ":"))
                    yield f"{comma}{text[1:-1]}".encode("ascii")
                    comma = ","
            yield b"]"
            separator = ","
        yield b"}" if len(self) else b"{}"


def arrow_of(cells: Iterable[str]) -> "ChunkedArray":
    """Text as Arrow has it.

    Raises:
        UnicodeEncodeError: halves of surrogate pairs.
    """
    import pyarrow

    cells = cells if isinstance(cells, Sequence) else list(cells)
    chunks = [
        pyarrow.array(cells[first : first + _AT_ONCE], pyarrow.string())
        for first in range(0, len(cells), _AT_ONCE)
    ]
    return pyarrow.chunked_array(chunks, pyarrow.string())


def _text_of(column: "ChunkedArray") -> tuple[str, ...]:
    step = max(1, len(column) // _SAMPLE)
    sample = column.take(np.arange(0, len(column), step)) if len(column) else column
    if len(sample.unique()) * _SHARED > len(sample):
        return tuple(column.to_pylist())
    cells: list[str] = []
    known: dict[str, str] = {}
    for first in range(0, len(column), _AT_ONCE):
        chunk = column.slice(first, _AT_ONCE).to_pylist()
        cells += [known.setdefault(cell, cell) for cell in chunk]
    return tuple(cells)


def _taken(column: "ChunkedArray", rows: Int64[np.ndarray, "n"]) -> "ChunkedArray":
    import pyarrow

    if not len(column):  # of nothing, nothing can be taken
        return column
    taken = column.take(pyarrow.array(rows))
    return taken if isinstance(taken, pyarrow.ChunkedArray) else pyarrow.chunked_array([taken])
