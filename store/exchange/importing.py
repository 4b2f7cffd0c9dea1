"""Turns tracks from other people's files into identities, units and manifest rows.

Shapes: V = clips, N = their rows, D = embedding size.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
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


def checked(tracks: Sequence[Track]) -> dict[str, dict[str, str]]:
    """Read tracks to their end: {clip id: {column: cell}}, what all of them say of each clip.

    Raises:
        InputError: a clip twice in a track, or tracks that contradict each other.
    """
    known: dict[str, dict[str, str]] = {}
    for track in tracks:
        seen: set[str] = set()
        for clips in track.clips():
            if clips.values.shape[1] != track.dim:
                raise InputError(f"rows of {clips.values.shape[1]} and of {track.dim} numbers")
            for clip_id in clips.clip_ids:
                if clip_id in seen:
                    raise InputError(f"clip {clip_id!r} occurs twice in {track.name}")
                seen.add(clip_id)
            _unite(clips, known)
        if not seen:
            raise InputError(f"{track.name} has no clips")
    return known


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
