"""Garbage goes, what a record names stays, whatever happens in between."""

import os
import shutil
import time

import numpy as np
import pytest

import store
from store.errors import DamagedStore, InputError, StoreError
from store.parts.commit import read_record
from store.storage import posix
from store.upkeep import gc as collector
from store.upkeep.gc import age_seconds, gc
from store.upkeep.repair import repair
from store.upkeep.verify import verify

DAY = 24 * 3600


def age(path, seconds):
    """Make everything at and below a path look older."""
    then = time.time() - seconds
    for entry in (path, *path.rglob("*")):
        os.utime(entry, (then, then))


def lose(fs, feature, rows):
    """A part that was published and never committed."""
    feature.commit(rows)
    unit = feature.unit_name(rows.clip_ids)
    (part,) = fs.path.glob(f"data.zarr/*/parts/{unit}-*")
    (fs.path / "commits" / feature.name / f"{unit}.json").unlink()
    return part


@pytest.fixture
def untidy(fs, feature, make_rows):
    """One committed part, one garbage part and torn staging, all two days old."""
    feature.commit(make_rows({"a": 2}))
    part = lose(fs, feature, make_rows({"lost": 1}))
    (fs.path / "tmp" / "put-1").write_bytes(b"torn")
    (fs.path / "tmp" / "u-1" / "values").mkdir(parents=True)
    age(fs.path, 2 * DAY)
    return fs, part


def test_old_garbage_goes_and_the_committed_stays(untidy):
    fs, part = untidy
    kept = {path for path in fs.path.rglob("*") if part not in (path, *path.parents)}
    collected = gc(fs)
    assert collected.parts == [part.relative_to(fs.path).as_posix()]
    assert collected.staging == ["tmp/put-1", "tmp/u-1"]
    assert collected.bytes > 1 << 19
    kept -= set((fs.path / "tmp").iterdir()) | {fs.path / "tmp/put-1", fs.path / "tmp/u-1"}
    kept -= {fs.path / "tmp/u-1/values"}
    assert set(fs.path.rglob("*")) == kept
    assert (verify(fs, deep=True).problems, store.open(fs.path)["toy"].clip_ids) == ([], ["a"])
    assert gc(fs).to_dict() == {
        "parts": [],
        "staging": [],
        "bytes": 0,
        "too_young": 0,
        "restored": [],
        "dry_run": False,
    }


def test_a_dry_run_says_the_same_and_removes_nothing(untidy):
    fs, _ = untidy
    before = sorted(fs.path.rglob("*"))
    planned = gc(fs, dry_run=True)
    assert sorted(fs.path.rglob("*")) == before
    done = gc(fs)
    assert (planned.parts, planned.staging) == (done.parts, done.staging)
    assert planned.bytes == done.bytes > 0


def test_young_garbage_stays(untidy):
    fs, part = untidy
    os.utime(part / "values" / "zarr.json")  # one young file keeps the whole part
    (fs.path / "tmp" / "u-1" / "values" / "fresh").touch()
    collected = gc(fs)
    assert (collected.parts, collected.staging, collected.too_young) == ([], ["tmp/put-1"], 2)
    assert part.is_dir()
    assert gc(fs, older_than_seconds=0.0).parts


def test_a_part_whose_record_cannot_be_read_stays(untidy):
    fs, part = untidy
    record = fs.path / "commits" / fs["toy"].name / f"{part.name[:22]}.json"
    record.write_text("{}")
    assert gc(fs).parts == []


def test_half_a_copy_of_a_store_is_not_garbage(untidy):
    fs, part = untidy
    shutil.rmtree(fs.path / "commits" / fs["toy"].name)
    with pytest.raises(DamagedStore, match="Copy or restore commits/ first"):
        gc(fs)
    assert part.is_dir()


def test_strangers_in_parts_are_left_alone(untidy):
    fs, part = untidy
    stranger = part.with_name("notes-of-mine")
    stranger.mkdir()
    age(stranger, 2 * DAY)
    gc(fs)
    assert stranger.is_dir()


def test_a_part_that_was_set_aside_lately_stays(fs, feature, make_rows):
    feature.commit(make_rows({"a": 2}))
    (part,) = fs.path.glob("data.zarr/*/parts/u-*")
    (part / "status" / "c" / "0").write_bytes(b"broken")
    age(fs.path, 2 * DAY)
    repair(fs)
    assert gc(fs).parts == []
    (record,) = (fs.path / "quarantine" / feature.name).iterdir()
    record.rename(record.with_name(f"{part.name[:22]}.20200101t000000.000000z.json"))
    assert gc(fs).parts == [part.relative_to(fs.path).as_posix()]


def test_of_any_age_means_any_though_the_disk_s_clock_is_behind(
    fs, feature, make_rows, monkeypatch
):
    """A unit was set aside a moment ago, and the stamp that says so is of another clock."""
    feature.commit(make_rows({"a": 2}))
    (part,) = fs.path.glob("data.zarr/*/parts/u-*")
    (part / "status" / "c" / "0").write_bytes(b"broken")
    assert len(repair(fs).units) == 1
    now = time.time() + 60
    monkeypatch.setattr(collector, "_file_system_time", lambda _: now)
    monkeypatch.setattr(collector, "_stamp_seconds", lambda _: now + 0.002)
    assert gc(fs, older_than_seconds=30.0).parts == []
    assert gc(fs, older_than_seconds=0.0).parts == [part.relative_to(fs.path).as_posix()]


