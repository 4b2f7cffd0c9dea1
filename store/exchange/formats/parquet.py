"""One feature as a Parquet table as easyfsl reads it: `embedding` and `class_name`.

One row a clip, the mean of its rows, or `parquet:rows=each`. Beside the two columns there are
`clip_id`, `row_time_ms` (with `rows=each`) and the other columns of the manifest; easyfsl passes
them over. A table without clip ids gives each row the id `<class>/<number>`. Columns of any scalar
type are read, and lists of text, which are several labels.

Shapes: V = clips, N = their rows, D = embedding size.
Source: easyfsl, `FeaturesDataset.from_dataframe`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from pyarrow import compute, parquet

from store.errors import InputError, choices
from store.exchange.formats import Clips, Track
from store.exchange.formats._common import (
    MAX_RATIO,
    SMALL_BYTES,
    UNIT_CLIPS,
    cell,
    check_swell,
    gathered,
    label_cells,
    labels,
    matrix,
    means,
    only,
    opened,
    text,
    with_rows,
)
from store.settings import Settings, setting

_WIDTH = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_BLOCK_BYTES = 64 << 20  # of rows at once
_OWN = ("embedding", "class_name", "clip_id", "row_time_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """The meaning of a row, and name and modality of the feature that is read."""

    rows: str = setting("mean", among=("mean", "each"))  # of a clip: a row for each of its rows
    name: str = ""
    modality: str = "other"


def build(config: Config) -> "Parquet":
    """The format."""
    return Parquet(config)


class Parquet:
    """One feature as a table of embeddings and class names."""

    keeps = frozenset({"split", "columns", "clip_ids"})

    def __init__(self, config: Config) -> None:
        self._config = config
        if config.rows == "each":
            self.keeps = self.keeps | {"rows", "times"}

    def write(self, tracks: Sequence[Track], target: Path, *, label: str) -> int:
        """Write one table, block by block; see `Format`."""
        track = only(tracks)
        written = 0
        writer = None
        try:
            for clips in track.clips():
                table = self._table(clips, label)
                if writer is None:
                    writer = parquet.ParquetWriter(target, table.schema, compression="gzip")
                writer.write_table(table)
                written += with_rows(clips).size
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise InputError(f"{track.name} has no clips to export")
        return written

    def _table(self, clips: Clips, label: str) -> pyarrow.Table:
        indices = with_rows(clips)
        each = self._config.rows == "each"
        values = clips.values.astype(np.float32) if each else means(clips)
        of = np.repeat(indices, np.diff(clips.offsets)[indices]) if each else indices
        class_of = dict(zip(indices.tolist(), labels(clips, label), strict=True))
        flat = pyarrow.array(np.ascontiguousarray(values).ravel(), pyarrow.float32())
        ends = pyarrow.array(np.arange(len(values) + 1) * values.shape[1], pyarrow.int64())
        table = {
            "embedding": pyarrow.LargeListArray.from_arrays(ends, flat).cast(
                pyarrow.list_(pyarrow.float32())
            ),
            "class_name": [class_of[i] for i in of.tolist()],
            "clip_id": [clips.clip_ids[i] for i in of],
        }
        if each:
            table["row_time_ms"] = pyarrow.array(clips.row_time_ms)
        for name, cells in clips.columns.items():
            if name in _OWN:
                raise InputError(f"a column cannot be called {name!r} in parquet; choose hdf5")
            table[name] = [cells[i] for i in of]
        return pyarrow.table(table)

    def read(self, source: Path, *, trust_pickle: bool) -> Sequence[Track]:
        """The one track of the table; see `Format`."""
        with _opened(source) as file:
            known = file.schema_arrow.names
            for name in ("embedding", "class_name"):
                if known.count(name) != 1:
                    raise InputError(
                        f"{source} has no column {name!r}, so call one that; "
                        f"it has {choices(name, known)}"
                    )
            first = next(file.iter_batches(batch_size=1, columns=["embedding"]), None)
            if first is None or not first.num_rows:
                raise InputError(f"{source} has no rows")
            dim = len(_embeddings(first.column(0), source)[0])
            schema = file.schema_arrow
        columns = [f.name for f in schema if f.name not in _OWN and _is_cell(f.type)]
        left_out = [
            f"{field.name} ({field.type})"
            for field in schema
            if field.name not in (*columns, *_OWN)
        ]
        left_out += ["row_time_ms (without clip_id)"] if {*known} & {*_OWN} == {
            "embedding", "class_name", "row_time_ms"
        } else []  # fmt: skip
        return [
            Track(
                name=self._config.name or source.stem,
                modality=self._config.modality,
                dim=dim,
                clips=lambda: self._clips(source, dim, columns, left_out),
                files=(source,),
                left_out=left_out,
            )
        ]

    def _clips(
        self, source: Path, dim: int, columns: Sequence[str], left_out: list[str]
    ) -> Iterator[Clips]:
        with _opened(source) as file:
            blocks = _blocks(file, dim, columns, source)
            if "clip_id" in file.schema_arrow.names:
                # rows of one clip may lie anywhere
                yield _identified(list(blocks), source, left_out)
                return
            numbers: Counter[str] = Counter()
            for block in blocks:
                classes = block.columns["class_name"]
                ids = []
                for name in classes:
                    ids.append(f"{name}/{numbers[name]:06d}")
                    numbers[name] += 1
                own = {name: block.columns[name] for name in columns}
                yield gathered(ids, block.rows, {"label": classes, **own}, str(source))


class _Block(NamedTuple):
    """Some rows of the table."""

    rows: np.ndarray
    columns: dict[str, list[str]]
    times: np.ndarray | None


@contextmanager
def _opened(source: Path) -> Iterator[parquet.ParquetFile]:
    """The file; its text stays as it is stored, a dictionary and numbers, until it is counted."""
    with opened(source, parquet.ParquetFile) as file:
        _check_size(file, source)
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        stored = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    with opened(source, partial(parquet.ParquetFile, read_dictionary=stored)) as file:
        yield file


def _blocks(
    file: parquet.ParquetFile, dim: int, columns: Sequence[str], source: Path
) -> Iterator[_Block]:
    where = str(source)
    wanted = [name for name in _OWN if name in file.schema_arrow.names]
    left = max(SMALL_BYTES, MAX_RATIO * source.stat().st_size)
    step = max(1, min(UNIT_CLIPS, _BLOCK_BYTES // (8 * dim)))
    for batch in file.iter_batches(batch_size=step, columns=[*wanted, *columns]):
        made = {}
        for name in (*wanted, *columns):
            column = batch.column(name)
            if name in ("embedding", "row_time_ms"):
                continue
            left -= _text_bytes(column)
            if left < 0:
                raise InputError(f"{where}: the columns name the same text too often")
            items = _items(column)
            if name == "class_name" and None in items:
                text(None, where)
            if name in ("class_name", "label"):
                made[name] = label_cells(items, f"{where}: {name}")
            elif name == "clip_id":
                made[name] = [text(item, where) for item in items]
            else:
                made[name] = [cell(item, f"{where}: {name}") for item in items]
        if "" in made["class_name"]:
            raise InputError(f"{where} has a row without a class_name")
        has_times = "row_time_ms" in wanted
        yield _Block(
            rows=_embeddings(batch.column("embedding"), source),
            columns=made,
            times=batch.column("row_time_ms").to_numpy(zero_copy_only=False) if has_times else None,
        )


def _identified(blocks: Sequence[_Block], source: Path, left_out: list[str]) -> Clips:
    """The clips of a table with ids."""
    where = str(source)
    if len({block.rows.shape[1] for block in blocks}) != 1:
        raise InputError(f"{where}: embeddings are not of one length")
    cells = {
        name: [cell for block in blocks for cell in block.columns[name]]
        for name in blocks[0].columns
    }
    ids, classes = cells.pop("clip_id"), cells.pop("class_name")
    fixed: dict[str, list[str]] = {
        name: cells.pop(name) for name in ("label", "group", "split") if name in cells
    }
    fixed.setdefault("label", classes)
    rows = np.concatenate([block.rows for block in blocks])
    clips = gathered(ids, rows, fixed, where, perhaps=cells, left_out=left_out)
    if blocks[0].times is None:
        return clips
    times = np.concatenate([block.times for block in blocks if block.times is not None])
    if times.dtype.kind != "i" or abs(times).max(initial=0) > np.iinfo(np.int32).max:
        raise InputError(f"{where}: row_time_ms holds what is no int32")
    order = np.argsort(_clip_numbers(ids), kind="stable")
    return replace(clips, row_time_ms=times[order].astype(np.int32))


def _clip_numbers(ids: Sequence[str]) -> np.ndarray:
    number_of: dict[str, int] = {}
    return np.array([number_of.setdefault(name, len(number_of)) for name in ids], dtype=np.int64)


def _check_size(file: parquet.ParquetFile, source: Path) -> None:
    """Refuse what swells: a page of one number repeated has a few bytes for a billion of them."""
    size = 0
    for i in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(i)
        for k in range(group.num_columns):
            column = group.column(k)
            unpacked = column.num_values * _WIDTH.get(column.physical_type, 1)
            size += max(column.total_uncompressed_size, unpacked, 0)
    check_swell(str(source), source.stat().st_size, size)


def _is_text(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    return bool(
        types.is_string(kind) or types.is_large_string(kind)
        or types.is_binary(kind) or types.is_large_binary(kind)
    )  # fmt: skip


def _is_cell(kind: pyarrow.DataType) -> bool:
    """True for scalars, categories of them, and lists of text."""
    types = pyarrow.types
    if types.is_dictionary(kind):
        return _is_cell(kind.value_type) and not types.is_nested(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        inner = kind.value_type
        return _is_text(inner.value_type if types.is_dictionary(inner) else inner)
    return bool(
        _is_text(kind) or types.is_boolean(kind) or types.is_integer(kind)
        or types.is_floating(kind) or types.is_temporal(kind) or types.is_null(kind)
        or types.is_fixed_size_binary(kind) or types.is_decimal(kind)
    ) and not types.is_interval(kind)  # fmt: skip


def _text_bytes(column: pyarrow.Array) -> int:
    """The bytes that the text of a column has when its dictionary is written out."""
    if pyarrow.types.is_nested(column.type):
        column = column.flatten()
    if not pyarrow.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return int(column.nbytes)
    lengths = compute.binary_length(column.dictionary).cast(pyarrow.int64())
    return int(compute.sum(lengths.take(column.indices)).as_py() or 0)


def _items(column: pyarrow.Array) -> list[Any]:
    types = pyarrow.types
    if types.is_timestamp(column.type) or types.is_duration(column.type):
        column = column.cast(pyarrow.string())  # Python has no nanoseconds
    if types.is_floating(column.type):
        return list(column.to_numpy(zero_copy_only=False))  # in their own precision
    if types.is_decimal(column.type):
        column = column.cast(pyarrow.string())
    items = column.to_pylist()
    if types.is_nested(column.type):
        return [None if item is None else ";".join(map(_plain, item)) for item in items]
    return items


def _plain(item: Any) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else item or ""


def _embeddings(column: pyarrow.Array, source: Path) -> np.ndarray:
    """Lists of numbers of one length, as rows."""
    kind = column.type
    is_list = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
    if not (is_list or pyarrow.types.is_fixed_size_list(kind)) or column.null_count:
        raise InputError(f"{source}: embedding is {kind}, not lists of numbers")
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) != 1 or column.flatten().null_count:
        raise InputError(f"{source}: embeddings are not of one length: {sorted(lengths)[:4]}")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return matrix(flat.reshape(len(column), lengths.pop()), str(source))
