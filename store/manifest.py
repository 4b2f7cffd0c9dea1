"""The table with one row per clip: reading CSV, JSONL and Parquet, and finding all bad rows.

Columns with a meaning: `path` (relative to the manifest; required), `clip_id` (default: the path,
with `#start-end` for pieces), `start_seconds`, `end_seconds`, `split`, `group`. All others are
labels; `;` separates several in one cell. Every cell is text.

A table with a column `annotated_at` is a history, as `learn annotate` appends to: the last row of a
clip holds, and one without a time takes the clip back. `none_of` names columns of labels that were
looked at and have no answer.

Shapes: n = clips.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from store.columns import Columns, arrow_of
from store.errors import (
    DamagedStore,
    InputError,
    ManifestError,
    MissingFile,
    UnknownColumn,
    choices,
)
from store.manifest_rows import (
    Problem,
    Read,
    Row,
    checked,
    latest,
    read_csv,
    read_jsonl,
    read_of,
    read_parquet,
)
from store.optional import library

if TYPE_CHECKING:
    import pandas as pd
    from pyarrow import ChunkedArray

MAX_KEPT_BYTES = 1 << 34  # of a kept manifest that is read; earlier versions kept any in one file
PIECE_BYTES = 512 << 20  # of text, in one kept file
GROUP_ROWS = 1 << 16  # that are read at once, where not all are wanted
HISTORY = ("none_of", "annotated_at")
RESERVED = ("path", "clip_id", "start_seconds", "end_seconds", "split", "group", *HISTORY)


@dataclass(frozen=True, kw_only=True, eq=False)
class Manifest:
    """Clips and what is known of them; columns are tuples of text, one item per clip.

    Columns that were read are `Columns`, which make a tuple when they are asked for one.
    `root` is the directory the paths are relative to, None for a manifest kept in a store.
    """

    table: Mapping[str, tuple[str, ...]]
    root: Path | None = None

    def __post_init__(self) -> None:
        if not {"path", "clip_id"} <= set(self.table):
            raise ValueError("a manifest has the columns path and clip_id")
        if not isinstance(self.table, Columns):
            object.__setattr__(self, "table", Columns(text=self.table))
        lengths = {self.cells.length_of(name) for name in self.table}
        if len(lengths) > 1 or self.cells.has_doubles("clip_id"):
            raise ValueError("columns of unequal length, or a clip id twice")

    def __len__(self) -> int:
        return self.cells.length_of("clip_id")

    @property
    def cells(self) -> Columns:
        """The table, with its ways to be read."""
        assert isinstance(self.table, Columns)
        return self.table

    @property
    def clip_ids(self) -> tuple[str, ...]:
        """Names of the clips, each once."""
        return self.table["clip_id"]

    @cached_property
    def keys(self) -> UInt64[np.ndarray, "n 2"]:
        """The keys under which features know the clips."""
        return self.cells.keys_of("clip_id")

    @property
    def paths(self) -> tuple[str, ...]:
        """Media files, relative to `root`."""
        return self.table["path"]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""
        return tuple(self.table)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that mean nothing to us."""
        return tuple(name for name in self.table if name not in RESERVED)

    @cached_property
    def start_seconds(self) -> Float64[np.ndarray, "n"]:
        """The second at which each clip begins in its file; 0 where nothing is said."""
        return self._seconds("start_seconds", 0.0)

    @cached_property
    def end_seconds(self) -> Float64[np.ndarray, "n"]:
        """The second at which each clip ends in its file; infinity where nothing is said."""
        return self._seconds("end_seconds", np.inf)

    @cached_property
    def digest(self) -> str:
        """sha256 over the columns as canonical JSON, whatever their order; not over `root`."""
        digest = sha256()
        for data in self.cells.canonical_json():
            digest.update(data)
        return digest.hexdigest()

    def column(self, name: str) -> tuple[str, ...]:
        """The cells of a column.

        Raises:
            UnknownColumn: says which there are.
        """
        if name not in self.table:
            raise UnknownColumn(f"no column {name!r}; there are {choices(name, self.table)}")
        return self.table[name]

    def labels(self, column: str) -> list[tuple[str, ...]]:
        """The labels in each cell of a column, split at `;`.

        Raises:
            UnknownColumn: says which there are.
        """
        cells = self.column(column)
        labels = {
            cell: tuple(filter(None, (label.strip() for label in cell.split(";"))))
            for cell in set(cells)
        }
        return [labels[cell] for cell in cells]

    def to_pandas(self) -> "pd.DataFrame":
        """The table, a line for each clip, under its id.

        >>> fs.manifest().to_pandas()["label"].nunique()
        6

        Raises:
            ConfigError: pandas is not installed.
        """
        pandas = library("pandas", "frames")
        table = {name: list(self.table[name]) for name in self.columns}
        return pandas.DataFrame(table).set_index("clip_id")

    def select(
        self, clip_ids: Iterable[str] | None = None, **where: str | Iterable[str]
    ) -> "Manifest":
        """Those clips in that order (all, if None) whose columns have the values asked for.

        `select(split="test")`, `select(["a.mp4"], label=("cat", "dog"))`.

        Raises:
            UnknownColumn: a column there is not.
            InputError: a clip there is not.
        """
        chosen = np.arange(len(self))
        if clip_ids is not None:
            position = {clip_id: i for i, clip_id in enumerate(self.clip_ids)}
            clip_ids = list(clip_ids)
            if lost := [clip_id for clip_id in clip_ids if clip_id not in position]:
                raise InputError(
                    f"the manifest has no clip {lost[0]!r} ({len(lost)} of {len(clip_ids)})"
                )
            chosen = np.array([position[clip_id] for clip_id in clip_ids], np.int64)
        for name, values in where.items():
            column = self.column(name)
            wanted = {values} if isinstance(values, str) else set(values)
            keep = [column[i] in wanted for i in chosen.tolist()]
            chosen = chosen[np.array(keep, bool)]
        return Manifest(table=self.cells.take(chosen), root=self.root)

    def _seconds(self, name: str, default: float) -> Float64[np.ndarray, "n"]:
        if name not in self.table:
            return np.full(len(self), default)
        cells = self.table[name]
        return np.array([float(cell) if cell else default for cell in cells], dtype=np.float64)


