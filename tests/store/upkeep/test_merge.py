"""Merged stores hold what each held; merging again, or after a crash, changes nothing more."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import cli
import store
from store import FeatureSpec, Manifest, Status
from store.errors import InputError, NotAStore, StoreError
from store.storage import posix
from store.upkeep.merge import merge
from store.upkeep.verify import verify


@pytest.fixture
def pair(tmp_path, spec, make_rows):
    """One unit in both (made twice), one in each; a second feature in the other."""
    one, two = store.create(tmp_path / "one"), store.create(tmp_path / "two")
    one.add_feature(spec).commit(make_rows({"both": 2}, seed=1))
    one["toy"].commit(make_rows({"one": 1, "failed": 0}, seed=2))
    two.add_feature(spec).commit(make_rows({"both": 2}, seed=3))
    two["toy"].commit(make_rows({"two": 3}, seed=4), {"torch": "2.12"})
    sound = FeatureSpec(slug="sound", modality="audio", dim=8, identity={})
    two.add_feature(sound).commit(make_rows({"one": 2, "two": 2}, dim=8, seed=5))
    for fs, clip in ((one, "one"), (two, "two")):
        fs.add_manifest(Manifest(table={"path": (clip,), "clip_id": (clip,)}))
    return one, two


def files_of(fs):
    return {
        path.relative_to(fs.path).as_posix(): path.read_bytes()
        for path in fs.path.rglob("*")
        if path.is_file()
    }


def test_units_features_and_manifests_come_over(pair):
    one, two = pair
    both = one["toy"].read(["both"])[0]
    done = merge(one.path, [two.path])
    assert (done.features, done.units, done.present, done.manifests) == (2, 2, 1, 1)
    assert (done.retried_clips, done.damaged) == (0, [])
    merged = store.open(one.path)
    np.testing.assert_array_equal(merged["toy"].read(["both"])[0], both)
    np.testing.assert_array_equal(merged["toy"].read(["two"])[0], two["toy"].read(["two"])[0])
    assert merged["toy"].status_of(["one", "failed"]).tolist() == [0, Status.DECODE_ERROR]
    assert sorted(merged["sound"].clip_ids) == ["one", "two"]
    assert merged.manifest().clip_ids == ("one", "two")
    assert {a["writer"].get("torch") for a in merged["toy"].part_attributes()} == {None, "2.12"}
    report = verify(merged, deep=True)
    assert (report.problems, report.garbage_parts, report.garbage_staging) == ([], 0, 0)


def test_merging_twice_changes_nothing(pair):
    one, two = pair
    merge(one.path, [two.path, two.path])
    before = files_of(one)
    done = merge(one.path, [two.path])
    assert (done.units, done.present, done.manifests) == (0, 3, 0)
    assert files_of(one) == before


def test_rows_win_over_their_absence_in_one_unit(tmp_path, spec, make_rows):
    """The same unit, but here the media of two clips were missing."""
    one, two = store.create(tmp_path / "one"), store.create(tmp_path / "two")
    ours, theirs = make_rows({"a": 0, "b": 2, "c": 0}, seed=1), make_rows({"a": 3, "b": 2, "c": 1})
    one.add_feature(spec).commit(ours)
    two.add_feature(spec).commit(theirs, {"torch": "2.12"})
    done = merge(one.path, [two.path])
    assert (done.units, done.present, done.retried_clips) == (0, 1, 2)
    feature = store.open(one.path)["toy"]
    wanted = two["toy"].read(["a", "c"])
    for values, expected in zip(feature.read(["a", "c"]), wanted, strict=True):
        np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(feature.read(["b"])[0], ours.values)
    np.testing.assert_array_equal(feature.read_times(["a"]), two["toy"].read_times(["a"]))
    assert feature.details(["c"]) == ["how c went"]
    assert "2.12" in [attributes["writer"].get("torch") for attributes in feature.part_attributes()]
    again = merge(one.path, [two.path])
    assert (again.present, again.retried_clips) == (1, 0)
    assert merge(two.path, [one.path]).retried_clips == 0
    assert verify(one, deep=True).problems == []


def test_a_damaged_unit_is_named_and_not_taken(pair):
    one, two = pair
    unit = two["toy"].unit_name(["two"])
    (values,) = two.path.glob(f"data.zarr/*/parts/{unit}-*/values/c/0/0")
    data = bytearray(values.read_bytes())
    data[3] ^= 1
    values.write_bytes(data)
    (manifest,) = (two.path / "manifests").iterdir()
    manifest.write_bytes(b"x")
    done = merge(one.path, [two.path])
    assert [damage.unit for damage in done.damaged] == ["", unit]
    assert "store repair" in done.damaged[1].message
    assert (done.units, done.manifests) == (1, 0)
    report = verify(one, deep=True)
    assert (report.problems, report.garbage_parts, report.garbage_staging) == ([], 0, 0)
    assert store.open(one.path)["toy"].status_of(["two"]).tolist() == [Status.PENDING]


@pytest.mark.parametrize("moment", ["copying", "published"])
def test_an_interrupted_merge_goes_on(pair, monkeypatch, moment):
    one, two = pair
    copied = 0

    def stops(path, data, _write=Path.write_bytes):
        nonlocal copied
        copied += 1
        if copied == 7:
            raise OSError(28, "No space left on device")
        return _write(path, data)

    def refuses(path, data, *, staging, _put=posix.put_if_absent):
        if "commits" in path.parts:
            raise StoreError("stopped")
        return _put(path, data, staging=staging)

    with monkeypatch.context() as patch:
        if moment == "copying":
            patch.setattr(Path, "write_bytes", stops)
        else:
            patch.setattr(posix, "put_if_absent", refuses)
        with pytest.raises(StoreError, match=r"No space left|stopped"):
            merge(one.path, [two.path])
    assert verify(one, deep=True).problems == []
    if moment == "published":  # the part is reused if it is whole, else put aside
        (part,) = [p for p in one.path.glob("data.zarr/*/parts/u-*") if is_of(p, two, one)]
        (part / "detail" / "c" / "0").unlink()
    merge(one.path, [two.path])
    report = verify(one, deep=True)
    assert (report.problems, report.garbage_parts) == ([], 0)
    assert sorted(store.open(one.path)["sound"].clip_ids) == ["one", "two"]
    np.testing.assert_array_equal(
        store.open(one.path)["toy"].read(["two"])[0], two["toy"].read(["two"])[0]
    )


def is_of(part: Path, source, target):
    named = {record.part for name in target.features for record in target[name].records()}
    return (source.path / part.relative_to(target.path)).exists() and part.name not in named


def test_what_is_no_other_store_is_refused(pair, tmp_path):
    one, _ = pair
    with pytest.raises(NotAStore):
        merge(one.path, [tmp_path])
    with pytest.raises(InputError, match="into itself"):
        merge(one.path, [one.path / ".." / "one"])


@pytest.mark.parametrize("seed", range(12))
def test_what_is_there_stays_whatever_units_the_other_store_has(tmp_path, spec, make_rows, seed):
    """Clips of both stores in other units, with the same rows, other rows or none in either."""
    rng = np.random.default_rng(seed)
    one, two = store.create(tmp_path / "one"), store.create(tmp_path / "two")
    clips = [f"clip{i}" for i in range(9)]
    for number, fs in enumerate((one, two)):
        feature = fs.add_feature(spec)
        order = list(rng.permutation(clips)[: 6 + number])
        for first in range(0, len(order), 3):
            rows = {clip: int(rng.integers(0, 3)) for clip in order[first : first + 3]}
            feature.commit(make_rows(rows, seed=10 * number + first))
    ours, theirs = (rows_by_clip(fs["toy"]) for fs in (one, two))
    done = merge(one.path, [two.path])
    wanted = theirs | {clip: rows for clip, rows in ours.items() if rows or clip not in theirs}
    merged = rows_by_clip(store.open(one.path)["toy"])
    assert merged == wanted
    differing = {c for c in ours if ours[c] and theirs.get(c) and ours[c] != theirs[c]}
    assert done.differing_clips == len(done.differing) == len(differing)
    assert {name.rpartition("/")[2] for name in done.differing} == differing
    assert done.sound == (not differing)
    before = files_of(one)
    assert merge(one.path, [two.path]).differing_clips <= len(differing)
    assert files_of(one) == before
    assert verify(one, deep=True).problems == []


def rows_by_clip(feature) -> dict[str, bytes]:
    return {clip: feature.read([clip])[0].tobytes() for clip in sorted(feature.clip_ids)}


def test_the_same_rows_in_other_units_are_no_finding(tmp_path, spec, make_rows):
    one, two = store.create(tmp_path / "one"), store.create(tmp_path / "two")
    rows = make_rows({"a": 2, "b": 1, "c": 0}, seed=1)
    one.add_feature(spec).commit(rows)
    for clip in range(3):
        two.add_feature(spec).commit(rows.chosen([clip]))
    done = merge(one.path, [two.path])
    assert (done.differing_clips, done.retried_clips, done.sound) == (0, 0, True)
    assert rows_by_clip(store.open(one.path)["toy"]) == rows_by_clip(two["toy"])


def test_two_merges_of_one_unit_at_once(pair, monkeypatch):
    """The other is a moment sooner: its part is there, whole, when ours is to be put in place."""
    one, two = pair
    publish, raced = posix.publish, []

    def late(staged, target):
        if not raced:
            raced.append(target)
            merge(one.path, [two.path])
        publish(staged, target)

    monkeypatch.setattr(posix, "publish", late)
    merge(one.path, [two.path])
    assert raced
    assert verify(one, deep=True).problems == []
    assert rows_by_clip(store.open(one.path)["toy"])["two"] == rows_by_clip(two["toy"])["two"]


def test_differing_rows_are_told_and_exit_1(pair, monkeypatch, capsys):
    one, two = pair
    monkeypatch.setattr(sys, "argv", ["store", "merge", str(one.path), str(two.path), "--json"])
    with pytest.raises(SystemExit) as exit_:
        cli.store_main()
    result = json.loads(capsys.readouterr().out)
    assert exit_.value.code == 1
    assert (result["differing_clips"], result["differing"]) == (1, [f"{one['toy'].name}/both"])
