"""One array per feature for xarray and dask, without copying a row: shards under a second name.

Every part begins a shard of its own and all shards have one shape, so the shards of all parts side
by side are a valid array. Where a part's last shard is not full the rows are NaN, and no clip
points there. A view shows the units committed when it was made, each clip once.

Shapes: n = clips, R = rows of the view, K = rows of one part.
"""

import shutil
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from store.features.feature import Feature
from store.names import clip_keys
from store.parts import layout
from store.parts.part import Part
from store.progress import in_steps
from store.spec import canonical_json
from store.storage import posix
from store.store import Store

_MAX_CHUNK = 1 << 20  # of the tables of clips


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view: its path, and what is in it."""

    path: Path
    feature: str
    clips: int
    rows: int  # of clips; the array is longer
    array_rows: int
    shards: int
    made: bool  # False if a view of these very parts was there

    def to_dict(self) -> dict[str, Any]:
        """The object that `store view --json` prints."""
        return {**asdict(self), "path": str(self.path)}


def view(store: Store, feature_name: str) -> View:
    """The view of what is committed now, made if it is not there yet.

    The shards are those of the parts: writing into them damages the store.

    Raises:
        UnknownFeature: no such feature.
        DamagedStore: a part is not as it was written.
        StoreError: the disk refused, or has no hard links.
    """
    feature = store[feature_name]
    parts = feature.parts()
    listed = "\n".join(part.record.part for part in parts)
    generation = sha256(listed.encode()).hexdigest()[:32]
    path = posix.inside(store.path, f"views/{feature.name}/{generation}")
    step = layout.shard_rows(feature.dim)
    spans = [-(-part.record.rows // step) for part in parts]
    made = not path.exists()
    if made:
        staged = posix.inside(store.path, f"tmp/view-{token_hex(8)}")
        try:
            with posix.writing(path):
                posix.make_directory(staged)
                _stage(staged, feature, parts, np.cumsum([0, *spans]) * step)
                posix.make_directory(path.parent)
                made = _publish(staged, path)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return View(
        path=path,
        feature=feature.name,
        clips=len(feature.clip_ids),
        rows=int(feature.row_spans()[2].sum()),
        array_rows=sum(spans) * step,
        shards=sum(spans),
        made=made,
    )


def _publish(staged: Path, path: Path) -> bool:
    try:
        posix.publish(staged, path)
    except OSError:
        if path.exists():  # another was quicker with the same
            return False
        raise
    return True


def _stage(staged: Path, feature: Feature, parts: list[Part], first_row: np.ndarray) -> None:
    clip_ids = feature.clip_ids
    part, start, count = feature.row_spans()
    content = {
        "row_start": (start + first_row[part]).astype(np.uint64),
        "row_count": count.astype(np.uint16),
        "status": feature.status,
        "clip_key": clip_keys(clip_ids),
        "clip_id": np.array(clip_ids, dtype=object),
    }
    attributes = layout.feature_attributes(feature.spec)
    attributes["parts"] = [source.record.part for source in parts]
    (staged / "zarr.json").write_bytes(layout.group_json(attributes))
    size = {"clips": len(clip_ids), "rows": int(first_row[-1]), "dim": feature.dim}
    for name, array in content.items():
        made = _array(staged / name, name, [min(_MAX_CHUNK, max(1, len(array)))], **size)
        if len(array):
            made.with_config({"write_empty_chunks": True})[...] = array
    times = _array(staged / "row_time_ms", "row_time_ms", [layout.chunk_rows(feature.dim)], **size)
    _array(staged / "values", "values", [], **size)
    step = layout.shard_rows(feature.dim)
    pairs = zip(parts, first_row.tolist(), strict=False)
    for source, begin in in_steps("parts", pairs, len(parts)):
        if source.record.rows:
            times[begin : begin + source.record.rows] = source.row_time_ms
        for shard in range(-(-source.record.rows // step)):
            folder = staged / "values" / "c" / str(begin // step + shard)
            folder.mkdir(parents=True)
            posix.link(source.path / "values" / "c" / str(shard) / "0", folder / "0")


def _array(path: Path, name: str, chunk: list[int], *, clips: int, rows: int, dim: int) -> Any:
    """An array described as in a part, with chunks of its own for the tables."""
    import zarr

    metadata = layout.array_metadata(name, clips=clips, rows=rows, dim=dim)
    if chunk:
        whole = [*chunk, *metadata["shape"][1:]]
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = whole
    path.mkdir()
    (path / "zarr.json").write_bytes(canonical_json(metadata))
    return zarr.open_array(str(path), mode="r+", zarr_format=3)
