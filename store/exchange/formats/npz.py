"""One feature as a NumPy archive: plain arrays under plain names, readable with `numpy.load`.

    values [N, D] · offsets [V + 1] · clip_id [V] · row_time_ms [N] · status [V] · columns [V]

An archive with other names is read by saying which is which:
`npz:values=audio,clip_id=clip,modality=audio`. Without offsets there is one name a row.

Shapes: V = clips, N = their rows, D = embedding size.
"""

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import InputError, choices
from store.exchange.formats import Clips, Track
from store.exchange.formats._arrays import clip_blocks
from store.exchange.formats._common import only, opened
from store.exchange.formats._names import quoted, unquoted
from store.settings import Settings

MAX_RATIO = 100  # uncompressed to compressed bytes, of what is not small
SMALL_BYTES = 64 << 20
_ROLES = ("values", "offsets", "clip_id", "row_time_ms", "status")
_NOTE = "feature"  # JSON text: modality and what is known of the origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Names of the arrays in the archive; `name` and `modality` where it does not say them."""

    values: str = "values"
    offsets: str = "offsets"
    clip_id: str = "clip_id"
    row_time_ms: str = "row_time_ms"
    status: str = "status"
    label: str = "label"
    group: str = "group"
    split: str = "split"
    name: str = ""
    modality: str = ""
    hop_seconds: float = 1.0  # between rows of a clip, where no times are given


def build(config: Config) -> "Npz":
    """The format."""
    return Npz(config)


class Npz:
    """One feature as plain arrays in an archive."""

    keeps = frozenset({"rows", "times", "status", "split", "columns", "clip_ids"})

    def __init__(self, config: Config) -> None:
        self._config = config

    def write(self, tracks: Sequence[Track], target: Path, *, label: str) -> int:
        """Write one archive; see `Format`."""
        track = only(tracks)
        blocks = list(track.clips())
        counts = [np.diff(clips.offsets) for clips in blocks]
        clip_ids = [clip_id for clips in blocks for clip_id in clips.clip_ids]
        note = {"name": track.name, "modality": track.modality, "known": track.known}
        arrays: dict[str, Any] = {
            "values": np.concatenate(
                [np.empty((0, track.dim), np.float16), *(c.values for c in blocks)]
            ),
            "offsets": np.cumsum(np.concatenate([[0], *counts]), dtype=np.int64),
            "clip_id": np.array(clip_ids, dtype=np.str_),
            "row_time_ms": np.concatenate(
                [np.empty(0, np.int32), *(c.row_time_ms for c in blocks)]
            ),
            "status": np.concatenate([np.empty(0, np.uint8), *(c.status for c in blocks)]),
            _NOTE: np.array(json.dumps(note)),
        }
        for column in blocks[0].columns if blocks else ():
            if column in arrays:
                raise InputError(f"a column cannot be called {column!r} in npz; choose hdf5")
            cells = [cell for clips in blocks for cell in clips.columns[column]]
            arrays[quoted(column)] = np.array(cells, dtype=np.str_)
        with zipfile.ZipFile(target, "x") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        return len(clip_ids)

    def read(self, source: Path, *, trust_pickle: bool) -> Sequence[Track]:
        """The one track of the archive; see `Format`."""
        config = self._config
        with opened(source, zipfile.ZipFile) as archive:
            shapes = {name: _shape(archive, name, source) for name in _names(archive)}
            note = _note(_load(archive, _NOTE)) if shapes.get(_NOTE) == ((), "U") else {}
        (values_shape, _) = shapes.get(config.values, ((), ""))
        if len(values_shape) != 2:
            has = ", ".join(f"{name}{list(shape)}" for name, (shape, _) in shapes.items())
            raise InputError(
                f"{source} has no rows {config.values!r}; say npz:values=NAME; it has {has[:300]}"
            )
        return [
            Track(
                name=config.name or note.get("name") or source.stem,
                modality=config.modality or note.get("modality") or "other",
                dim=values_shape[1],
                clips=lambda: self._clips(source),
                known=note.get("known") or {},
                files=(source,),
            )
        ]

    def _clips(self, source: Path) -> Iterator[Clips]:
        with opened(source, zipfile.ZipFile) as archive:
            unclaimed = {name: _load(archive, name) for name in _names(archive) if name != _NOTE}
        arrays: dict[str, np.ndarray] = {}
        for role in (*_ROLES, "label", "group", "split"):
            if (name := getattr(self._config, role)) in unclaimed:
                arrays[role] = unclaimed.pop(name)
        for role, array in arrays.items():
            if array.ndim != (2 if role == "values" else 1):
                raise InputError(f"{source}: {role} has {array.ndim} axes")
        if "clip_id" not in arrays:
            has = choices(self._config.clip_id, unclaimed)
            raise InputError(f"{source} has no {self._config.clip_id!r}; it has {has[:300]}")
        clips = len(arrays["clip_id"])
        columns: list[str] = [role for role in ("label", "group", "split") if role in arrays]
        for name, array in unclaimed.items():  # text of one item a clip says something of the clips
            if array.shape == (clips,) and array.dtype.kind in "SU" and name not in arrays:
                arrays[unquoted(name)] = array
                columns.append(unquoted(name))
        if wrong := [name for name in (*columns, "clip_id") if arrays[name].shape != (clips,)]:
            raise InputError(f"{source}: {wrong[0]} has not one item for each of {clips} clips")
        yield from clip_blocks(
            {name: _slicing(array) for name, array in arrays.items()},
            {name: len(array) for name, array in arrays.items()},
            columns,
            where=str(source),
            hop_seconds=self._config.hop_seconds,
        )


def _slicing(array: np.ndarray) -> Callable[[slice], np.ndarray]:
    return lambda block: array[block]


def _names(archive: zipfile.ZipFile) -> list[str]:
    """Arrays in the archive, by name."""
    members = [info.filename for info in archive.infolist()]
    if len(members) != len(set(members)):
        raise InputError(f"{archive.filename} has a member twice")
    return [name.removesuffix(".npy") for name in members if name.endswith(".npy")]


def _shape(archive: zipfile.ZipFile, name: str, source: Path) -> tuple[tuple[int, ...], str]:
    """Shape and kind of an array, after seeing that it is as large as it says and no more."""
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > SMALL_BYTES and info.file_size > MAX_RATIO * info.compress_size:
        raise InputError(
            f"{source}: {name} swells from {info.compress_size} to {info.file_size} bytes; "
            f"at most {MAX_RATIO} times is read"
        )
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in header:
            raise InputError(f"{source}: {name} is npy of version {version}")
        shape, _, dtype = header[version](file)
        if dtype.hasobject or dtype.names:
            raise InputError(f"{source}: {name} holds objects; only numbers and text are read")
        size = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
        if min((*shape, 0)) < 0 or size != info.file_size - file.tell():
            raise InputError(f"{source}: {name} is not as large as it says")
    return shape, dtype.kind


def _load(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _note(array: np.ndarray) -> dict[str, Any]:
    try:
        note = json.loads(str(array))
    except (ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}
