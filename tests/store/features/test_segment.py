"""Records from a segment are those of their own files, whatever becomes of either."""

import json
import os
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

import store
from store.errors import DamagedStore
from store.features import committed, records, segment
from store.features.records import Records
from store.storage.storage import PosixStorage
from store.upkeep.repair import repair
from store.upkeep.verify import verify
from tests.store import operations

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Caches pay from the first record on."""
    monkeypatch.setattr(records, "SEGMENT_RECORDS", 1)
    monkeypatch.setattr(committed, "INDEX_PARTS", 1)


@pytest.fixture
def feature(fs, make_rows):
    feature = fs.add_feature(operations.SPEC)
    for unit in range(12):
        feature.commit(make_rows({f"{unit}-{i}": i for i in range(4)}, seed=unit))
    return feature


@pytest.fixture
def opened(monkeypatch):
    """The keys of records that were read from their own files."""
    keys = []
    get = PosixStorage.get

    def counted(self, key, *, limit_bytes):
        keys.extend([key] if key.startswith("commits/") else [])
        return get(self, key, limit_bytes=limit_bytes)

    monkeypatch.setattr(PosixStorage, "get", counted)
    return keys


def fresh(feature):
    return Records(feature._keys, feature.dim)


def one_by_one(feature, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(records, "SEGMENT_RECORDS", 1 << 30)
        return list(fresh(feature))


def path_of(feature):
    return store.open(feature.location).path / "index" / feature.name / "records.seg"


def test_a_second_look_opens_no_record_and_sees_the_same(feature, opened, monkeypatch):
    wanted = one_by_one(feature, monkeypatch)
    assert len(opened) == 12
    for expected in (24, 24, 24):
        found = fresh(feature)
        assert len(opened) == expected
        assert list(found) == wanted
        assert found.parts == [record.part for record in wanted]
        assert found.clips.tolist() == [4] * 12
        assert found.rows.tolist() == [record.rows for record in wanted]
    assert found[2:4] == wanted[2:4]


def test_only_what_is_new_is_read(feature, opened, make_rows):
    before = fresh(feature)
    feature.commit(make_rows({"new": 2}))
    opened.clear()
    assert len(fresh(feature)) == 13
    assert len(opened) == 1
    opened.clear()
    assert len(Records(feature._keys, feature.dim, before)) == 13
    assert opened == []  # the last look wrote it into the segment


def test_a_record_that_went_is_gone_and_one_that_came_again_is_read(feature, fs, make_rows):
    fresh(feature)
    unit = feature.unit_name([f"3-{i}" for i in range(4)])
    (victim,) = fs.path.glob(f"data.zarr/*/parts/{unit}-*/status/c/0")
    victim.write_bytes(b"torn")
    assert [pending.unit for pending in repair(fs).units] == [unit]
    assert unit not in fresh(feature).units
    assert fs["toy"].status_of(["3-1"]).tolist() == [255]
    feature.commit(make_rows({f"3-{i}": i for i in range(4)}, seed=99))
    found = fresh(feature)
    record = found[found.units.index(unit)]
    assert (fs.path / "data.zarr" / feature.name / "parts" / record.part / "zarr.json").exists()
    rows = make_rows({f"3-{i}": i for i in range(4)}, seed=99)
    np.testing.assert_array_equal(fs["toy"].read(list(rows.clip_ids))[0], rows.values)


def test_another_file_of_the_same_name_counts_and_not_what_was_known_of_it(feature, fs):
    """Same bytes but one, same size, same times of content: the time of its name tells."""
    found = fresh(feature)
    path = fs.path / feature._keys.record(found.units[5])
    facts, data = path.stat(), path.read_bytes()
    path.write_bytes(data.replace(b'"rows":', b'"rowz":'))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(DamagedStore, match=found.units[5]):
        fresh(feature)
    path.write_bytes(data)
    assert list(fresh(feature)) == list(found)


def test_verify_reads_the_records_themselves(feature, fs):
    found = fresh(feature)
    fresh(feature)
    path = fs.path / feature._keys.record(found.units[5])
    facts = path.stat()
    path.write_bytes(path.read_bytes().replace(b"clips", b"clipz"))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert [problem.kind for problem in verify(fs).problems] == ["record"]


def test_no_damage_to_a_segment_changes_an_answer(feature, monkeypatch):
    wanted = one_by_one(feature, monkeypatch)
    fresh(feature)
    path = path_of(feature)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        if rng.random() < 0.3:
            data = data[: rng.integers(len(data))]
        for at in rng.integers(0, len(data), rng.integers(1, 4)) if data else ():
            data[at] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        assert list(fresh(feature)) == wanted
        path.write_bytes(whole)


def test_a_segment_that_lies_with_a_proper_checksum_is_told(feature):
    """Nobody's accident: what it says of a unit is not what the unit's record says."""
    found = fresh(feature)
    lying = records.Segment(path_of(feature), feature.name, feature.dim)
    entries = {
        unit: (lying.versions[i], lying.summaries[i]._replace(rows=999), lying.data(i))
        for i, unit in enumerate(lying.units)
    }
    records.write_segment(path_of(feature), feature.dim, entries)
    again = fresh(feature)
    with pytest.raises(DamagedStore, match="delete the directory index/"):
        again[0]
    assert found[0].rows != 999


def test_a_store_that_may_only_be_read_needs_no_segment(feature, monkeypatch):
    wanted = one_by_one(feature, monkeypatch)

    def refused(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(records, "write_segment", refused)
    assert list(fresh(feature)) == wanted
    assert not path_of(feature).exists()


def test_no_link_is_followed(feature, fs, tmp_path, monkeypatch):
    wanted = one_by_one(feature, monkeypatch)
    (tmp_path / "elsewhere").mkdir()
    (fs.path / "index").symlink_to(tmp_path / "elsewhere")
    assert list(fresh(feature)) == wanted
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_every_crash_point_of_writing_the_caches_leaves_a_sound_store(tmp_path):
    template, out = tmp_path / "template", tmp_path / "out"
    template.mkdir()
    operations.prepare(template)
    command = [sys.executable, "-m", "tests.store.faults", "compact", str(template), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["killed"]) == len(report["events"])
    assert {kind for kind, _ in report["events"]} >= {"mkdir", "open", "write", "rename"}
    assert any(name.endswith("records.seg") for _, name in report["events"]) or any(
        "tmp-" in name for _, name in report["events"]
    )
    for number in report["killed"]:
        fs = store.open(out / str(number) / "fs")
        assert verify(fs, deep=True).problems == []
        for _ in range(2):  # by what was left, and by what is written now
            feature = store.open(fs.path)["toy"]
            for unit in ("a", "b"):
                rows = operations.rows(unit)
                np.testing.assert_array_equal(feature.read(rows.clip_ids)[0], rows.values)
            assert len(feature.clip_ids) == 3
        feature.commit(operations.rows("c"))
        assert "c" in store.open(fs.path)["toy"].clip_ids
    print(f"compact: {len(report['killed'])} of {len(report['events'])} crash points, 0 bad")


@pytest.mark.parametrize(
    ("field", "value"),
    [("unit", b"\xff\xfe"), ("attempt", b"\xff"), ("clips", 2**64 - 1), ("rows", 2**63)],
)
def test_what_no_record_can_say_is_damage_even_with_a_proper_checksum(
    feature, monkeypatch, field, value
):
    wanted = one_by_one(feature, monkeypatch)
    fresh(feature)
    data = path_of(feature).read_bytes()
    begin, size = segment._HEADER.size, segment._ENTRY.itemsize
    entries = np.frombuffer(data, segment._ENTRY, len(wanted), begin).copy()
    entries[field][3] = value
    head = data[:begin] + entries.tobytes()
    crc = google_crc32c.value(head).to_bytes(4, "little")
    path_of(feature).write_bytes(head + crc + data[begin + len(wanted) * size + 4 :])
    assert list(fresh(feature)) == wanted


def test_a_pipe_in_the_place_of_a_cache_keeps_nobody_waiting(feature, fs):
    wanted, counts = list(fresh(feature)), fs["toy"].status_counts()
    for path in path_of(feature).parent.iterdir():
        path.unlink()
        os.mkfifo(path)
    code = (
        "import sys, store; from store.features import committed, records;"
        "records.SEGMENT_RECORDS = committed.INDEX_PARTS = 1;"
        "feature = store.open(sys.argv[1])['toy']; feature.status_counts(); print(feature.clips)"
    )
    asked = [sys.executable, "-c", code, str(fs.path)]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, timeout=50, check=True)
    assert done.stdout.split() == [str(sum(counts.values()))]
    assert list(fresh(feature)) == wanted


def test_a_record_replaced_since_it_was_read_is_not_written_down_as_the_new_one(
    fs, make_rows, monkeypatch
):
    """A view that lives long knows units by name; their files may be others by now."""
    feature = fs.add_feature(operations.SPEC)
    feature.commit(make_rows({"a": 3}, seed=1))
    with monkeypatch.context() as patched:
        patched.setattr(records, "SEGMENT_RECORDS", 1 << 30)
        before = fresh(feature)
    (fs.path / feature._keys.record(before.units[0])).unlink()
    feature.commit(make_rows({"a": 3}, seed=2))
    feature.commit(make_rows({"b": 2}, seed=3))
    assert len(Records(feature._keys, feature.dim, before)) == 2  # writes a segment of what is new
    wanted = one_by_one(feature, monkeypatch)
    assert list(fresh(feature)) == wanted
    assert before[0].part not in fresh(feature).parts
