"""A tree of one NumPy file a clip and modality, as 3MASSIV's features lie: ID/visual_feats.npy.

`npy_tree:pattern=…` says where files lie: `{clip_id}` is the name of a folder or file,
`{clip_path}` a clip id that has folders itself, `{modality}` is visual (or video) or audio,
`{label}` and `{split}` are folders, `*` is anything. A file holds the rows of a clip, [rows, size],
or one, [size]; several files that one pattern finds for a clip (`feats_*.npy`) are its rows in the
order of their names, numbers by their value.

Beside the files, `manifest.csv` holds what else is known of the clips, and the kind of those
without rows, in `visual_status` and `audio_status`. It is written, and read where there is one.

Shapes: V = clips, N = their rows, D = embedding size.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from store.errors import ConfigError, InputError
from store.exchange.formats import Clips, Track
from store.exchange.formats._common import UNIT_CLIPS, ends, matrix, spaced
from store.exchange.formats._names import quoted, unquoted
from store.exchange.formats._npy import read_rows
from store.manifest import Manifest, read_manifest
from store.settings import Settings, setting
from store.status import Status

MANIFEST = "manifest.csv"
_PLACES = ("clip_id", "clip_path", "modality", "label", "split")
_PLACE = re.compile(r"\{(\w*)\}")
_MODALITY = {"visual": "visual", "video": "visual", "audio": "audio"}
_FOLDERS = ("label", "split")  # that stand for a column


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Where files lie, and what they do not say."""

    pattern: str = setting("{clip_id}/{modality}_feats.npy", main=True)
    name: str = ""  # of the feature; when read: the folder's
    modality: str = ""  # where the pattern has no {modality}
    hop_seconds: float = setting(1.0, above=0, below=3600)  # between rows of a clip

    def check(self) -> None:
        """Refuse a pattern that names no clip, or one file for several."""
        places = _PLACE.findall(self.pattern)
        if wrong := [place for place in places if place not in _PLACES]:
            raise ConfigError(
                f"npy_tree: pattern has {{{wrong[0]}}}; there are {{{'}, {'.join(_PLACES)}}}"
            )
        named = {"clip_id", "clip_path"} & set(places)
        if len(named) != 1 or len(places) > len(set(places)):
            raise ConfigError(
                f"npy_tree: pattern {self.pattern!r} names a clip by {{clip_id}} or {{clip_path}}, "
                "each place once"
            )
        if not self.pattern.endswith(".npy") or self.pattern.startswith("/"):
            raise ConfigError(
                f"npy_tree: pattern {self.pattern!r} is no path of .npy files below the folder"
            )


def build(config: Config) -> "NpyTree":
    """The format."""
    return NpyTree(config)


