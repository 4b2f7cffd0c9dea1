"""All that changes a store, each as one function of its path, and the store to begin with."""

import os
import time
from pathlib import Path

import store
from store import FeatureSpec, Manifest
from store.features import committed, records
from store.upkeep.gc import gc as collect
from store.upkeep.merge import merge as merge_stores
from store.upkeep.repair import repair as repair_store
from store.upkeep.view import view as make_view
from tests.store.conftest import build_rows

SPEC = FeatureSpec(slug="toy", modality="visual", dim=4, identity={"fps": 1.0})
UNITS = {"a": {"a": 3, "a0": 0}, "b": {"b": 2}, "c": {"c": 4}, "lost": {"lost": 1}}


def rows(unit):
    return build_rows(UNITS[unit], seed=sum(unit.encode()))


def prepare(folder):
    """A store with two units, an old lost part, old staging; and another with a third unit."""
    fs = store.create(Path(folder, "fs"))
    feature = fs.add_feature(SPEC)
    for unit in ("a", "b", "lost"):
        feature.commit(rows(unit))
    (fs.path / feature._keys.record(feature.unit_name(tuple(UNITS["lost"])))).unlink()
    (fs.path / "tmp" / "u-torn").mkdir()
    (fs.path / "tmp" / "u-torn" / "zarr.json").write_bytes(b"torn")
    for path in fs.path.rglob("*"):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    other = store.create(Path(folder, "other"))
    other.add_feature(SPEC).commit(rows("a"))
    other["toy"].commit(rows("c"))
    other.add_manifest(Manifest(table={"path": ("a", "c"), "clip_id": ("a", "c")}))


def damage(folder):
    """Unit `b` loses a file."""
    fs = store.open(Path(folder, "fs"))
    unit = fs["toy"].unit_name(tuple(UNITS["b"]))
    (victim,) = fs.path.glob(f"data.zarr/*/parts/{unit}-*/status/c/0")
    victim.unlink()


def begin(path):
    fs = store.create(path)
    fs.add_feature(SPEC)
    fs.add_manifest(Manifest(table={"path": ("c",), "clip_id": ("c",)}))


def write(path):
    store.open(path)["toy"].commit(rows("c"))


def gc(path):
    collect(store.open(path))


def repair(path):
    repair_store(store.open(path))


def merge(path):
    merge_stores(path, [path.with_name("other")])


def compact(path):
    """Read a store so that both its caches are written, whatever its size."""
    records.SEGMENT_RECORDS = committed.INDEX_PARTS = 1
    feature = store.open(path)["toy"]
    feature.read(feature.clip_ids)


def view(path):
    make_view(store.open(path), "toy")
