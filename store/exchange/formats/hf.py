"""A dataset of Hugging Face's `datasets`: Parquet files a feature and split, and a card.

    README.md                                  the card: which files are which configuration
    data/FEATURE/SPLIT-00000-of-00001.parquet  a row a clip

`datasets.load_dataset(DIR, FEATURE, split="train")` reads it, from the disk or from the hub. Its
columns are `clip_id`, `embedding` (the mean of the clip's rows, as benchmarks take it), `rows` (all
of them), `row_time_ms`, `status`, and the manifest's. A clip without rows has no embedding. Tables
of others are read too: `hf:embedding=NAME,clip_id=NAME,modality=visual`, a row a clip.

Shapes: V = clips, N = their rows, D = embedding size.
Source: huggingface.co/docs/datasets/repository_structure.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    ends,
    label_cells,
    matrix,
    means,
    spaced,
    text,
    with_rows,
)
from store.exchange.formats._names import quoted, unquoted
from store.exchange.formats._parquet import is_cell, items, opened_table, text_bytes
from store.settings import Settings
from store.status import Status

DATA = "data"
_OWN = ("clip_id", "embedding", "rows", "row_time_ms", "status")
_NOTE = b"microshot"  # JSON text in a file's schema: name, modality, size and origin
_ALL = "train"  # what `datasets` calls the one split of a table without splits
_NO_SPLIT = "none"
_BLOCK_BYTES = 64 << 20  # of rows at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Names of the columns, and name and modality of a feature that does not say them."""

    embedding: str = "embedding"  # of tables without a column `rows`
    clip_id: str = "clip_id"
    label: str = "label"
    name: str = ""
    modality: str = ""


def build(config: Config) -> "Hf":
    """The format."""
    return Hf(config)


