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
from functools import reduce
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from store.errors import (
    DamagedStore,
    InputError,
    ManifestError,
    MissingFile,
    UnknownColumn,
    choices,
)
from store.manifest_rows import Row, checked, latest, read_csv, read_jsonl, read_parquet
from store.spec import canonical_json

MAX_KEPT_BYTES = 1 << 30
HISTORY = ("none_of", "annotated_at")
RESERVED = ("path", "clip_id", "start_seconds", "end_seconds", "split", "group", *HISTORY)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Manifest:
    """Clips and what is known of them; columns are tuples of text, one item per clip.

    `root` is the directory the paths are relative to, None for a manifest kept in a store.
    """

    table: Mapping[str, tuple[str, ...]]
    root: Path | None = None

    def __post_init__(self) -> None:
        if not {"path", "clip_id"} <= set(self.table):
            raise ValueError("a manifest has the columns path and clip_id")
        lengths = {len(column) for column in self.table.values()}
        if len(lengths) > 1 or len(set(self.clip_ids)) < len(self.clip_ids):
            raise ValueError("columns of unequal length, or a clip id twice")

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def clip_ids(self) -> tuple[str, ...]:
        """Names of the clips, each once."""
        return self.table["clip_id"]

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

    @property
    def start_seconds(self) -> Float64[np.ndarray, "n"]:
        """The second at which each clip begins in its file; 0 where nothing is said."""
        return self._seconds("start_seconds", 0.0)

    @property
    def end_seconds(self) -> Float64[np.ndarray, "n"]:
        """The second at which each clip ends in its file; infinity where nothing is said."""
        return self._seconds("end_seconds", np.inf)

    @property
    def digest(self) -> str:
        """sha256 over the columns, whatever their order; not over `root`."""
        return sha256(canonical_json(self.table)).hexdigest()

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
        cells = (cell.split(";") for cell in self.column(column))
        return [tuple(filter(None, (label.strip() for label in cell))) for cell in cells]

    def select(
        self, clip_ids: Iterable[str] | None = None, **where: str | Iterable[str]
    ) -> "Manifest":
        """Those clips in that order (all, if None) whose columns have the values asked for.

        `select(split="test")`, `select(["a.mp4"], label=("cat", "dog"))`.

        Raises:
            UnknownColumn: a column there is not.
            InputError: a clip there is not.
        """
        chosen: list[int] = list(range(len(self)))
        if clip_ids is not None:
            position = {clip_id: i for i, clip_id in enumerate(self.clip_ids)}
            clip_ids = list(clip_ids)
            if lost := [clip_id for clip_id in clip_ids if clip_id not in position]:
                raise InputError(
                    f"the manifest has no clip {lost[0]!r} ({len(lost)} of {len(clip_ids)})"
                )
            chosen = [position[clip_id] for clip_id in clip_ids]
        for name, values in where.items():
            column = self.column(name)
            wanted = {values} if isinstance(values, str) else set(values)
            chosen = [i for i in chosen if column[i] in wanted]
        table = {name: tuple(column[i] for i in chosen) for name, column in self.table.items()}
        return Manifest(table=table, root=self.root)

    def _seconds(self, name: str, default: float) -> Float64[np.ndarray, "n"]:
        cells = self.table.get(name, ("",) * len(self))
        return np.array([float(cell) if cell else default for cell in cells], dtype=np.float64)


def read_manifest(path: str | Path, *, ids_suffice: bool = False) -> Manifest:
    """The manifest in a CSV, JSONL or Parquet file.

    `ids_suffice`: the file may name clips of a store by `clip_id` alone, without their paths.

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
        columns, rows, problems = readers[path.suffix.lower()](path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror or error}") from error
    if ids_suffice and "path" not in columns and "clip_id" in columns:
        columns = ["path", *columns]
        rows = [replace(row, cells={"path": row.cells["clip_id"], **row.cells}) for row in rows]
    if HISTORY[1] in columns:
        rows = latest(rows, HISTORY[1])
    return from_rows(columns, rows, problems, name=str(path), root=path.parent)


def from_rows(
    columns: Sequence[str],
    rows: Sequence[Row],
    problems: Sequence[tuple[int, str]] = (),
    *,
    name: str,
    root: Path | None,
) -> Manifest:
    """A manifest of rows whose origin is known, with all that is wrong reported at once.

    Raises:
        ManifestError: names every bad line.
    """
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
    clip_ids, faults = checked(rows)
    faults = sorted([*problems, *faults])
    if faults:
        shown = "; ".join(f"{rows_word(name)} {line}: {text}" for line, text in faults[:8])
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ManifestError(f"{name}: {shown}{more}")
    if not rows:
        raise ManifestError(f"{name} has no clips")
    ordered = ["path", "clip_id", *(c for c in columns if c not in ("path", "clip_id"))]
    table = {column: tuple(row.cells.get(column, "") for row in rows) for column in ordered}
    return Manifest(table={**table, "clip_id": tuple(clip_ids)}, root=root)


def rows_word(name: str) -> str:
    """Text files have lines, Parquet has rows."""
    return "row" if name.lower().endswith(".parquet") else "line"


def union(manifests: Sequence[Manifest]) -> Manifest:
    """Clips of all; a later row wins in the columns it has, and keeps what it does not speak of."""
    columns: list[str] = reduce(
        lambda seen, m: [*seen, *(c for c in m.columns if c not in seen)], manifests, []
    )
    position: dict[str, int] = {}
    for manifest in manifests:
        for clip_id in manifest.clip_ids:
            position.setdefault(clip_id, len(position))
    table = {column: [""] * len(position) for column in columns}
    for manifest in manifests:
        indices = [position[clip_id] for clip_id in manifest.clip_ids]
        for column, cells in manifest.table.items():
            merged = table[column]
            for index, cell in zip(indices, cells, strict=True):
                merged[index] = cell
    return Manifest(table={column: tuple(cells) for column, cells in table.items()})


def to_parquet(manifest: Manifest) -> bytes:
    """The form in which a store keeps a manifest."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    table = {
        name: pyarrow.array(column, pyarrow.string()) for name, column in manifest.table.items()
    }
    parquet.write_table(pyarrow.table(table), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def from_parquet(data: bytes, *, name: str) -> Manifest:
    """A manifest kept in a store under that name.

    Raises:
        DamagedStore: it is not one.
    """
    try:
        columns, rows, problems = read_parquet(BytesIO(data))
        return from_rows(columns, rows, problems, name=name, root=None)
    except (InputError, OSError) as error:
        raise DamagedStore(f"the kept manifest {name} cannot be read: {error}") from error
