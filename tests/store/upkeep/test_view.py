"""Views hold the same rows as the parts, without holding them twice; and the doctor's answers."""

import errno
import os

import numpy as np
import pytest

import store
from store.errors import StoreError, UnknownFeature
from store.upkeep.doctor import doctor
from store.upkeep.verify import verify
from store.upkeep.view import view


@pytest.fixture
def viewed(fs, feature, make_rows):
    """Three units, one clip tried again, one unit without rows."""
    feature.commit(make_rows({"a": 3, "b": 0, "ü": 2}, seed=1))
    feature.commit(make_rows({"none": 0}, seed=2))
    feature.commit(make_rows({"c": 4}, seed=3))
    feature.commit(make_rows({"b": 5}, seed=4), retry=feature.tries(["b"]))
    return fs, view(fs, "toy")


def rows_of(root, clip):
    ids = root["clip_id"][...].tolist()
    assert len(set(ids)) == len(ids)
    start, count = (int(root[name][ids.index(clip)]) for name in ("row_start", "row_count"))
    return slice(start, start + count)


def test_plain_zarr_reads_the_same_rows(viewed):
    import zarr

    fs, made = viewed
    root, feature = zarr.open_group(str(made.path), mode="r"), fs["toy"]
    assert sorted(root["clip_id"][...].tolist()) == sorted(feature.clip_ids)
    for clip in feature.clip_ids:
        span = rows_of(root, clip)
        np.testing.assert_array_equal(root["values"][span], feature.read([clip])[0])
        np.testing.assert_array_equal(root["row_time_ms"][span], feature.read_times([clip]))
    np.testing.assert_array_equal(root["status"][...], feature.status)
    assert root.attrs["feature_id"] == feature.name
    assert (made.clips, made.rows, made.shards) == (5, 14, 3)
    assert root["values"].shape == (made.array_rows, 4)
    gap = rows_of(root, "c").stop
    assert np.isnan(root["values"][gap : gap + 8]).all()  # never zeros


def test_dask_reads_it_without_loading_it(viewed):
    import dask.array

    fs, made = viewed
    import zarr

    root = zarr.open_group(str(made.path), mode="r")
    lazy = dask.array.from_zarr(str(made.path / "values"))
    assert lazy.shape == (made.array_rows, 4)
    span = rows_of(root, "b")
    np.testing.assert_array_equal(lazy[span].compute(), fs["toy"].read(["b"])[0])


def test_xarray_opens_it(viewed):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    fs, made = viewed
    with xarray.open_zarr(made.path, consolidated=False) as opened:
        assert opened["values"].dims == ("row", "feature")
        ids = opened["clip_id"].to_numpy().tolist()
        for clip in ("a", "ü", "b"):
            at = ids.index(clip)
            start, count = (int(opened[name][at]) for name in ("row_start", "row_count"))
            values = opened["values"][start : start + count].to_numpy()
            np.testing.assert_array_equal(values, fs["toy"].read([clip])[0])


def test_it_takes_no_room_and_changes_nothing(viewed):
    fs, made = viewed
    shards = {path.stat().st_ino for path in fs.path.glob("data.zarr/*/parts/*/values/c/*/0")}
    linked = {path.stat().st_ino for path in made.path.glob("values/c/*/0")}
    assert linked == shards
    own = sum(p.stat().st_size for p in made.path.rglob("*") if p.stat().st_ino not in linked)
    assert own < 100_000
    report = verify(fs, deep=True)
    assert (report.problems, report.garbage_staging) == ([], 0)


def test_it_is_made_once_per_set_of_parts(viewed, make_rows):
    fs, made = viewed
    again = view(fs, "toy")
    assert (made.made, again.made, again.path) == (True, False, made.path)
    store.open(fs.path)["toy"].commit(make_rows({"d": 1}))
    later = view(fs, "toy")
    assert later.made
    assert later.path != made.path
    assert made.path.is_dir()
    assert later.clips == made.clips + 1


def test_it_is_made_whole_or_not_at_all(fs, feature, make_rows, monkeypatch):
    feature.commit(make_rows({"a": 1}))
    feature.commit(make_rows({"b": 1}))
    calls = 0

    def fails(source, target, _link=os.link):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _link(source, target)

    monkeypatch.setattr(os, "link", fails)
    with pytest.raises(StoreError, match="No space left"):
        view(fs, "toy")
    assert not list((fs.path / "views").glob("*/*"))
    assert list((fs.path / "tmp").iterdir()) == []
    assert view(fs, "toy").made


def test_an_empty_feature_and_an_unknown_one(fs, feature):
    import zarr

    made = view(fs, "toy")
    assert zarr.open_group(str(made.path), mode="r")["values"].shape == (0, 4)
    with pytest.raises(UnknownFeature):
        view(fs, "nothing")


def test_a_sound_directory_gets_a_clean_bill(tmp_path):
    diagnosis = doctor(tmp_path / "not" / "yet")
    assert diagnosis.many_writers
    assert diagnosis.path == str(tmp_path)
    assert {check.name for check in diagnosis.checks if check.ok} >= {"conditional put", "race"}
    assert 0 < diagnosis.write_seconds < 10
    assert diagnosis.free_bytes > 0
    assert list(tmp_path.iterdir()) == []


def overwrite(source, target):
    """A link that replaces what is there, as some network file systems do."""
    os.replace(source, target)  # noqa: PTH105


def no_links(source, target):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize(
    ("link", "words"), [(overwrite, "not refused"), (no_links, "has no hard links")]
)
def test_storage_that_does_not_refuse_a_second_put_is_found_out(tmp_path, monkeypatch, link, words):
    monkeypatch.setattr(os, "link", link)
    diagnosis = doctor(tmp_path)
    assert not diagnosis.many_writers
    (check,) = [check for check in diagnosis.checks if check.name == "conditional put"]
    assert words in check.message
    assert list(tmp_path.iterdir()) == []


def test_a_race_with_two_winners_is_found_out(tmp_path, monkeypatch):
    """Refuses in sequence but not at once: looks first, then replaces."""
    import time

    def looks_first(source, target):
        existed = target.exists()
        time.sleep(0.01)
        if existed:
            raise FileExistsError
        os.replace(source, target)  # noqa: PTH105

    monkeypatch.setattr(os, "link", looks_first)
    diagnosis = doctor(tmp_path)
    verdicts = {check.name: check.ok for check in diagnosis.checks}
    assert verdicts["conditional put"]
    assert not verdicts["race"]
    assert not diagnosis.many_writers


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    def refuses(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuses)
    with pytest.raises(StoreError, match="Read-only file system"):
        doctor(tmp_path)