class Hf:
    """Parquet files as `datasets` reads them."""

    keeps = frozenset({"rows", "times", "status", "clip_ids", "split", "columns", "features"})

    def __init__(self, config: Config) -> None:
        self._config = config

    def write(self, tracks: Sequence[Track], target: Path, *, label: str) -> int:
        """Write the files of every feature, block by block, and the card; see `Format`."""
        written = 0
        splits: dict[str, list[str]] = {}
        for track in tracks:
            folder = target / DATA / quoted(track.name)
            folder.mkdir(parents=True)
            with ExitStack() as stack:
                writers: dict[str, parquet.ParquetWriter] = {}
                for clips in track.clips():
                    table = _table(track, clips)
                    for split, rows in _by_split(clips).items():
                        if split not in writers:
                            path = folder / f"{split}-00000-of-00001.parquet"
                            writers[split] = stack.enter_context(
                                parquet.ParquetWriter(path, table.schema, compression="zstd")
                            )
                        writers[split].write_table(table.take(rows))
                    written += len(clips.clip_ids)
            if not writers:
                raise InputError(f"{track.name} has no clips to export")
            splits[track.name] = sorted(writers)
        (target / "README.md").write_text(_card(tracks, splits), encoding="utf-8")
        return written

    def read(self, source: Path, *, trust_pickle: bool) -> Sequence[Track]:
        """A track of each folder of Parquet files; see `Format`."""
        files = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
        if not files:
            raise InputError(f"{source} has no *.parquet")
        folders: dict[Path, list[Path]] = {}
        for path in files:
            folders.setdefault(path.parent, []).append(path)
        return [self._track(source, folder, of) for folder, of in folders.items()]

    def _track(self, source: Path, folder: Path, files: Sequence[Path]) -> Track:
        config, left_out = self._config, list[str]()
        with opened_table(files[0]) as file:
            note = _note(file.schema_arrow)
            known = file.schema_arrow.names
            for name in (config.clip_id, "rows" if "rows" in known else config.embedding):
                if name not in known:
                    raise InputError(
                        f"{files[0]} has no column {name!r}; it has {choices(name, known)}; say "
                        "which with hf:embedding=NAME,clip_id=NAME"
                    )
            dim = note.get("dim") or self._dim(file, files[0])
        origin = note.get("known")
        return Track(
            name=config.name or str(note.get("name") or unquoted(folder.name)),
            modality=config.modality or str(note.get("modality") or "other"),
            dim=int(dim),
            clips=lambda: self._clips(files, int(dim), left_out),
            known=origin if isinstance(origin, dict) else {},
            files=tuple(files),
            left_out=left_out,
        )

    def _dim(self, file: parquet.ParquetFile, path: Path) -> int:
        """The length of the first embedding of a table that does not say it."""
        column = "rows" if "rows" in file.schema_arrow.names else self._config.embedding
        for batch in file.iter_batches(batch_size=UNIT_CLIPS, columns=[column]):
            rows, _ = _rows(batch.column(0), path, nested=column == "rows", dim=0)
            if len(rows):
                return rows.shape[1]
        raise InputError(f"{path} has no clip with an embedding")

    def _clips(self, files: Sequence[Path], dim: int, left_out: list[str]) -> Iterator[Clips]:
        config = self._config
        for path in files:
            with opened_table(path) as file:
                schema = file.schema_arrow
                own = {*_OWN, config.clip_id, config.embedding}
                columns = [f.name for f in schema if f.name not in own and is_cell(f.type)]
                for f in schema:
                    named = f"{f.name} ({f.type})"
                    if f.name not in own and f.name not in columns and named not in left_out:
                        left_out.append(named)
                wanted = [n for n in schema.names if n in own or n in columns]
                if nested := "rows" in wanted:
                    wanted = [n for n in wanted if n != config.embedding]
                left = max(SMALL_BYTES, MAX_RATIO * path.stat().st_size)
                step = max(1, min(UNIT_CLIPS, _BLOCK_BYTES // (64 * dim)))
                for batch in file.iter_batches(batch_size=step, columns=wanted):
                    left -= sum(text_bytes(batch.column(n)) for n in (config.clip_id, *columns))
                    if left < 0:
                        raise InputError(f"{path}: the columns name the same text too often")
                    yield self._block(batch, path, dim, columns, nested)

    def _block(
        self, batch: Any, path: Path, dim: int, columns: Sequence[str], nested: bool
    ) -> Clips:
        config, where = self._config, str(path)
        values, counts = _rows(
            batch.column("rows" if nested else config.embedding), path, nested=nested, dim=dim
        )
        names = batch.schema.names
        cells = {}
        for column in columns:
            of_clip = items(batch.column(column))
            if column == config.label:
                cells["label"] = tuple(label_cells(of_clip, f"{where}: {column}"))
            elif column not in cells:
                cells[column] = tuple(cell(item, f"{where}: {column}") for item in of_clip)
        return Clips(
            clip_ids=tuple(text(item, where) for item in items(batch.column(config.clip_id))),
            values=values,
            offsets=ends(counts),
            row_time_ms=_times(batch.column("row_time_ms"), counts, where)
            if nested and "row_time_ms" in names
            else spaced(counts, 1.0),
            status=_statuses(items(batch.column("status")), where)
            if nested and "status" in names
            else np.where(counts > 0, Status.OK, Status.EMPTY).astype(np.uint8),
            columns=cells,
        )


def _table(track: Track, clips: Clips) -> pyarrow.Table:
    """The clips as rows of a table."""
    counts = np.diff(clips.offsets)
    has_rows = with_rows(clips)
    of_mean = np.zeros(len(counts), np.int64)
    of_mean[has_rows] = clips.values.shape[1]
    mean = pyarrow.ListArray.from_arrays(
        pyarrow.array(ends(of_mean), pyarrow.int32(), mask=np.append(counts == 0, False)),
        pyarrow.array(means(clips).ravel(), pyarrow.float32()),
    )
    numbers = pyarrow.array(np.ascontiguousarray(clips.values).ravel())
    each = np.arange(len(clips.values) + 1, dtype=np.int64) * clips.values.shape[1]
    rows = pyarrow.LargeListArray.from_arrays(pyarrow.array(each), numbers)
    offsets = pyarrow.array(clips.offsets)
    table = {
        "clip_id": pyarrow.array(clips.clip_ids, pyarrow.string()),
        "embedding": mean,
        "rows": pyarrow.LargeListArray.from_arrays(offsets, rows).cast(
            pyarrow.list_(pyarrow.list_(numbers.type))
        ),
        "row_time_ms": pyarrow.LargeListArray.from_arrays(
            offsets, pyarrow.array(clips.row_time_ms, pyarrow.int32())
        ).cast(pyarrow.list_(pyarrow.int32())),
        "status": pyarrow.array([Status(int(s)).kind for s in clips.status], pyarrow.string()),
    }
    for name, column in clips.columns.items():
        if name in table:
            raise InputError(f"a column cannot be called {name!r} in hf; choose hdf5")
        table[name] = pyarrow.array(column, pyarrow.string())
    note = {
        "name": track.name, "modality": track.modality, "dim": track.dim, "known": track.known,
    }  # fmt: skip
    return pyarrow.table(table).replace_schema_metadata({_NOTE: json.dumps(note)})


def _by_split(clips: Clips) -> dict[str, list[int]]:
    """The clips of each split, under a name that `datasets` allows."""
    column = clips.columns.get("split")
    found: dict[str, list[int]] = {}
    for i in range(len(clips.clip_ids)):
        name = _ALL if column is None else re.sub(r"\W", "_", column[i], flags=re.ASCII)
        found.setdefault(name or _NO_SPLIT, []).append(i)
    return found


def _card(tracks: Sequence[Track], splits: Mapping[str, Sequence[str]]) -> str:
    """The card that says which files are which configuration and split; YAML of JSON's kind."""
    configs = [
        {
            "config_name": track.name,
            "data_files": [
                {"split": split, "path": f"{DATA}/{quoted(track.name)}/{split}-*.parquet"}
                for split in splits[track.name]
            ],
        }
        for track in tracks
    ]
    lines = [
        "---",
        f"configs: {json.dumps(configs)}",
        "---",
        "# Stored features of clips",
        "",
        "| feature | of | numbers |",
        "|---|---|---|",
        *(f"| `{track.name}` | {track.modality} | {track.dim} |" for track in tracks),
        "",
        "A row is a clip: `embedding` is the mean of its `rows`, `row_time_ms` their times in the",
        "clip, `status` why there are none. The other columns are the manifest's. Written by",
        "`store export --format hf`; `store import --format hf` reads it back.",
        "",
    ]
    return "\n".join(lines)


def _note(schema: pyarrow.Schema) -> dict[str, Any]:
    """What a file of ours says of its feature; empty for others."""
    try:
        note = json.loads((schema.metadata or {}).get(_NOTE, b"{}"))
    except (ValueError, RecursionError):
        return {}
    sound = isinstance(note, dict) and isinstance(note.get("dim"), int)
    return note if sound and 0 < note["dim"] <= 1 << 18 else {}


def _rows(
    column: pyarrow.Array, path: Path, *, nested: bool, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of some clips and how many each has: lists of lists of numbers, or one list each;
    `dim` is their length, 0 where any will do."""
    counts = _counts(column, path)
    inner = column.flatten() if nested else column.filter(column.is_valid())
    lengths = _counts(inner, path)
    if not nested:
        counts = np.where(counts > 0, 1, 0)
        inner = inner.filter(pyarrow.array(lengths > 0))
        lengths = lengths[lengths > 0]
    flat = inner.flatten()
    if len(set(lengths.tolist())) > 1 or inner.null_count or flat.null_count:
        raise InputError(f"{path}: embeddings are not of one length, or lack numbers")
    size = int(lengths[0]) if len(lengths) else dim or 1
    if dim and size != dim:
        raise InputError(f"{path}: rows of {size} and of {dim} numbers")
    return matrix(
        flat.to_numpy(zero_copy_only=False).reshape(len(lengths), size), str(path)
    ), counts


def _counts(column: pyarrow.Array, path: Path) -> np.ndarray:
    """The length of each list; 0 of one that is not there."""
    kind = column.type
    types = pyarrow.types
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        raise InputError(f"{path}: an embedding is {kind}, not a list of numbers")
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return np.nan_to_num(lengths.astype(np.float64)).astype(np.int64)


def _times(column: pyarrow.Array, counts: np.ndarray, where: str) -> np.ndarray:
    same = np.array_equal(_counts(column, Path(where)), counts)
    flat = column.flatten() if same else None
    if flat is None or flat.null_count or flat.type != pyarrow.int32():
        raise InputError(f"{where}: row_time_ms does not fit the rows")
    return np.asarray(flat.to_numpy(zero_copy_only=False))


def _statuses(kinds: Sequence[Any], where: str) -> np.ndarray:
    found = [Status.from_kind(text(kind, where)) for kind in kinds]
    return np.array(found, np.uint8)
