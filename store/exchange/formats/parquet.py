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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
from pyarrow import parquet

from store.errors import InputError, choices
from store.exchange.formats import Clips, Track
from store.exchange.formats._common import (
    MAX_RATIO,
    SMALL_BYTES,
    UNIT_CLIPS,
    cell,
    gathered,
    label_cells,
    labels,
    means,
    only,
    text,
    with_rows,
)
from store.exchange.formats._parquet import (
    embeddings,
    is_cell,
    items,
    opened_table,
    text_bytes,
)
from store.settings import Settings, setting

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
        with opened_table(source) as file:
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
            dim = len(embeddings(first.column(0), source)[0])
            schema = file.schema_arrow
        columns = [f.name for f in schema if f.name not in _OWN and is_cell(f.type)]
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
        with opened_table(source) as file:
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
            left -= text_bytes(column)
            if left < 0:
                raise InputError(f"{where}: the columns name the same text too often")
            of_clip = items(column)
            if name == "class_name" and None in of_clip:
                text(None, where)
            if name in ("class_name", "label"):
                made[name] = label_cells(of_clip, f"{where}: {name}")
            elif name == "clip_id":
                made[name] = [text(item, where) for item in of_clip]
            else:
                made[name] = [cell(item, f"{where}: {name}") for item in of_clip]
        if "" in made["class_name"]:
            raise InputError(f"{where} has a row without a class_name")
        has_times = "row_time_ms" in wanted
        yield _Block(
            rows=embeddings(batch.column("embedding"), source),
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