def read_manifest(path: str | Path, *, ids_suffice: bool = False) -> Manifest:
    """The manifest in a CSV, JSONL or Parquet file.

    `ids_suffice`: the file may name clips of a store by `clip_id` alone, without their paths.

    >>> with Path("clips.csv").open("w") as file:
    ...     print("path,mood", "a.mp4,calm", "b.mp4,wild", sep=chr(10), file=file)
    >>> store.read_manifest("clips.csv").label_columns
    ('mood',)

    Raises:
        MissingFile: there is no such file.
        ManifestError: all bad rows at once.
    """
    path = Path(path)
    readers = {
        ".csv": read_csv,
        ".jsonl": read_jsonl,
        ".ndjson": read_jsonl,
        ".parquet": read_parquet,
    }
    if path.is_dir():
        raise MissingFile(
            f"{path} is a folder where a manifest is meant; write one: "
            f"extract manifest folder {path} -o {path / 'manifest.csv'}"
        )
    if not path.is_file():
        raise MissingFile(f"no manifest {path}; write one: extract manifest folder DIR -o CSV")
    if path.suffix.lower() not in readers:
        raise ManifestError(f"{path.name} is none of {', '.join(readers)}; convert or rename it")
    try:
        read = readers[path.suffix.lower()](path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror or error}") from error
    if ids_suffice and "path" not in read.columns and "clip_id" in read.columns:
        cells = {"path": read.cells.arrow("clip_id")}
        cells |= {name: read.cells.arrow(name) for name in read.cells}
        read = replace(read, columns=["path", *read.columns], cells=Columns(cells))
    if HISTORY[1] in read.columns:
        read = latest(read, HISTORY[1])
    return _manifest(read, name=str(path), root=path.parent)


def from_rows(
    columns: Sequence[str],
    rows: Sequence[Row],
    problems: Sequence[Problem] = (),
    *,
    name: str,
    root: Path | None,
) -> Manifest:
    """A manifest of rows whose origin is known, with all that is wrong reported at once.

    Raises:
        ManifestError: names every bad line.
    """
    return _manifest(read_of(columns, rows, problems), name=name, root=root)


