"""Turns tracks from other people's files into identities, units and manifest rows.

Shapes: V = clips, N = their rows, D = embedding size.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from store.errors import InputError, MissingFile
from store.exchange.formats import Clips, Track
from store.manifest import Manifest, from_rows
from store.manifest_rows import Row, path_fault
from store.names import clip_key
from store.parts.unit_rows import UnitRows
from store.spec import FeatureSpec
from store.status import Status
from store.storage import posix
from store.store import Store

UNIT_CLIPS = 1024
UNIT_ROWS = 1 << 17
MAX_BEND = 2**-7  # of a clip's length: sixteen times what rounding to float16 costs otherwise
_LARGEST = 65520.0  # the least number that float16 rounds to infinity
_DIGEST = re.compile(r"-[0-9a-f]{12}$")


def identity(track: Track, name: str, settings: Mapping[str, Any], source: Path) -> FeatureSpec:
    """An identity that says where rows came from, and claims no encoder of ours."""
    digest = sha256()
    for path in sorted(track.files):
        inside = path.relative_to(source).as_posix() if source.is_dir() else ""
        digest.update(f"{inside}\0{posix.file_digests(path)[2]}\n".encode())
    slug = re.sub(r"[^a-z0-9._-]+", "-", _DIGEST.sub("", track.name).lower()).strip("-.")
    slug = slug.removeprefix("imported-")[:70] or "feature"
    identity = {
        "imported": name,
        "settings": settings,
        "track": track.name,
        "source_sha256": digest.hexdigest(),
        "source_says": track.known,
    }
    return FeatureSpec(
        slug=f"imported-{slug}", modality=track.modality, dim=track.dim, identity=identity,
        notes={"source": source.name},
    )  # fmt: skip


@dataclass(slots=True)
class Rounding:
    """What float16, in which a store keeps rows, does to the clips of a track."""

    clips: int = 0  # with rows
    bent: int = 0  # whose rows are off by more than `MAX_BEND`
    beyond: int = 0  # with a number float16 cannot hold
    unlike: int = 0  # with a number that is none
    largest: float = 0.0

    def add(self, clips: Clips) -> None:
        """Look at some clips more."""
        counts = np.diff(clips.offsets)
        starts = clips.offsets[:-1][counts > 0]
        self.clips += len(starts)
        if not len(starts) or clips.values.dtype == np.float16:
            return
        exact = clips.values.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = exact.astype(np.float16).astype(np.float64)
            size = np.sqrt(np.add.reduceat(np.square(exact).sum(axis=1), starts))
            off = np.sqrt(np.add.reduceat(np.square(exact - rounded).sum(axis=1), starts))
        peak = np.maximum.reduceat(np.abs(exact).max(axis=1), starts)
        finite = np.isfinite(peak)
        self.unlike += int((~finite).sum())
        self.beyond += int((finite & (peak >= _LARGEST)).sum())
        self.bent += int((finite & (peak < _LARGEST) & (off > MAX_BEND * size)).sum())
        self.largest = max(self.largest, float(peak[finite].max(initial=0.0)))

    def check(self, name: str) -> None:
        """Refuse a track that would be lost.

        Raises:
            InputError: most of its clips would be other rows; says what to multiply them by.
        """
        if 2 * self.bent > self.clips:
            raise InputError(
                f"{name}: the rows of {self.bent} of {self.clips} clips are too small for float16, "
                f"in which a store keeps them: the largest number is {self.largest:.3g}; multiply "
                f"the rows by {self._factor():g} and import them again"
            )

    def notes(self, name: str) -> list[str]:
        """A line for each thing that happened to some clips."""
        why = f"float16, in which a store keeps rows; multiplied by {self._factor():g} they fit"
        lines = []
        if self.beyond:
            lines.append(f"{name}: {self.beyond} clips hold numbers too large for {why}; they have "
                         "no rows (not-finite)")  # fmt: skip
        if self.bent:
            lines.append(f"{name}: {self.bent} clips hold numbers too small for {why}; their rows "
                         f"are off by more than {MAX_BEND:.1%}")  # fmt: skip
        if self.unlike:
            none = "infinite or none; they have no rows (not-finite)"
            lines.append(f"{name}: {self.unlike} clips hold numbers that are {none}")
        return lines

    def _factor(self) -> float:
        """The power of ten that brings the largest number between 1 and 10."""
        return float(10.0 ** -math.floor(math.log10(self.largest))) if self.largest else 1.0


def checked(
    tracks: Sequence[Track], rounding: Mapping[str, Rounding] = MappingProxyType({})
) -> dict[str, dict[str, str]]:
    """Read tracks to their end: {clip id: {column: cell}}, what all of them say of each clip.

    `rounding` holds, by the name of a track, what counts the clips that float16 changes.

    Raises:
        InputError: a clip twice in a track, tracks that contradict each other, or rows that would
            be lost.
    """
    known: dict[str, dict[str, str]] = {}
    for track in tracks:
        seen: set[str] = set()
        own = rounding.get(track.name) or Rounding()
        for clips in track.clips():
            own.add(clips)
            if clips.values.shape[1] != track.dim:
                raise InputError(f"rows of {clips.values.shape[1]} and of {track.dim} numbers")
            for clip_id in clips.clip_ids:
                if clip_id in seen:
                    raise InputError(f"clip {clip_id!r} occurs twice in {track.name}")
                seen.add(clip_id)
            _unite(clips, known)
        if not seen:
            raise InputError(f"{track.name} has no clips")
        own.check(track.name)
    return known


def advice(
    tracks: Sequence[Track],
    known: Mapping[str, Mapping[str, str]],
    name: str,
    settings: Mapping[str, Any],
) -> list[str]:
    """What a file did not say and a setting would, in a line each."""
    lines = []
    if settings.get("modality") in ("", "other"):
        lines += [
            f"{track.name} is of no known modality, and learn looks at visual and audio: import it "
            f"again with {name}:modality=visual (or audio)"
            for track in tracks
            if track.modality == "other"
        ]
    columns = dict.fromkeys(column for cells in known.values() for column in cells)
    if "label" in settings and "label" not in columns:
        others = ", ".join(c for c in columns if c not in ("group", "split", "path"))
        where = f"its columns are {others}" if others else "it has no other column either"
        lines.append(f"nothing is called 'label', and {where}: say which with {name}:label=NAME")
    return lines


def _unite(clips: Clips, known: dict[str, dict[str, str]]) -> None:
    names = {column: column.strip() for column in clips.columns if column != "clip_id"}
    for i, clip_id in enumerate(clips.clip_ids):
        cells = known.setdefault(clip_id, {})
        for column, name in names.items():
            cell = clips.columns[column][i].strip()
            if cell and cells.setdefault(name, cell) != cell:
                raise InputError(f"clip {clip_id!r} has the {name} {cells[name]!r} and {cell!r}")


def units(blocks: Iterator[Clips]) -> Iterator[Clips]:
    """The clips of the blocks, in units whose sizes depend on nothing but the clips."""
    waiting: list[Clips] = []
    clips = rows = 0
    for block in blocks:
        begin = 0
        for index, count in enumerate(np.diff(block.offsets).tolist()):
            if clips == UNIT_CLIPS or (clips and rows + count > UNIT_ROWS):
                yield _joined([*waiting, _slice(block, begin, index)])
                waiting, begin, clips, rows = [], index, 0, 0
            clips, rows = clips + 1, rows + count
        waiting.append(_slice(block, begin, len(block.clip_ids)))
    if clips:
        yield _joined(waiting)


def _slice(clips: Clips, start: int, stop: int) -> Clips:
    low, high = clips.offsets[start], clips.offsets[stop]
    return Clips(
        clip_ids=clips.clip_ids[start:stop],
        values=clips.values[low:high],
        offsets=clips.offsets[start : stop + 1] - low,
        row_time_ms=clips.row_time_ms[low:high],
        status=clips.status[start:stop],
        columns={},
    )


def _joined(blocks: Sequence[Clips]) -> Clips:
    counts = np.concatenate([np.diff(block.offsets) for block in blocks])
    return Clips(
        clip_ids=tuple(clip_id for block in blocks for clip_id in block.clip_ids),
        values=np.concatenate([block.values for block in blocks]),
        offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        row_time_ms=np.concatenate([block.row_time_ms for block in blocks]),
        status=np.concatenate([block.status for block in blocks]),
        columns={},
    )


def unit_rows(clips: Clips, format_name: str) -> UnitRows:
    """A unit; a clip with a number float16 cannot hold becomes not-finite, without rows."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = clips.values.astype(np.float16)
    counts = np.diff(clips.offsets)
    clip_of_row = np.repeat(np.arange(len(counts)), counts)
    bad = np.zeros(len(counts), bool)
    bad[clip_of_row[~np.isfinite(values).all(axis=1)]] = True
    kept = ~bad[clip_of_row]
    return UnitRows(
        clip_ids=clips.clip_ids,
        values=values[kept],
        row_time_ms=clips.row_time_ms[kept],
        row_count=np.where(bad, 0, counts).astype(np.uint16),
        status=np.where(bad, Status.NOT_FINITE, clips.status).astype(np.uint8),
        media_sha256=np.zeros((len(counts), 32), np.uint8),  # nobody knows
        detail=(f"imported from {format_name}",) * len(counts),
    )