def test_a_writer_that_wakes_up_while_its_part_is_moved_keeps_it(
    fs, feature, make_rows, monkeypatch
):
    """The record appears between the collector's look and its move."""
    part = lose(fs, feature, make_rows({"a": 2}))
    age(fs.path, 2 * DAY)
    record, fsync = fs.path / "commits" / feature.name / f"{part.name[:22]}.json", os.fsync
    shutil.copytree(fs.path, fs.path.with_name("other"))
    other = store.open(fs.path.with_name("other"))["toy"]
    other.commit(make_rows({"a": 2}))
    keys = store.open(fs.path.with_name("other")).keys_of(feature.name)
    theirs = read_record(keys, part.name[:22])

    def wakes_up(descriptor):
        if os.path.samestat(os.fstat(descriptor), part.parent.stat()) and not record.exists():
            data = theirs.to_bytes().replace(theirs.part.encode(), part.name.encode())
            record.write_bytes(sealed(data))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wakes_up)
    assert gc(fs).parts == []
    assert (part / "zarr.json").is_file()
    assert read_record(fs.keys_of(feature.name), part.name[:22])


def sealed(data):
    import json

    from store.spec import canonical_json

    body = json.loads(data)
    body.pop("crc32c")
    return canonical_json({**body, "crc32c": posix.crc32c_hex(canonical_json(body))})


def test_an_interrupted_collector_gives_back_what_was_committed(fs, feature, make_rows):
    feature.commit(make_rows({"a": 2}))
    (part,) = fs.path.glob("data.zarr/*/parts/u-*")
    lost = lose(fs, feature, make_rows({"b": 2}))
    for moved in (part, lost):
        moved.rename(fs.path / "tmp" / f"gc-{moved.name}-{feature.name}")
    collected = gc(fs)
    assert collected.restored == [part.relative_to(fs.path).as_posix()]
    assert list((fs.path / "tmp").iterdir()) == []
    assert (verify(fs, deep=True).problems, store.open(fs.path)["toy"].clip_ids) == ([], ["a"])


def test_a_writer_whose_part_was_collected_takes_its_record_back(
    fs, feature, make_rows, monkeypatch
):
    """It slept for a day between publishing and committing."""
    publish = posix.publish

    def sleeps(staged, target):
        publish(staged, target)
        monkeypatch.setattr(posix, "publish", publish)
        age(target, 2 * DAY)
        assert gc(fs).parts

    monkeypatch.setattr(posix, "publish", sleeps)
    rows = make_rows({"a": 2})
    with pytest.raises(StoreError, match="collected as garbage before its commit; run again"):
        feature.commit(rows)
    assert store.open(fs.path)["toy"].clip_ids == []
    assert feature.commit(rows)
    np.testing.assert_array_equal(feature.read(["a"])[0], rows.values)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", DAY), ("0s", 0)])
def test_ages_are_understood(text, seconds):
    assert age_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "1.5h", "-1h", "h", "1w", "٣h", "1h "])
def test_other_ages_are_refused(text):
    with pytest.raises(InputError, match="write one like"):
        age_seconds(text)


def test_a_writer_publishes_all_that_it_staged_or_nothing(fs, feature, make_rows, monkeypatch):
    """A collector that takes everything, however young, meets a writer about to publish."""
    rows, rmtree, met = make_rows({"a": 2}), shutil.rmtree, []

    def begins_to_delete(name, **how):
        with pytest.raises(StoreError):
            posix.publish(staged[0], target[0])
        met.append(name)
        rmtree(name, **how)

    staged, target, publish = [], [], posix.publish

    def meets_a_collector(source, place):
        staged.append(source)
        target.append(place)
        monkeypatch.setattr(posix, "publish", writing_publish)
        monkeypatch.setattr(shutil, "rmtree", begins_to_delete)
        gc(fs, older_than_seconds=0.0)
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        publish(source, place)

    def writing_publish(source, place):
        with posix.writing(place):
            publish(source, place)

    monkeypatch.setattr(posix, "publish", meets_a_collector)
    with pytest.raises(StoreError):
        feature.commit(rows)
    assert met
    monkeypatch.setattr(posix, "publish", publish)
    assert feature.commit(rows)
    assert verify(fs, deep=True).problems == []


def test_what_another_collector_has_just_moved_is_looked_for_in_the_records(
    fs, feature, make_rows, monkeypatch
):
    """It moves a part between this one's two looks at tmp/, and the writer has committed."""
    feature.commit(make_rows({"a": 2}))
    (part,) = fs.path.glob("data.zarr/*/parts/u-*")
    restore = collector.restore_trash

    def then_moves(*args, **how):
        restored = restore(*args, **how)
        part.rename(fs.path / "tmp" / f"gc-{part.name}-{feature.name}")
        return restored

    monkeypatch.setattr(collector, "restore_trash", then_moves)
    assert collector.gc(fs, older_than_seconds=0.0).restored == [
        part.relative_to(fs.path).as_posix()
    ]
    assert verify(fs, deep=True).problems == []
