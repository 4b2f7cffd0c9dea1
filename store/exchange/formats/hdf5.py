"""Features as one HDF5 file: a group each, with ragged rows as values and offsets.

    /<feature>/values [N, D] · offsets [V + 1] · clip_id [V] · row_time_ms [N] · status [V]
    /<feature>/columns/<name> [V]        text of the manifest

Written and read block by block. A file whose datasets lie at its top, or have other names, is read
by saying which is which: `hdf5:values=features,clip_id=names,modality=audio`.

Shapes: V = clips, N = their rows, D = embedding size.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store.errors import InputError, choices
from store.exchange.formats import Clips, Track
from store.exchange.formats._arrays import clip_blocks
from store.exchange.formats._h5 import dataset_of, is_column, member, opened, reader
from store.exchange.formats._h5_writing import created
from store.exchange.formats._names import quoted, unquoted
from store.parts.layout import chunk_rows
from store.settings import Settings

_TEXT = h5py.string_dtype()
_CLIPS_PER_CHUNK = 4096
_ROLES = ("values", "offsets", "clip_id", "row_time_ms", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Names of the datasets in a group; `name` and `modality` where the file does not say them."""

    values: str = "values"
    offsets: str = "offsets"
    clip_id: str = "clip_id"
    row_time_ms: str = "row_time_ms"
    status: str = "status"
    label: str = "label"
    name: str = ""
    modality: str = ""
    hop_seconds: float = 1.0  # between rows of a clip, where no times are given


def build(config: Config) -> "Hdf5":
    """The format."""
    return Hdf5(config)


class Hdf5:
    """A group of ragged rows for each feature."""

    keeps = frozenset({"rows", "times", "status", "split", "columns", "clip_ids", "features"})

    def __init__(self, config: Config) -> None:
        self._config = config

    def write(self, tracks: Sequence[Track], target: Path, *, label: str) -> int:
        """Write one file, block by block; see `Format`."""
        with created(target) as (file, check):
            return sum(_write_track(file.create_group(t.name), t, check) for t in tracks)

    def read(self, source: Path, *, trust_pickle: bool) -> Sequence[Track]:
        """One track for each group that has rows; see `Format`."""
        tracks = []
        with opened(source) as file:
            groups = {"": file, **{name: member(file, name, source) for name in file}}
            for name, group in groups.items():
                if isinstance(group, h5py.Group) and self._config.values in group:
                    tracks.append(self._track(source, name, group))
            if not tracks:
                raise InputError(
                    f"{source} has no dataset {self._config.values!r}; say hdf5:values=NAME; "
                    f"it has {choices(self._config.values, list(file)[:20])}"
                )
        return tracks

    def _track(self, source: Path, name: str, group: h5py.Group) -> Track:
        values = dataset_of(group, self._config.values, source)
        if values.ndim != 2:
            raise InputError(f"{source}: {values.name} has {values.ndim} axes; rows have 2")
        left_out: list[str] = []
        return Track(
            name=self._config.name or name or source.stem,
            modality=self._config.modality or _attribute(group, "modality") or "other",
            dim=values.shape[1],
            clips=lambda: self._clips(source, name, left_out),
            known=_known(group),
            files=(source,),
            left_out=left_out,
        )

    def _clips(self, source: Path, name: str, left_out: list[str]) -> Iterator[Clips]:
        with opened(source) as file:
            group = member(file, name, source) if name else file
            datasets: dict[str, h5py.Dataset] = {}
            for role in _ROLES:
                if (key := getattr(self._config, role)) in group:
                    datasets[role] = dataset_of(group, key, source)
            columns = []
            for column, dataset in self._columns(group, source, left_out):
                if column not in datasets:
                    datasets[column] = dataset
                    columns.append(column)
            if wrong := [n for n, d in datasets.items() if d.ndim != (2 if n == "values" else 1)]:
                raise InputError(f"{source}: {wrong[0]} has {datasets[wrong[0]].ndim} axes")
            yield from clip_blocks(
                {name: reader(dataset, source) for name, dataset in datasets.items()},
                {name: len(dataset) for name, dataset in datasets.items()},
                columns,
                where=str(source),
                hop_seconds=self._config.hop_seconds,
                left_out=left_out,
            )

    def _columns(
        self, group: h5py.Group, source: Path, left_out: list[str]
    ) -> Iterator[tuple[str, h5py.Dataset]]:
        """Columns: a cell for each clip, beside the rows and in `columns`."""
        config = self._config
        taken = {getattr(config, role) for role in _ROLES}
        groups = [group]
        if "columns" in group and isinstance(inner := member(group, "columns", source), h5py.Group):
            groups.append(inner)
        for inside in groups:
            for key in inside:
                if key in taken or not isinstance(member(inside, key, source), h5py.Dataset):
                    continue
                dataset = dataset_of(inside, key, source)
                if dataset.ndim == 1 and is_column(dataset):
                    yield "label" if key == config.label else unquoted(key), dataset
                else:
                    left_out.append(f"{key} ({dataset.dtype}{list(dataset.shape)})")


def _write_track(group: h5py.Group, track: Track, check: Callable[[], None]) -> int:
    group.attrs["modality"] = track.modality
    group.attrs["known"] = json.dumps(track.known)
    step = chunk_rows(track.dim)
    shapes: dict[str, Any] = {
        "values": ((0, track.dim), (None, track.dim), (step, track.dim), np.float16)
    }
    for name, dtype, per_clip in (
        ("offsets", np.int64, True), ("clip_id", _TEXT, True), ("status", np.uint8, True),
        ("row_time_ms", np.int32, False),
    ):  # fmt: skip
        shapes[name] = ((0,), (None,), (_CLIPS_PER_CHUNK if per_clip else step,), dtype)
    for name, (shape, largest, chunks, dtype) in shapes.items():
        group.create_dataset(name, shape, maxshape=largest, chunks=chunks, dtype=dtype)
    columns = group.create_group("columns")
    _append(group["offsets"], np.zeros(1, np.int64))
    clips = rows = 0
    for block in track.clips():
        _append(group["values"], block.values)
        _append(group["offsets"], block.offsets[1:] + rows)
        _append(group["clip_id"], block.clip_ids)
        _append(group["row_time_ms"], block.row_time_ms)
        _append(group["status"], block.status)
        for name, cells in block.columns.items():
            key = quoted(name)
            if key not in columns:
                columns.create_dataset(
                    key, (clips,), maxshape=(None,), chunks=(_CLIPS_PER_CHUNK,), dtype=_TEXT
                )
            _append(columns[key], cells)
        clips, rows = clips + len(block.clip_ids), rows + len(block.values)
        check()
    return clips


def _append(dataset: h5py.Dataset, items: Any) -> None:
    before = len(dataset)
    if len(items):
        dataset.resize(before + len(items), axis=0)
        dataset[before:] = list(items) if dataset.dtype == _TEXT else items


def _attribute(group: h5py.Group, name: str) -> str:
    value = group.attrs.get(name, "")
    return value if isinstance(value, str) else ""


def _known(group: h5py.Group) -> dict[str, Any]:
    try:
        known = json.loads(_attribute(group, "known") or "{}")
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