def _manifest(read: Read, *, name: str, root: Path | None) -> Manifest:
    """The manifest that was read, if nothing is wrong with it.

    Raises:
        ManifestError: names every bad line.
    """
    columns = read.columns
    if "path" not in columns:
        one = len(columns) == 1 and "path" in re.split(r"\W+", columns[0])
        hint = "; commas, semicolons, tabs or | must part the names" if one else ""
        raise ManifestError(f"{name} has no column 'path'; it has {choices('path', columns)}{hint}")
    doubled = sorted({column for column in columns if columns.count(column) > 1})
    if doubled or "" in columns:
        fault = (
            f"the column {doubled[0]!r} twice"
            if doubled and doubled[0]
            else "a column without a name"
        )
        raise ManifestError(f"{name} has {fault}")
    ids, faults = checked(read)
    faults = sorted([*read.problems, *faults])
    if faults:
        shown = "; ".join(f"{rows_word(name)} {line}: {text}" for line, text in faults[:8])
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ManifestError(f"{name}: {shown}{more}")
    if not len(read):
        raise ManifestError(f"{name} has no clips")
    cells = {"path": read.cells.arrow("path"), "clip_id": ids.arrow("clip_id")}
    cells |= {name: read.cells.arrow(name) for name in columns if name not in cells}
    return Manifest(table=Columns(cells).with_keys_of(ids, "clip_id"), root=root)


def rows_word(name: str) -> str:
    """Text files have lines, Parquet has rows."""
    return "row" if name.lower().endswith(".parquet") else "line"


def union(manifests: Sequence[Manifest]) -> Manifest:
    """Clips of all; a later row wins in the columns it has, and keeps what it does not speak of."""
    if len(manifests) == 1:
        return Manifest(table=manifests[0].table)
    columns = list(dict.fromkeys(name for m in manifests for name in m.columns))
    position: dict[str, int] = {}
    rows = [
        np.array([position.setdefault(c, len(position)) for c in m.clip_ids], np.int64)
        for m in manifests
    ]
    return Manifest(
        table=Columns({name: _joined(name, manifests, rows, len(position)) for name in columns})
    )


def _joined(
    name: str, manifests: Sequence[Manifest], rows: Sequence[Int64[np.ndarray, "_"]], clips: int
) -> "ChunkedArray":
    """One column of a union: of each clip the last cell that a manifest has, or nothing."""
    import pyarrow

    chunks = [arrow_of([""])]
    source, length = np.zeros(clips, np.int64), 1  # the empty cell
    for manifest, where in zip(manifests, rows, strict=True):
        if name in manifest.table:
            chunks.append(manifest.cells.arrow(name))
            source[where] = length + np.arange(len(manifest))
            length += len(manifest)
    whole = pyarrow.chunked_array([chunk for column in chunks for chunk in column.chunks])
    return Columns({name: whole}).take(source).arrow(name)


def pieces(manifest: Manifest) -> list[Manifest]:
    """The manifest in stretches of which each is kept in a file that can be read back; their union
    is the manifest. Where it is cut follows from its content."""
    if len(manifest) < 2 or manifest.cells.bytes <= PIECE_BYTES:
        return [manifest]
    half = len(manifest) // 2
    stretches = ((0, half), (half, len(manifest) - half))
    halves = (Manifest(table=manifest.cells.slice(*stretch)) for stretch in stretches)
    return [piece for part in halves for piece in pieces(part)]


def to_parquet(manifest: Manifest) -> bytes:
    """The form in which a store keeps a manifest."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    table = {name: manifest.cells.arrow(name) for name in manifest.table}
    parquet.write_table(
        pyarrow.table(table), sink, compression="zstd", row_group_size=GROUP_ROWS,
        write_page_checksum=True,
    )  # fmt: skip
    return sink.getvalue().to_pybytes()


def from_parquet(data: bytes, *, name: str) -> Manifest:
    """A manifest kept in a store under that name.

    Raises:
        DamagedStore: it is not one.
    """
    try:
        return _manifest(read_parquet(BytesIO(data)), name=name, root=None)
    except (InputError, OSError) as error:
        raise DamagedStore(f"the kept manifest {name} cannot be read: {error}") from error
