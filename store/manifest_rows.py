"""Rows of a manifest: three readers that agree, and the rules every row must keep.

Readers give columns, as Arrow holds them. Rules are Python, cell by cell; a screen that passes over
all cells at once finds the few rows that can break one, and only those are looked at.

Shapes: n = rows.
"""

import csv
import json
import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from jaxtyping import Bool, Int64

from store.columns import Columns, arrow_of
from store.errors import ManifestError
from store.names import MAX_CLIP_ID_BYTES, UNPRINTABLE, clip_id_fault
from store.progress import in_steps, steps

if TYPE_CHECKING:
    from pyarrow import ChunkedArray

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]*:/|(concat|data|file|pipe|subfile|crypto):", re.IGNORECASE)
_ABSOLUTE = re.compile(r"[/\\]|[a-z]:[/\\]", re.IGNORECASE)
_AT_ONCE = 1 << 14  # rows that are Python's text at a time
# What can break a rule, for Arrow's regular expressions; the rule itself decides.
_ODD_CELL = r"[\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}]"
_ODD_PATH = r"^$|^[/\\]|\.\.|:"
_ODD_END = r"^[\s\pZ\pC]|[\s\pZ\pC]$"


@dataclass(frozen=True, slots=True)
class Row:
    """One row and the line it begins on, from 1."""

    line: int
    cells: Mapping[str, str]


Problem = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Read:
    """What a reader found: columns, the line each row begins on, and lines that are no rows.

    `columns` has a name as often as the file does.
    """

    columns: list[str]
    cells: Columns
    lines: Int64[np.ndarray, "n"]
    problems: list[Problem]

    def __len__(self) -> int:
        return len(self.lines)

    def row(self, index: int) -> Row:
        """One row."""
        cells = {name: self.cells.arrow(name)[index].as_py() for name in self.cells}
        return Row(int(self.lines[index]), cells)

    def take(self, rows: Int64[np.ndarray, "_"]) -> "Read":
        """Those rows, in that order."""
        return Read(
            columns=self.columns,
            cells=self.cells.take(rows),
            lines=self.lines[rows],
            problems=self.problems,
        )


class _Builder:
    """Rows that become columns, some thousands at a time."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._names: dict[str, None] = {}
        self._waiting: list[Mapping[str, str]] = []
        self._lines = array("q")
        self._chunks: list[Mapping[str, Any]] = []

    def add(self, line: int, cells: Mapping[str, str]) -> None:
        self._lines.append(line)
        self._waiting.append(cells)
        if len(self._waiting) == _AT_ONCE:
            self._flush()

    def add_columns(self, lines: Sequence[int], cells: Mapping[str, Any]) -> None:
        """Rows that are columns already, of Arrow's text."""
        self._flush()
        self._lines.extend(lines)
        self._names |= dict.fromkeys(cells)
        self._chunks.append(cells)

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, columns: Sequence[str] = ()) -> Read:
        """All that was added; columns that no row has are empty."""
        import pyarrow

        self._flush()
        names = list(dict.fromkeys([*columns, *self._names]))
        sizes = [len(next(iter(chunk.values()))) for chunk in self._chunks]

        def column(name: str) -> "ChunkedArray":
            text = pyarrow.string()
            chunks = [
                chunk[name] if name in chunk else pyarrow.repeat(pyarrow.scalar("", text), size)
                for chunk, size in zip(self._chunks, sizes, strict=True)
            ]
            return pyarrow.chunked_array(chunks, text)

        return Read(
            columns=list(columns) or names,
            cells=Columns({name: column(name) for name in names}),
            lines=np.frombuffer(self._lines, np.int64) if self._lines else np.empty(0, np.int64),
            problems=self.problems,
        )

    def _flush(self) -> None:
        import pyarrow

        if not self._waiting:
            return
        names = dict.fromkeys(name for cells in self._waiting for name in cells)
        self._names |= names
        chunk = {}
        for name in names or [""]:
            cells = [row.get(name, "") for row in self._waiting]
            try:
                chunk[name] = pyarrow.array(cells, pyarrow.string())
            except UnicodeEncodeError:  # halves of surrogate pairs, which JSON can write
                first = len(self._lines) - len(cells)
                chunk[name] = self._replaced(name, cells, first)
        self._chunks.append(chunk)
        self._waiting = []

    def _replaced(self, name: str, cells: Sequence[str], first: int) -> Any:
        import pyarrow

        for index, cell in enumerate(cells):
            if _SURROGATE.search(cell):
                fault = f"a control character in column {_short(name)}"
                self.problems.append((self._lines[first + index], fault))
        return pyarrow.array([_SURROGATE.sub("\ufffd", cell) for cell in cells], pyarrow.string())