def keep_manifest(store: Store, known: Mapping[str, Mapping[str, str]], source: Path) -> None:
    """Keep what was said of the clips; where nothing was said, what the store knows stays."""
    try:
        kept = store.manifest()
    except MissingFile:
        kept = Manifest(table={"path": (), "clip_id": ()})
    before = {
        clip_id: dict(zip(kept.table, cells, strict=True))
        for clip_id, *cells in zip(kept.clip_ids, *kept.table.values(), strict=True)
        if clip_id in known
    }
    manifest = manifest_of(known, before, source)
    if manifest.digest[:12] not in {digest for _, digest in store.manifest_names()}:
        store.add_manifest(manifest)


def manifest_of(
    known: Mapping[str, Mapping[str, str]], before: Mapping[str, Mapping[str, str]], source: Path
) -> Manifest:
    """A row for each clip: what the files say and, where they are silent, what was known before."""
    columns = dict.fromkeys(
        ["path", "clip_id", *(name for cells in known.values() for name in cells)]
    )
    rows = []
    for line, (clip_id, cells) in enumerate(known.items(), start=1):
        old = before.get(clip_id, {})
        row = {name: cells.get(name) or old.get(name, "") for name in columns}
        row["path"] = row["path"] or _made_up_path(clip_id)
        rows.append(Row(line, {**row, "clip_id": clip_id}))
    return from_rows(list(columns), rows, name=str(source), root=None)


def _made_up_path(clip_id: str) -> str:
    """A path for a clip whose media nobody named: its id, where that may be a path."""
    return f"imported/{clip_key(clip_id).hex()}" if path_fault(clip_id) else clip_id
