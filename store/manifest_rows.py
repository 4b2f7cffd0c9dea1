"""Rows of a manifest: three readers that agree, and the rules every row must keep."""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

from store.errors import ManifestError
from store.names import UNPRINTABLE, clip_id_fault

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]*:/|(concat|data|file|pipe|subfile|crypto):", re.IGNORECASE)
_ABSOLUTE = re.compile(r"[/\\]|[a-z]:[/\\]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row and the line it begins on, from 1."""

    line: int
    cells: Mapping[str, str]


Problem = tuple[int, str]
Read = tuple[list[str], list[Row], list[Problem]]


_DELIMITERS = (",", ";", "\t", "|")


def read_csv(path: Path) -> Read:
    """Text with a header, separated by commas or as the header is; blank lines are passed over."""
    rows: list[Row] = []
    problems: list[Problem] = []
    header: list[str] | None = None
    for line, cells in _csv_lines(path):
        if header is None:
            header = cells
        elif len(cells) != len(header):
            problems.append((line, f"has {len(cells)} cells where the header has {len(header)}"))
        else:
            rows.append(Row(line, dict(zip(header, cells, strict=True))))
    if header is None:
        raise ManifestError(
            f"{path} is empty; its first line names the columns, one of them 'path'"
        )
    return header, rows, problems


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    begins, before = 1, 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter, before = _delimiter(file)
            begins += before
            reader = csv.reader(file, strict=True, delimiter=delimiter)
            for cells in reader:
                stripped = [cell.strip(" \t\r\n") for cell in cells]
                if stripped not in ([], [""]):
                    yield begins, stripped
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
    columns: dict[str, None] = {}
    rows: list[Row] = []
    problems: list[Problem] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not UTF-8; save it as UTF-8") from error
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            document = json.loads(text)
            cells = _as_cells(document)
        except (ValueError, RecursionError):
            problems.append((line, "is not JSON"))
        except TypeError as error:
            problems.append((line, str(error)))
        else:
            columns.update(dict.fromkeys(cells))
            rows.append(Row(line, cells))
    if problems and not rows:  # no columns are known: the lines themselves are what is wrong
        columns["path"] = None
    return list(columns), rows, problems


def read_parquet(source: Path | BytesIO) -> Read:
    """Columns of text or numbers; lists are joined with `;`."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(source) as file:  # `read_table` imports pandas, where it is there
            table = file.read()
        columns = {
            name.strip(): table.column(i).to_pylist() for i, name in enumerate(table.column_names)
        }
    except (pyarrow.ArrowException, ValueError) as error:
        where = source if isinstance(source, Path) else "it"
        raise ManifestError(
            f"{where} is not readable Parquet: {str(error).splitlines()[0][:200]}"
        ) from error
    rows: list[Row] = []
    problems: list[Problem] = []
    for line in range(table.num_rows):
        try:
            rows.append(
                Row(line + 1, {name: _as_text(cells[line]) for name, cells in columns.items()})
            )
        except TypeError as error:
            problems.append((line + 1, str(error)))
    return list(columns), rows, problems


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


def latest(rows: Sequence[Row], time: str) -> list[Row]:
    """The last row of each clip, in the order of their first; none of a clip whose last has no
    time."""
    last = {row.cells.get("clip_id") or _default_clip_id(row.cells): row for row in rows}
    return [row for row in last.values() if row.cells.get(time)]


def checked(rows: Sequence[Row]) -> tuple[list[str], list[Problem]]:
    """The clip id of every row, and everything that is wrong with any."""
    clip_ids: list[str] = []
    problems: list[Problem] = []
    first_line: dict[str, int] = {}
    for row in rows:
        clip_id = row.cells.get("clip_id") or _default_clip_id(row.cells)
        clip_ids.append(clip_id)
        faults = list(_faults(row.cells))
        if clip_id and (fault := clip_id_fault(clip_id)) and not faults:
            faults.append(f"clip_id {fault}")
        if clip_id and (line := first_line.setdefault(clip_id, row.line)) != row.line:
            faults.append(f"clip_id {_short(clip_id)} occurs twice (first at {line})")
        problems.extend((row.line, fault) for fault in faults)
    return clip_ids, problems


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
