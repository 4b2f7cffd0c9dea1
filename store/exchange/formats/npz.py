"""One feature as a NumPy archive: plain arrays under plain names, readable with `numpy.load`.

    values [N, D] · offsets [V + 1] · clip_id [V] · row_time_ms [N] · status [V] · columns [V]

An archive with other names is read by saying which is which:
`npz:values=audio,clip_id=clip,modality=audio`. Without offsets there is one name a row. Names in an
array of Python objects, which is a pickle, are read where pickles are trusted.

Shapes: V = clips, N = their rows, D = embedding size.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from store import safe_pickle
from store.errors import InputError, choices
from store.exchange.formats import Clips, Track
from store.exchange.formats._arrays import clip_blocks
from store.exchange.formats._common import CELL_KINDS, check_swell, only, opened
from store.exchange.formats._names import quoted, unquoted
from store.exchange.formats._npy import header
from store.settings import Settings

_ROLES = ("values", "offsets", "clip_id", "row_time_ms", "status")
_COLUMNS = ("label", "group", "split")
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
            members = _members(archive, source)
            note = _note(archive, members, source)
            values = members.get(config.values)
            if values is None or len(values.shape) != 2:
                has = ", ".join(f"{name}{list(member.shape)}" for name, member in members.items())
                raise InputError(
                    f"{source} has no rows {config.values!r}; say npz:values=NAME; "
                    f"it has {has[:300]}"
                )
            if config.clip_id not in members:
                has = choices(config.clip_id, members)
                raise InputError(
                    f"{source} has no {config.clip_id!r}; say npz:clip_id=NAME; it has {has[:300]}"
                )
            used = {name: m for name, m in members.items() if self._is_used(name, m, members)}
            for name, member in used.items():
                if member.dtype.hasobject and not trust_pickle:
                    raise InputError(
                        f"{source}: {name} holds objects, which are a pickle; if you trust who "
                        "made it, add `trust_pickle` (only names and numbers are read, nothing is "
                        "run), or save it again as text: array.astype(str)"
                    )
        left_out = [
            f"{name} ({member.dtype}{list(member.shape)})"
            for name, member in members.items()
            if name not in used and name != _NOTE
        ]
        return [
            Track(
                name=config.name or note.get("name") or source.stem,
                modality=config.modality or note.get("modality") or "other",
                dim=values.shape[1],
                clips=lambda: self._clips(source, used, left_out),
                known=note.get("known") or {},
                files=(source,),
                left_out=left_out,
            )
        ]

    def _is_used(self, name: str, member: "_Member", members: Mapping[str, "_Member"]) -> bool:
        """True for what the settings name, and for columns: a cell for each name of a clip."""
        config = self._config
        if name in {getattr(config, role) for role in (*_ROLES, *_COLUMNS)}:
            return True
        names = members.get(config.clip_id)
        return (
            names is not None
            and name != _NOTE
            and member.shape == names.shape
            and (member.dtype.kind in CELL_KINDS or member.dtype.hasobject)
        )

    def _clips(
        self, source: Path, members: Mapping[str, "_Member"], left_out: list[str]
    ) -> Iterator[Clips]:
        with opened(source, zipfile.ZipFile) as archive:
            unclaimed = {name: _load(archive, name, members[name], source) for name in members}
        arrays: dict[str, np.ndarray] = {}
        for role in (*_ROLES, *_COLUMNS):
            if (name := getattr(self._config, role)) in unclaimed:
                arrays[role] = unclaimed.pop(name)
        for role, array in arrays.items():
            if array.ndim != (2 if role == "values" else 1):
                raise InputError(f"{source}: {role} has {array.ndim} axes")
        clips = len(arrays["clip_id"])
        columns: list[str] = [role for role in _COLUMNS if role in arrays]
        for name, array in unclaimed.items():
            if unquoted(name) not in arrays:
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
            left_out=left_out,
        )


def read_numbers(source: Path, names: Sequence[str], *, most: int) -> dict[str, np.ndarray]:
    """Arrays of an archive, of at most so many numbers each; those that are missing are left out.

    Raises:
        InputError: an archive that is not whole or not what it says, or other arrays than these.
    """
    with opened(source, zipfile.ZipFile) as archive:
        members = _members(archive, source)
        for name in members.keys() & set(names):
            member = members[name]
            if member.dtype.kind not in "fiu" or prod(member.shape) > most:
                raise InputError(
                    f"{source} does not hold at most {most} numbers as {name}, but "
                    f"{member.dtype}{list(member.shape)}"
                )
        return {n: _load(archive, n, members[n], source) for n in names if n in members}


def _slicing(array: np.ndarray) -> Callable[[slice], np.ndarray]:
    return lambda block: array[block]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """What the header of an array says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype


def _members(archive: zipfile.ZipFile, source: Path) -> dict[str, _Member]:
    """The arrays of an archive by name, after seeing that they are as large as they say.

    Raises:
        InputError: they are not, or swell, or there are two of one name.
    """
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(names) != len(set(names)):
        raise InputError(f"{source} has a member twice")
    stored = sum(info.compress_size for info in infos)
    if stored > source.stat().st_size:
        raise InputError(f"{source} has members that overlap")
    check_swell(str(source), stored, sum(info.file_size for info in infos))
    arrays = [info for info in infos if info.filename.endswith(".npy")]
    return {i.filename.removesuffix(".npy"): _member(archive, i, source) for i in arrays}


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Path) -> _Member:
    with archive.open(info) as file:
        shape, dtype = header(file, info.filename, source)
        items = prod(int(n) for n in shape)
        size = items * dtype.itemsize
        if dtype.hasobject:
            return _Member(shape=shape, dtype=dtype)  # its items are a pickle, with its own bounds
        if size != info.file_size - file.tell() or (items and not dtype.itemsize):
            raise InputError(f"{source}: {info.filename} is not as large as it says")
    return _Member(shape=shape, dtype=dtype)


def _load(archive: zipfile.ZipFile, name: str, member: _Member, source: Path) -> np.ndarray:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        if not member.dtype.hasobject:
            return np.lib.format.read_array(file, allow_pickle=False)
        header(file, name, source)
        where = f"{source}: {name}"
        content = safe_pickle.load(io.BytesIO(file.read()), name=where)
        items = safe_pickle.items(content, name=where)
    if (len(items),) != member.shape:
        raise InputError(f"{where} has {len(items)} items for the shape {list(member.shape)}")
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _note(archive: zipfile.ZipFile, members: Mapping[str, _Member], source: Path) -> dict[str, Any]:
    member = members.get(_NOTE)
    if member is None or member.shape != () or member.dtype.kind != "U":
        return {}
    try:
        note = json.loads(str(_load(archive, _NOTE, member, source)))
    except (ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}
