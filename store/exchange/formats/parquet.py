"""One feature as a Parquet table as easyfsl reads it: `embedding` and `class_name`.

One row a clip, the mean of its rows, or `parquet:rows=each`. Beside the two columns there are
`clip_id`, `row_time_ms` (with `rows=each`) and the other columns of the manifest; easyfsl passes
them over. A table without clip ids gives each row the id `<class>/<number>`.

Shapes: V = clips, N = their rows, D = embedding size.
Source: easyfsl, `FeaturesDataset.from_dataframe`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from store.errors import InputError, choices
from store.exchange.formats import Clips, Track
from store.exchange.formats._common import (
    UNIT_CLIPS,
    gathered,
    labels,
    matrix,
    means,
    only,
    opened,
    text,
    with_rows,
)
from store.settings import Settings, setting

MAX_RATIO = 1100
SMALL_BYTES = 64 << 20
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
        with opened(source, parquet.ParquetFile) as file:
            known = file.schema_arrow.names
            for name in ("embedding", "class_name"):
                if name not in known:
                    raise InputError(
                        f"{source} has no column {name!r}; it has {choices(name, known)}"
                    )
            _check_size(file, source)
            first = next(file.iter_batches(batch_size=1, columns=["embedding"]), None)
            if first is None or not first.num_rows:
                raise InputError(f"{source} has no rows")
            dim = len(_embeddings(first.column(0), source)[0])
        return [
            Track(
                name=self._config.name or source.stem,
                modality=self._config.modality,
                dim=dim,
                clips=lambda: self._clips(source),
                files=(source,),
            )
        ]

    def _clips(self, source: Path) -> Iterator[Clips]:
        with opened(source, parquet.ParquetFile) as file:
            names = [name for name in file.schema_arrow.names if _is_text(file, name)]
            if "clip_id" in file.schema_arrow.names:
                yield from self._identified(file, [n for n in names if n not in _OWN], source)
                return
            numbers: Counter[str] = Counter()
            for batch in file.iter_batches(
                batch_size=UNIT_CLIPS, columns=["embedding", "class_name"]
            ):
                classes = [
                    text(cell, str(source)) for cell in batch.column("class_name").to_pylist()
                ]
                ids = []
                for name in classes:
                    ids.append(f"{name}/{numbers[name]:06d}")
                    numbers[name] += 1
                rows = _embeddings(batch.column("embedding"), source)
                yield gathered(ids, rows, {"label": classes}, str(source))

    def _identified(
        self, file: parquet.ParquetFile, columns: Sequence[str], source: Path
    ) -> Iterator[Clips]:
        """Clips of a table with ids: all is read, for rows of one clip may lie anywhere."""
        table = file.read()
        where = str(source)
        ids = [text(cell, where) for cell in table.column("clip_id").to_pylist()]
        cells = {name: [c or "" for c in table.column(name).to_pylist()] for name in columns}
        classes = [text(cell, where) for cell in table.column("class_name").to_pylist()]
        cells.setdefault("label", classes)
        rows = _embeddings(table.column("embedding").combine_chunks(), source)
        clips = gathered(ids, rows, cells, where)
        if "row_time_ms" in table.column_names:
            order = np.argsort(_clip_numbers(ids), kind="stable")
            times = table.column("row_time_ms").to_numpy()
            if times.dtype.kind != "i" or abs(times).max(initial=0) > np.iinfo(np.int32).max:
                raise InputError(f"{where}: row_time_ms holds what is no int32")
            clips = Clips(
                clip_ids=clips.clip_ids, values=clips.values, offsets=clips.offsets,
                row_time_ms=times[order].astype(np.int32), status=clips.status,
                columns=clips.columns,
            )  # fmt: skip
        yield clips


def _clip_numbers(ids: Sequence[str]) -> np.ndarray:
    number_of: dict[str, int] = {}
    return np.array([number_of.setdefault(name, len(number_of)) for name in ids], dtype=np.int64)


def _check_size(file: parquet.ParquetFile, source: Path) -> None:
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    if size > SMALL_BYTES and size > MAX_RATIO * source.stat().st_size:
        raise InputError(f"{source} swells from {source.stat().st_size} to {size} bytes")


def _is_text(file: parquet.ParquetFile, name: str) -> bool:
    kind = file.schema_arrow.field(name).type
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


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
