"""Exactly the damaged units become pending again, and nothing is deleted."""

import json

import numpy as np
import pytest

import store
from store import Manifest, Status
from store.upkeep.repair import repair
from store.upkeep.verify import verify


@pytest.fixture
def three(fs, feature, make_rows):
    """Three units; `units[i]` has the clips `ai` and `bi`."""
    units = [make_rows({f"a{i}": 2, f"b{i}": 0}, seed=i) for i in range(3)]
    for rows in units:
        feature.commit(rows)
    table = {"path": ("a0", "a1"), "clip_id": ("a0", "a1")}
    fs.add_manifest(Manifest(table=table))
    return fs, units


def part_of(fs, rows):
    unit = fs["toy"].unit_name(rows.clip_ids)
    (part,) = fs.path.glob(f"data.zarr/*/parts/{unit}-*")
    return unit, part


def snapshot(fs):
    return {p.read_bytes() for p in fs.path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("key", ["values/c/0/0", "zarr.json", "row_time_ms/c/0", "clip_id/c/0"])
@pytest.mark.parametrize("damage", ["flip", "lose"])
def test_exactly_the_damaged_unit_is_done_again(three, make_rows, key, damage):
    fs, units = three
    unit, part = part_of(fs, units[1])
    data = bytearray((part / key).read_bytes())
    data[len(data) // 2] ^= 4
    (part / key).write_bytes(data) if damage == "flip" else (part / key).unlink()
    before = snapshot(fs)
    done = repair(fs)
    (pending,) = done.units
    assert (pending.feature, pending.unit) == (fs["toy"].name, unit)
    assert pending.clips == (None if key.startswith("clip_id") else units[1].clip_ids)
    assert key in pending.reason
    assert (done.files, done.left) == ([], [])
    assert before <= snapshot(fs)
    fresh = store.open(fs.path)["toy"]
    assert fresh.status_of(["a0", "a1", "b1", "a2"]).tolist() == [0, 255, 255, 0]
    assert verify(fs, deep=True).problems == []
    assert fresh.commit(units[1])
    np.testing.assert_array_equal(fresh.read(["a1"])[0], units[1].values)
    assert repair(fs).to_dict() == {"units": [], "files": [], "left": []}


@pytest.mark.parametrize("content", [b"", b"{}", b"[[["])
def test_a_record_that_cannot_be_read_is_set_aside(three, content):
    fs, units = three
    unit, _ = part_of(fs, units[0])
    record = fs.path / "commits" / fs["toy"].name / f"{unit}.json"
    record.write_bytes(content)
    (pending,) = repair(fs).units
    assert (pending.unit, pending.clips) == (unit, None)
    (kept,) = (fs.path / "quarantine" / fs["toy"].name).iterdir()
    assert kept.read_bytes() == content
    assert verify(fs).problems == []
    assert store.open(fs.path)["toy"].commit(units[0])


def test_only_sha256_needs_deep(three):
    fs, units = three
    unit, part = part_of(fs, units[2])
    from store.spec import canonical_json
    from store.storage import posix

    data = bytearray((part / "values/c/0/0").read_bytes())
    data[7] ^= 1
    (part / "values/c/0/0").write_bytes(data)
    path = fs.path / "commits" / fs["toy"].name / f"{unit}.json"
    body = json.loads(path.read_bytes())
    body.pop("crc32c")
    (entry,) = [entry for entry in body["files"] if entry["key"] == "values/c/0/0"]
    entry["crc32c"] = posix.crc32c_hex(bytes(data))
    path.write_bytes(canonical_json({**body, "crc32c": posix.crc32c_hex(canonical_json(body))}))
    assert repair(fs).units == []
    assert [pending.unit for pending in repair(fs, deep=True).units] == [unit]


def test_stray_files_groups_and_manifests_are_set_aside(three):
    fs, units = three
    _, part = part_of(fs, units[0])
    (part / "stray").write_bytes(b"x")
    (fs.path / "commits" / fs["toy"].name / "UPPER.json").write_bytes(b"{}")
    (fs.path / "data.zarr" / "zarr.json").write_bytes(b"broken")
    (fs.path / "data.zarr" / fs["toy"].name / "parts" / "zarr.json").unlink()
    (manifest,) = (fs.path / "manifests").iterdir()
    manifest.write_bytes(b"no parquet")
    (fs.path / "commits" / "No Feature").mkdir()
    done = repair(fs)
    assert [pending.unit for pending in done.units] == ["UPPER"]
    assert sorted(key.rpartition("/")[2] for key in done.files) == sorted(
        [manifest.name, "stray", "zarr.json", "zarr.json"]
    )
    assert [problem.kind for problem in done.left] == ["name"]
    assert [problem.kind for problem in verify(fs, deep=True).problems] == ["name"]
    assert store.open(fs.path)["toy"].clip_ids == fs["toy"].clip_ids
    assert len(fs["toy"].clip_ids) == 6


def test_a_features_identity_comes_back_with_the_next_run(three, spec):
    fs, _ = three
    attributes = fs.path / "data.zarr" / spec.feature_id / "zarr.json"
    attributes.write_bytes(attributes.read_bytes()[:-9])
    assert repair(fs).files == [attributes.relative_to(fs.path).as_posix()]
    fresh = store.open(fs.path)
    assert fresh.features == []
    assert [problem.kind for problem in repair(fs).left] == ["feature"]
    assert fresh.add_feature(spec).status_of(["a0", "b0"]).tolist() == [0, Status.DECODE_ERROR]
    assert verify(fs, deep=True).problems == []


def test_a_unit_done_again_in_the_meantime_stays(three, monkeypatch):
    """Two repairs and a run: the second repair must not set the new unit aside."""
    fs, units = three
    unit, part = part_of(fs, units[1])
    (part / "status/c/0").unlink()
    stale = verify(fs)
    repair(fs)
    assert store.open(fs.path)["toy"].commit(units[1])
    monkeypatch.setattr("store.upkeep.repair.verify", lambda store, deep, progress: stale)
    assert repair(fs).units == []
    assert store.open(fs.path)["toy"].has_unit(unit)


def test_what_a_killed_collector_had_moved_away_is_whole_again(three):
    """It had looked before the commit: only the move is to be undone, and no unit done again."""
    fs, units = three
    _, part = part_of(fs, units[1])
    _, lost = part_of(fs, units[2])
    (fs.path / f"commits/{fs['toy'].name}/{lost.name[:22]}.json").unlink()
    for moved in (part, lost):
        moved.rename(fs.path / "tmp" / f"gc-{moved.name}-{fs['toy'].name}")
    before = snapshot(fs)
    assert verify(fs).problems
    assert repair(fs).units == []
    assert verify(fs, deep=True).problems == []
    assert store.open(fs.path)["toy"].status_of(["a1", "a2"]).tolist() == [
        Status.OK,
        Status.PENDING,
    ]
    assert snapshot(fs) == before  # what no record names is left to `store gc`
    assert (fs.path / "tmp" / f"gc-{lost.name}-{fs['toy'].name}").is_dir()
