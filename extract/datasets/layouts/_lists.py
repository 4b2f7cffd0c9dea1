"""Reading the text files that datasets come with."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from store.errors import InputError, MissingFile

_UCF_GROUP = re.compile(r"v_(?P<label>[A-Za-z]+)_(?P<group>g\d+)_c\d+")
_YOUTUBE = re.compile(r"(?P<id>[A-Za-z0-9_-]{11})_\d{6}(_\d{6})?")
SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val",
    "validation": "val", "dev": "val", "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        MissingFile: there is none.
        InputError: it is no text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MissingFile(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text (byte {error.start})") from None


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def table_of(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV whose header has at least these columns, in whatever order.

    Raises:
        InputError: it lacks one, or a row has another number of cells.
    """
    rows = _rows(path, text_of(path).splitlines())
    header = next(rows, [])
    if lacking := [name for name in columns if name not in header]:
        raise InputError(f"{path} lacks the column {lacking[0]!r}; it has {', '.join(header)}")
    yield from (dict(zip(header, cells, strict=True)) for cells in rows)


def cells_of(path: Path, *, comment: str = "") -> Iterator[list[str]]:
    """The rows of a CSV without a header.

    Raises:
        InputError: a row has another number of cells than the first.
    """
    text = text_of(path).splitlines()
    if comment:
        text = ["" if line.startswith(comment) else line for line in text]
    return _rows(path, text)


def json_of(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from None


def named(source: Path, pattern: str, hint: str) -> list[Path]:
    """The files below a folder (or the file itself) whose names match, sorted.

    Raises:
        MissingFile: none does.
    """
    paths = [source] if source.is_file() else sorted(source.rglob(pattern))
    if not paths:
        raise MissingFile(f"no {pattern} in {source}: {hint}")
    return paths


def split_in(name: str) -> str:
    """`train`, `val` or `test`, if that is a word of a file's name."""
    words = re.findall(r"[a-z]+", re.sub(r"list|split", " ", name.lower()))
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def group_in(stem: str) -> str:
    """The source video that a clip's name tells: UCF's group, or a YouTube id; else the name."""
    if ucf := _UCF_GROUP.fullmatch(stem):
        return f"{ucf['label']}_{ucf['group']}"
    youtube = _YOUTUBE.fullmatch(stem)
    return youtube["id"] if youtube else stem


def number_in(path: Path, text: str, noun: str) -> float:
    """A number in a list.

    Raises:
        InputError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}: {noun} {text!r} is no number") from None


def _rows(path: Path, lines: Sequence[str]) -> Iterator[list[str]]:
    """Rows of cells, as many in each."""
    table = csv.reader(lines, skipinitialspace=True, strict=True)
    count = 0
    try:
        for row in table:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            count = count or len(cells)
            if len(cells) != count:
                raise InputError(
                    f"{path}, line {table.line_num}: {len(cells)} cells where {count} are expected"
                )
            yield cells
    except csv.Error as error:
        raise InputError(f"{path}, line {table.line_num}: {error}") from None
