"""A valid store of made-up features, for tests and benchmarks; the contract suite of formats.

Shapes: n = clips of a unit, R = their rows, D = embedding size.
"""

import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator, default_rng

from store.manifest import Manifest
from store.parts.unit_rows import UnitRows
from store.spec import FeatureSpec
from store.status import Status
from store.store import Store, create

if TYPE_CHECKING:
    from store.testing.formats import FormatContract

__all__ = ["FormatContract", "fill"]

if "pytest" in sys.modules:  # a failure then shows what was compared
    sys.modules["pytest"].register_assert_rewrite(f"{__name__}.formats")


def __getattr__(name: str) -> Any:
    """The suite, which needs pytest, when it is asked for."""
    if name != "FormatContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from store.testing.formats import FormatContract

    return FormatContract


_SPLITS = (("train", 0.5), ("val", 0.25), ("test", 0.25))


def fill(
    path: str | Path,
    *,
    clips: int = 400,
    rows: int = 8,
    dim: int = 32,
    classes: int = 20,
    separation: float = 4.0,
    ragged: bool = True,
    silent_share: float = 0.0,
    failed_share: float = 0.0,
    disjoint: bool = True,
    clips_per_unit: int = 256,
    seed: int = 0,
) -> Store:
    """A store with a visual and an audio feature of gaussian rows around class means.

    Columns of its manifest: path, clip_id, split, group (two neighbours share a source), label.
    A mean's expected length is `separation` times the standard deviation of a row's entries. Clips
    have 1..`rows` rows if `ragged`, else exactly `rows`. A share of the clips has no sound, another
    failed in both features. Splits (half train, a quarter val, a quarter test) hold whole classes
    if `disjoint`, else whole groups of every class.
    """
    fs = create(path)
    manifest = _manifest(clips, classes, disjoint)
    fs.add_manifest(manifest)
    failed = default_rng([seed, 1]).random(clips) < failed_share
    silent = default_rng([seed, 2]).random(clips) < silent_share
    class_of_clip = np.arange(clips) % classes
    for number, modality in enumerate(("visual", "audio")):
        identity = {"encoder": "synthetic", "separation": separation, "rows": rows, "seed": seed}
        spec = FeatureSpec(
            slug=f"synthetic-{modality}", modality=modality, dim=dim, identity=identity
        )
        feature = fs.add_feature(spec)
        rng = default_rng([seed, 3, number])
        means = rng.standard_normal((classes, dim)) * separation / np.sqrt(dim)
        status = np.where(silent & (modality == "audio"), Status.ABSENT, Status.OK).astype(np.uint8)
        status[failed] = Status.DECODE_ERROR
        for start in range(0, clips, clips_per_unit):
            unit = slice(start, min(clips, start + clips_per_unit))
            rng = default_rng([seed, 4, number, start])
            clip_ids = manifest.clip_ids[unit]
            feature.commit(
                _rows(rng, clip_ids, means[class_of_clip[unit]], status[unit], rows, ragged)
            )
    return fs


def _rows(
    rng: Generator,
    clip_ids: tuple[str, ...],
    means: Float[np.ndarray, "n D"],
    status: UInt8[np.ndarray, "n"],
    rows: int,
    ragged: bool,
) -> UnitRows:
    count = rng.integers(1, rows + 1, len(clip_ids)) if ragged else np.full(len(clip_ids), rows)
    count[status != Status.OK] = 0
    made = rng.standard_normal((int(count.sum()), means.shape[1]), dtype=np.float32)
    made += np.repeat(means.astype(np.float32), count, axis=0)
    start = np.repeat(np.cumsum(count) - count, count)
    digests = b"".join(sha256(clip_id.encode()).digest() for clip_id in clip_ids)
    return UnitRows(
        clip_ids=clip_ids,
        values=made.astype(np.float16),
        row_time_ms=((np.arange(len(start)) - start) * 1000).astype(np.int32),
        row_count=count.astype(np.uint16),
        status=status,
        media_sha256=np.frombuffer(digests, np.uint8).reshape(-1, 32),
        detail=tuple("made up" if s == Status.OK else Status(int(s)).kind for s in status),
    )


def _manifest(clips: int, classes: int, disjoint: bool) -> Manifest:
    label = np.arange(clips) % classes
    group = np.arange(clips) // (2 * classes) * classes + label
    unit = label if disjoint else np.arange(clips) // (2 * classes)
    units = classes if disjoint else -(-clips // (2 * classes))
    bounds = np.round(np.cumsum([share for _, share in _SPLITS]) * units)
    split = [_SPLITS[i][0] for i in np.searchsorted(bounds, unit, side="right")]
    names = tuple(f"class{c:03d}/clip{i:06d}.mp4" for i, c in enumerate(label.tolist()))
    return Manifest(
        table={
            "path": names,
            "clip_id": names,
            "split": tuple(split),
            "group": tuple(f"source{g:06d}" for g in group.tolist()),
            "label": tuple(f"class{c:03d}" for c in label.tolist()),
        }
    )