class NpyTree:
    """One file a clip and modality."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._has_modality = "{modality}" in config.pattern
        self.keeps = frozenset({"rows", "status", "split", "columns", "clip_ids"})
        if self._has_modality:
            self.keeps = self.keeps | {"features"}

    def write(self, tracks: Sequence[Track], target: Path, *, label: str) -> int:
        """Write the tree and its manifest; see `Format`."""
        modalities = [track.modality for track in tracks]
        if len(set(modalities)) < len(modalities) or not set(modalities) <= {"visual", "audio"}:
            raise InputError(
                f"features are {', '.join(modalities)}; the tree has one visual and one audio: "
                "name them with `features`"
            )
        if "*" in self._config.pattern:
            raise InputError(f"pattern {self._config.pattern!r} finds files and names none")
        target.mkdir()
        table: dict[str, dict[str, str]] = {}
        written = 0
        for track in tracks:
            for clips in track.clips():
                for i, clip_id in enumerate(clips.clip_ids):
                    cells = {name: column[i] for name, column in clips.columns.items()}
                    row = table.setdefault(clip_id, {"clip_id": clip_id, **cells})
                    kind = Status(int(clips.status[i])).kind
                    row[_status_of(track.modality)] = kind
                    rows = clips.values[clips.offsets[i] : clips.offsets[i + 1]]
                    if len(rows):
                        path = target / self._path(clip_id, track.modality, row)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        with path.open("xb") as file:
                            np.lib.format.write_array(file, rows, allow_pickle=False)
                written += len(clips.clip_ids)
        _write_manifest(target / MANIFEST, table)
        return written

    def _path(self, clip_id: str, modality: str, row: Mapping[str, str]) -> str:
        places = {
            "clip_id": quoted(clip_id),
            "clip_path": "/".join(quoted(step) for step in clip_id.split("/")),
            "modality": modality,
        } if "{clip_path}" in self._config.pattern else {
            "clip_id": quoted(clip_id), "modality": modality,
        }  # fmt: skip
        for name in _FOLDERS:
            if f"{{{name}}}" in self._config.pattern:
                if not row.get(name):
                    raise InputError(f"clip {clip_id!r} has no {name}, which `pattern` names")
                places[name] = quoted(row[name])
        return _PLACE.sub(lambda match: places[match[1]], self._config.pattern)

    def read(self, source: Path, *, trust_pickle: bool) -> Sequence[Track]:
        """A track of each modality of the tree; see `Format`."""
        if not source.is_dir():
            raise InputError(f"{source} is no directory")
        found = _found(source, _expression(self._config.pattern))
        if not found:
            raise InputError(
                f"no file below {source} lies as {self._config.pattern!r} says; name the pattern "
                "with npy_tree:pattern=…"
            )
        kept = source / MANIFEST
        known = read_manifest(kept, ids_suffice=True) if kept.is_file() else None
        return [
            self._track(source, modality, found[modality], known, len(found))
            for modality in sorted(found, reverse=True)
        ]

    def _track(
        self,
        source: Path,
        modality: str,
        files: Mapping[str, "_Files"],
        known: Manifest | None,
        several: int,
    ) -> Track:
        config = self._config
        first = next(iter(files.values())).paths[0]
        dim = read_rows(first).shape[1]
        name = config.name or source.name
        kind = _MODALITY.get(modality, config.modality or "other")
        return Track(
            name=f"{name}-{modality}" if several > 1 else name,
            modality=kind,
            dim=dim,
            clips=lambda: self._clips(files, dim, _rest(known, kind, files)),
            files=tuple(path for of_clip in files.values() for path in of_clip.paths),
        )

    def _clips(
        self, files: Mapping[str, "_Files"], dim: int, rest: Mapping[str, Mapping[str, str]]
    ) -> Iterator[Clips]:
        clip_ids = [*files, *(clip for clip in rest if clip not in files)]
        told = (*rest.values(), *(of_clip.columns for of_clip in files.values()))
        columns = dict.fromkeys(name for cells in told for name in cells)
        columns.pop(_STATUS, None)
        for start in range(0, len(clip_ids), UNIT_CLIPS):
            block = clip_ids[start : start + UNIT_CLIPS]
            rows = [_rows_of(files[clip].paths, dim) if clip in files else None for clip in block]
            counts = np.array([0 if own is None else len(own) for own in rows], np.int64)
            values = [own for own in rows if own is not None]
            kinds = [rest.get(clip, {}).get(_STATUS) for clip in block]
            cells = [
                {**rest.get(clip, {}), **(files[clip].columns if clip in files else {})}
                for clip in block
            ]
            yield Clips(
                clip_ids=tuple(block),
                values=np.concatenate(values) if values else np.empty((0, dim), np.float32),
                offsets=ends(counts),
                row_time_ms=spaced(counts, self._config.hop_seconds),
                status=np.array(list(map(_status, kinds, counts.tolist())), np.uint8),
                columns={c: tuple(own.get(c, "") for own in cells) for c in columns},
            )


_STATUS = "\0status"  # among the cells of a clip; no column can be called that


@dataclass(slots=True)
class _Files:
    """The files of a clip in one modality, and the columns that their folders tell."""

    paths: list[Path]
    columns: dict[str, str]


def _status_of(modality: str) -> str:
    return f"{modality}_status"


def _status(kind: str | None, rows: int) -> Status:
    """The status of a clip: as the manifest has it, where that fits its rows."""
    if rows:
        return Status.PARTIAL if kind == Status.PARTIAL.kind else Status.OK
    status = Status.from_kind(kind) if kind else Status.EMPTY
    return Status.EMPTY if status.has_rows or status is Status.PENDING else status


def _rest(
    known: Manifest | None, modality: str, files: Mapping[str, _Files]
) -> dict[str, dict[str, str]]:
    """What a manifest says of clips with files, and of those whose rows it says are not there."""
    if known is None:
        return {}
    statuses = [_status_of(name) for name in _MODALITY]
    own = _status_of(modality)
    found = {}
    for clip_id, *cells in zip(known.clip_ids, *known.table.values(), strict=True):
        row = dict(zip(known.table, cells, strict=True))
        if clip_id in files or row.get(own):
            found[clip_id] = {name: row[name] for name in row if name not in statuses}
            found[clip_id][_STATUS] = row.get(own, "")
    return found


def _rows_of(paths: Sequence[Path], dim: int) -> np.ndarray:
    rows = [matrix(read_rows(path, dim), str(path)) for path in paths]
    return np.concatenate(rows) if len(rows) > 1 else rows[0]


def _expression(pattern: str) -> re.Pattern[str]:
    """The regular expression of paths that lie as the pattern says."""
    parts = []
    for text in re.split(r"(\{\w*\}|\*)", pattern):
        place = _PLACE.fullmatch(text)
        if place and place[1] == "clip_path":
            parts.append(r"(?P<clip_path>.+)")
        elif place and place[1] == "modality":
            parts.append(rf"(?P<modality>{'|'.join(_MODALITY)})")
        elif place:
            parts.append(rf"(?P<{place[1]}>[^/]+)")
        else:
            parts.append(r"[^/]*" if text == "*" else re.escape(text))
    return re.compile("".join(parts))


def _found(source: Path, expression: re.Pattern[str]) -> dict[str, dict[str, _Files]]:
    """The files that lie as they should, by modality and clip."""
    found: dict[str, dict[str, _Files]] = {}
    paths = [(p.relative_to(source).as_posix(), p) for p in source.rglob("*.npy") if p.is_file()]
    for inside, path in sorted(paths, key=lambda pair: _in_order(pair[0])):
        match = expression.fullmatch(inside)
        if match is None:
            continue
        places = match.groupdict()
        steps = (places.get("clip_path") or places.get("clip_id") or "").split("/")
        clip_id = "/".join(map(unquoted, steps))
        columns = {name: unquoted(places[name]) for name in _FOLDERS if places.get(name)}
        of_modality = found.setdefault(places.get("modality") or "", {})
        own = of_modality.setdefault(clip_id, _Files(paths=[], columns=columns))
        if own.columns != columns:
            raise InputError(f"clip {clip_id!r} lies in two folders ({own.paths[0]} and {path})")
        own.paths.append(path)
    return found


def _in_order(path: str) -> list[tuple[int, int, str]]:
    """Numbers by their value: 2 before 10."""
    parts = re.split(r"(\d+)", path)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def _write_manifest(path: Path, table: Mapping[str, Mapping[str, str]]) -> None:
    columns = dict.fromkeys(name for row in table.values() for name in row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="")
    writer.writeheader()
    writer.writerows(table.values())
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