_SURROGATE = re.compile("[\ud800-\udfff]")


def read_of(columns: Sequence[str], rows: Sequence[Row], problems: Sequence[Problem] = ()) -> Read:
    """Rows that somebody made, as a reader gives them."""
    builder = _Builder()
    for row in rows:
        builder.add(row.line, {name: row.cells.get(name, "") for name in columns})
    builder.problems += problems
    return builder.read(columns)


_BLANKS = " \t\r\n"  # around a cell of a CSV
_DELIMITERS = (",", ";", "\t", "|")


def read_csv(path: Path) -> Read:
    """Text with a header, separated by commas or as the header is; blank lines are passed over."""
    builder = _Builder()
    header: list[str] = []
    waiting: list[list[str]] = []
    lines: list[int] = []

    def flush() -> None:
        cells = dict(zip(header, zip(*waiting, strict=True), strict=True))
        builder.add_columns(lines, {name: _stripped(column) for name, column in cells.items()})
        advance(len(waiting))
        waiting.clear()
        lines.clear()

    rows = _csv_lines(path)
    advance = steps("lines of the manifest", None)
    for _, cells in rows:
        header = [cell.strip(_BLANKS) for cell in cells]
        break
    else:
        raise ManifestError(
            f"{path} is empty; its first line names the columns, one of them 'path'"
        )
    for line, cells in rows:
        if len(cells) != len(header):
            fault = f"has {len(cells)} cells where the header has {len(header)}"
            builder.problems.append((line, fault))
            continue
        waiting.append(cells)
        lines.append(line)
        if len(waiting) == _AT_ONCE:
            flush()
    if waiting:
        flush()
    return builder.read(header)


def _stripped(cells: Sequence[str]) -> Any:
    import pyarrow
    from pyarrow import compute

    return compute.utf8_trim(pyarrow.array(cells, pyarrow.string()), _BLANKS)


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    begins, before = 1, 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter, before = _delimiter(file)
            begins += before
            reader = csv.reader(file, strict=True, delimiter=delimiter)
            for cells in reader:
                if len(cells) > 1 or (cells and cells[0].strip(_BLANKS)):
                    yield begins, cells
                begins = reader.line_num + 1 + before
    except csv.Error as error:
        raise ManifestError(f"{path}: line {begins}: {error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not UTF-8 after line {begins}; save it as UTF-8") from error


def _delimiter(file: TextIO) -> tuple[str, int]:
    """What separates the cells, and how many lines say nothing else: the character by which the
    header names a column that is needed. The file is then at its first line of cells.

    Programs of many countries write semicolons where they say commas, and some a line `sep=;`.
    """
    first = file.readline()
    if (said := re.fullmatch(r"sep=(.)\s*", first.strip('"\r\n'))) is not None:
        return said[1], 1
    file.seek(0)
    header = next((line for line in file if line.strip()), "")
    file.seek(0)
    for delimiter in _DELIMITERS:
        names = {name.strip(' \t\r\n"') for name in header.split(delimiter)}
        if len(names) > 1 and names & {"path", "clip_id"}:
            return delimiter, 0
    return ",", 0


def read_jsonl(path: Path) -> Read:
    """One JSON object a line; numbers are written as text, lists joined with `;`."""
    builder = _Builder()
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(in_steps("lines of the manifest", file, None), start=1):
                if not text.strip():
                    continue
                try:
                    builder.add(line, _as_cells(json.loads(text)))
                except (ValueError, RecursionError):
                    builder.problems.append((line, "is not JSON"))
                except TypeError as error:
                    builder.problems.append((line, str(error)))
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not UTF-8; save it as UTF-8") from error
    # Where no columns are known, the lines themselves are what is wrong.
    return builder.read(["path"] if builder.problems and not len(builder) else [])


