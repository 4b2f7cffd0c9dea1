"""The CSV of labels: one line is appended, and flushed to the disk, for every act.

The last line of a clip holds, and one without a time takes the clip back (`store/manifest.py` reads
it so), so that nothing that was written is ever changed. One process at a time holds the file. If
it was changed by another program meanwhile, nothing more is written.
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from store import lock
from store.errors import InputError
from store.manifest import HISTORY, RESERVED
from store.names import UNPRINTABLE

NONE_OF, TIME = HISTORY
MOST_LETTERS = 200  # of a class's name


class ChangedElsewhereError(InputError):
    """Another program wrote to the file."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known of one clip: its label in each column, and the columns it has none of."""

    of: Mapping[str, str] = field(default_factory=dict)
    none_of: frozenset[str] = frozenset()

    def answered(self, column: str) -> bool:
        """Whether the column was answered, if only by "none of these"."""
        return bool(self.of.get(column)) or column in self.none_of

    def changed(self, column: str, name: str, *, none: bool = False) -> "Labels":
        """These with another answer in one column; without a name and `none`, with none at all."""
        of = {key: value for key, value in self.of.items() if key != column}
        others = self.none_of - {column}
        return Labels({**of, column: name} if name else of, others | {column} if none else others)


NOTHING = Labels()
Line = tuple[str, Labels]  # a clip, and what is known of it from there on


def name_fault(name: str) -> str | None:
    """What forbids the name of a class, or None."""
    if not name or name != name.strip():
        return "a class needs a name, without spaces around it"
    if len(name) > MOST_LETTERS:
        return f"a class's name has at most {MOST_LETTERS} letters"
    if ";" in name:
        return "`;` separates several labels in a table, so no class's name may have one"
    return "a control character in a class's name" if UNPRINTABLE.search(name) else None


def check_columns(columns: Sequence[str]) -> None:
    """Refuse names that no column of labels can have.

    Raises:
        InputError: names it.
    """
    for column in columns:
        if column in RESERVED:
            raise InputError(f"column {column!r} has a meaning of its own; name another `label`")
        if (fault := name_fault(column)) is not None:
            raise InputError(f"column {column!r}: {fault.replace('class', 'column')}")
    if not columns:
        raise InputError("no column of labels; name one at least")


class LabelFile:
    """An open file of labels, held by this process; made by `held`."""

    def __init__(self, path: Path, header: Sequence[str], lines: Sequence[Line], note: str) -> None:
        self.path = path
        self.header = tuple(header)
        self.lines = tuple(lines)  # that it had when it was opened
        self.note = note  # what was mended
        self._seen = self._stat()

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns of labels."""
        return tuple(name for name in self.header if name not in RESERVED)

    def append(self, clip: Mapping[str, str], labels: Labels) -> None:
        """Write what is known of a clip; on the disk when this returns.

        Raises:
            ChangedElsewhereError: the file is not what this process left.
            OSError: the disk refused; nothing of the line is left.
        """
        if self._stat() != self._seen:
            raise ChangedElsewhereError(
                f"{self.path.name} was changed or moved by another program, so nothing more is "
                "written to it; stop `learn annotate` and start it again"
            )
        known = bool(labels.of) or bool(labels.none_of)
        time = datetime.now(UTC).isoformat(timespec="milliseconds") if known else ""
        cells = {**clip, **labels.of, NONE_OF: ";".join(sorted(labels.none_of)), TIME: time}
        data = _line([cells.get(name, "") for name in self.header])
        size = self._seen[2]
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            try:
                _write(descriptor, data)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
            self._seen = self._stat()

    def _stat(self) -> tuple[int, int, int]:
        """Which file it is, and how long."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return (0, 0, 0)
        return (found.st_dev, found.st_ino, found.st_size)


@contextmanager
def held(path: Path, known: Sequence[str], columns: Sequence[str]) -> Iterator[LabelFile]:
    """The file at `path`, made if need be with the columns `known` of clips and those of labels.

    What a power cut left of a line is taken off its end.

    Raises:
        InputError: another process holds it, or it is no such file, or lacks a column.
        OSError: the disk refused.
    """
    check_columns(columns)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file; name another `output`")
    if path.is_file() and path.stat().st_size:
        _check(path, _first_line(path), columns)  # before anything is touched
    try:
        with lock.alone(path):
            header, lines, note = _opened(path, [*known, *columns, *HISTORY], columns)
            yield LabelFile(path, header, lines, note)
    except BlockingIOError:
        raise InputError(
            f"another `learn annotate` writes to {path}; open the address that it printed"
        ) from None


def _opened(
    path: Path, fresh: Sequence[str], columns: Sequence[str]
) -> tuple[Sequence[str], list[Line], str]:
    """The header and lines of the file; an empty one gets the header `fresh`."""
    text = path.read_bytes()
    note = ""
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
        note = f"the last {len(text) - len(whole)} bytes of {path.name} were no whole line"
    if not whole:
        with path.open("ab") as file:
            file.write(_line(fresh))
            file.flush()
            os.fsync(file.fileno())
        return fresh, [], note
    try:
        rows = list(csv.reader(io.StringIO(whole.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); mend it, or name another") from None
    header = rows[0]
    _check(path, header, columns)
    lines = []
    for number, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(header):
            raise InputError(
                f"{path}: line {number} has {len(cells)} cells where the header has {len(header)}; "
                "mend or remove it"
            )
        lines.append(_read(dict(zip(header, cells, strict=True))))
    return header, lines, note


def _read(cells: Mapping[str, str]) -> Line:
    if not cells[TIME]:
        return cells["clip_id"], NOTHING
    of = {name: cell for name, cell in cells.items() if cell and name not in RESERVED}
    return cells["clip_id"], Labels(of, frozenset(filter(None, cells[NONE_OF].split(";"))))


def _check(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    if not {"clip_id", *HISTORY} <= set(header):
        raise InputError(f"{path} is no file of `learn annotate`; name another `output`")
    if missing := [name for name in columns if name not in header]:
        raise InputError(
            f"{path} has no column {missing[0]!r}, and its header is never changed; name another "
            "`output` for other columns"
        )


def _first_line(path: Path) -> list[str]:
    with path.open("rb") as file:
        first = file.readline(1 << 16).decode("utf-8-sig", errors="replace")
    return next(csv.reader([first]), [])


def _line(cells: Sequence[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue().encode()


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