def read_parquet(source: Path | BytesIO) -> Read:
    """Columns of text or numbers; lists are joined with `;`."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(source) as file:  # `read_table` imports pandas, where it is there
            table = file.read()
        problems: dict[int, str] = {}
        columns = {
            name.strip(): _text_column(table.column(i), problems)
            for i, name in enumerate(table.column_names)
        }
    except MemoryError:  # which Arrow has as one of its own
        raise
    except (pyarrow.ArrowException, ValueError) as error:
        where = source if isinstance(source, Path) else "it"
        raise ManifestError(
            f"{where} is not readable Parquet: {str(error).splitlines()[0][:200]}"
        ) from error
    read = Read(
        columns=[name.strip() for name in table.column_names],
        cells=Columns(columns),
        lines=np.arange(1, table.num_rows + 1),
        problems=[(row + 1, fault) for row, fault in problems.items()],
    )
    if not problems:
        return read
    return read.take(np.setdiff1d(np.arange(table.num_rows), list(problems)))


def _text_column(column: Any, problems: dict[int, str]) -> "ChunkedArray":
    """The cells of a Parquet column as `_as_text` writes them; `problems` gets the first of each
    row."""
    import pyarrow
    from pyarrow import compute, types

    column.validate(full=True)  # text that is no UTF-8 above all
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_string(column.type) or types.is_large_string(column.type):
        text = compute.fill_null(column.cast(pyarrow.string()), "")
        if not compute.any(compute.match_substring_regex(text, _ODD_END)).as_py():
            return text
    chunks = []
    for first in range(0, len(column), _AT_ONCE):
        cells = []
        for row, value in enumerate(column.slice(first, _AT_ONCE).to_pylist(), first):
            try:
                cells.append(_as_text(value))
            except TypeError as error:
                problems.setdefault(row, str(error))
                cells.append("")
        chunks.append(pyarrow.array(cells, pyarrow.string()))
    return pyarrow.chunked_array(chunks, pyarrow.string())


def _as_cells(record: Any) -> dict[str, str]:
    if not isinstance(record, dict):
        raise TypeError("is not an object")
    return {key.strip(): _as_text(value) for key, value in record.items()}


def _as_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return ";".join(_as_text(item) for item in value)
    raise TypeError(f"has a cell of type {type(value).__name__}")


def latest(read: Read, time: str) -> Read:
    """The last row of each clip, in the order of their first; none of a clip whose last has no
    time."""
    last = {clip_id: index for index, clip_id in enumerate(_clip_ids(read).to_pylist())}
    times = read.cells[time]
    return read.take(np.array([index for index in last.values() if times[index]], np.int64))


def checked(read: Read) -> tuple[Columns, list[Problem]]:
    """The clip id of every row, a column `clip_id`, and everything that is wrong with any."""
    clip_ids = _clip_ids(read)
    ids = Columns({"clip_id": clip_ids})
    problems: list[Problem] = []
    for index in np.flatnonzero(_suspects(read, clip_ids)).tolist():
        row, clip_id = read.row(index), clip_ids[index].as_py()
        faults = list(_faults(row.cells))
        if clip_id and (fault := clip_id_fault(clip_id)) and not faults:
            faults.append(f"clip_id {fault}")
        problems.extend((row.line, fault) for fault in faults)
    return ids, problems + _doubles(ids, read.lines)


def _suspects(read: Read, clip_ids: "ChunkedArray") -> Bool[np.ndarray, "n"]:
    """The rows in which `_faults` or `clip_id_fault` may find something, and some others."""
    from pyarrow import compute

    def found(column: "ChunkedArray", pattern: str) -> Bool[np.ndarray, "n"]:
        return np.asarray(compute.match_substring_regex(column, pattern), dtype=bool)

    suspect = np.asarray(compute.binary_length(clip_ids)) > MAX_CLIP_ID_BYTES
    for name in read.cells:
        if UNPRINTABLE.search(name):
            return np.ones(len(read), dtype=bool)
        suspect |= found(read.cells.arrow(name), _ODD_CELL)
    if "path" not in read.cells:
        return np.ones(len(read), dtype=bool)
    suspect |= found(read.cells.arrow("path"), _ODD_PATH)
    for name in ("start_seconds", "end_seconds"):
        if name in read.cells:
            suspect |= found(read.cells.arrow(name), ".")
    return suspect


def _doubles(ids: Columns, lines: Int64[np.ndarray, "n"]) -> list[Problem]:
    """Rows whose clip id is that of an earlier one."""
    if not ids.has_doubles("clip_id"):
        return []
    first_line: dict[str, int] = {}
    return [
        (line, f"clip_id {_short(clip_id)} occurs twice (first at {first})")
        for clip_id, line in zip(ids["clip_id"], lines.tolist(), strict=True)
        if clip_id and (first := first_line.setdefault(clip_id, line)) != line
    ]


def _clip_ids(read: Read) -> "ChunkedArray":
    """The clip id of every row: that which it says, or the path with its stretch."""
    import pyarrow
    from pyarrow import compute

    cells, text = read.cells, pyarrow.string()
    nothing = pyarrow.chunked_array([pyarrow.repeat(pyarrow.scalar("", text), len(read))])
    said = cells.arrow("clip_id") if "clip_id" in cells else nothing
    path = cells.arrow("path") if "path" in cells else nothing
    chosen = compute.if_else(compute.equal(said, ""), path, said)
    bounds = [name for name in ("start_seconds", "end_seconds") if name in cells]
    if not bounds:
        return chosen
    stretch = np.asarray(compute.equal(said, ""), dtype=bool)
    stretch &= np.logical_or.reduce(
        [np.asarray(compute.not_equal(cells.arrow(name), ""), dtype=bool) for name in bounds]
    )
    if not stretch.any():
        return chosen
    ids = chosen.to_pylist()
    for index in np.flatnonzero(stretch).tolist():
        ids[index] = _default_clip_id(
            {"path": ids[index], **{name: cells[name][index] for name in bounds}}
        )
    return arrow_of(ids)


def _faults(cells: Mapping[str, str]) -> Iterator[str]:
    for name, cell in cells.items():
        if UNPRINTABLE.search(cell) or UNPRINTABLE.search(name):
            yield f"a control character in column {_short(name)}"
    if fault := path_fault(cells.get("path", "")):
        yield fault
    seconds: dict[str, float] = {}
    for name in ("start_seconds", "end_seconds"):
        if cell := cells.get(name, ""):
            value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
            if math.isfinite(value) and value >= 0:
                seconds[name] = value
            else:
                yield f"{name}={_short(cell)} is not a number of seconds from 0"
    if "end_seconds" in seconds and seconds["end_seconds"] <= seconds.get("start_seconds", 0.0):
        start = cells.get("start_seconds") or "0"
        yield f"end_seconds={cells['end_seconds']} is not after start_seconds={start}"


def path_fault(path: str) -> str | None:
    """The reason not to follow a path, or None: it must stay below the manifest's directory."""
    if not path:
        return "no path"
    if _URL.match(path):
        return f"path {_short(path)} is a URL; copy the file and name it relative to the manifest"
    if _ABSOLUTE.match(path):
        return f"path {_short(path)} is absolute; name it relative to the manifest"
    depth = 0
    for step in path.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(step, 1)
        if depth < 0:
            return f"path {_short(path)} leaves the manifest's directory"
    return None


def _default_clip_id(cells: Mapping[str, str]) -> str:
    path, start, end = (cells.get(name, "") for name in ("path", "start_seconds", "end_seconds"))
    return f"{path}#{_plain(start or '0')}-{_plain(end)}" if path and (start or end) else path


def _plain(number: str) -> str:
    """5, 5.0 and 5e0 written alike; what is no number stays as it is."""
    if not _NUMBER.fullmatch(number) or not math.isfinite(value := float(number)):
        return number
    return str(int(value)) if value.is_integer() else repr(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
