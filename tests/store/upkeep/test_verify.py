"""Every changed, cut, lost or added file is found and its unit named; hostile input is refused."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import store
from store import Status
from store.errors import DamagedStore, MicroshotError
from store.parts.commit import CommitRecord
from store.spec import canonical_json
from store.storage import posix as files
from store.upkeep.info import info
from store.upkeep.verify import verify

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def sound(tmp_path_factory, make_rows):
    """Two units of one feature; only the one with clip `a` is damaged by tests."""
    fs = store.create(tmp_path_factory.mktemp("sound") / "fs")
    spec = store.FeatureSpec(
        slug="toy", modality="visual", dim=4, identity={"fps": 1}, notes={"licence": "MIT"}
    )
    feature = fs.add_feature(spec)
    feature.commit(make_rows({"a": 3, "b": 0}), {"torch": "2.12"})
    feature.commit(make_rows({"c": 2}), {"torch": "2.13"})
    return fs


@pytest.fixture
def copy(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "fs")
    return store.open(tmp_path / "fs")


def part_of(fs, clips=("a", "b")):
    unit = fs["toy"].unit_name(clips)
    (part,) = fs.path.glob(f"data.zarr/*/parts/{unit}-*")
    return unit, part


def part_keys():
    from store.parts import layout

    return sorted(layout.part_files(clips=2, rows=3, dim=4))


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("key", part_keys())
@pytest.mark.parametrize("damage", ["flip", "cut", "lose", "grow"])
def test_each_damaged_file_of_a_part_is_found(sound, copy, key, damage):
    unit, part = part_of(copy)
    path = part / key
    bits = path.stat().st_size * 8
    expected = {"flip": "crc32c", "cut": "size", "lose": "missing", "grow": "size"}[damage]
    if damage == "flip":
        flip(path, np.random.default_rng(len(key)).integers(bits))
    elif damage == "cut":
        cut(path)
    elif damage == "lose":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"\0")
    (problem,) = verify(copy).problems
    assert (problem.kind, problem.unit, problem.file) == (expected, unit, key)
    assert problem.feature == copy["toy"].name
    assert key in problem.message
    read = {"values/c/0/0", *(f"{name}/c/0" for name in ("status", "clip_id", "row_start"))}
    read |= {"row_count/c/0", "clip_key/c/0/0"}
    times = {"row_time_ms/c/0": copy["toy"].read_times, "detail/c/0": copy["toy"].details}
    if key in read:
        with pytest.raises(DamagedStore, match=unit):
            list(copy["toy"].scan())
        return
    if key in times:
        with pytest.raises(DamagedStore, match=unit):
            times[key](["a"])
    for (ids, values, _), (own, wanted, _) in zip(
        copy["toy"].scan(), sound["toy"].scan(), strict=True
    ):
        assert ids == own
        np.testing.assert_array_equal(values, wanted)


def test_only_sha256_tells_sound_rows_of_another_attempt(copy, make_rows):
    """A crc32c over data that end with their own crc32c is the same whatever the data are."""
    fs = store.create(copy.path.with_name("other"))
    fs.add_feature(copy["toy"].spec).commit(make_rows({"a": 3, "b": 0}, seed=9))
    _, theirs = part_of(fs)
    unit, ours = part_of(copy)
    shutil.copy(theirs / "values/c/0/0", ours / "values/c/0/0")
    assert verify(copy).problems == []
    (problem,) = verify(copy, deep=True).problems
    assert (problem.kind, problem.unit, problem.file) == ("sha256", unit, "values/c/0/0")


def test_only_sha256_finds_a_forged_crc(copy):
    """The record's crc32c and its own checksum recomputed, as an attacker without care would."""
    unit, part = part_of(copy)
    flip(part / "values/c/0/0", 77)
    path = copy.path / "commits" / copy["toy"].name / f"{unit}.json"
    record = json.loads(path.read_bytes())
    (entry,) = [entry for entry in record["files"] if entry["key"] == "values/c/0/0"]
    entry["crc32c"] = files.file_digests(part / "values/c/0/0")[1]
    path.write_bytes(sealed(record))
    assert verify(copy).problems == []
    (problem,) = verify(copy, deep=True).problems
    assert (problem.kind, problem.unit, problem.file) == ("sha256", unit, "values/c/0/0")


def sealed(record):
    body = {key: value for key, value in record.items() if key != "crc32c"}
    return canonical_json({**body, "crc32c": files.crc32c_hex(canonical_json(body))})


def test_every_flipped_bit_of_a_commit_record_is_found(copy):
    unit, _ = part_of(copy)
    name = copy["toy"].name
    data = (copy.path / "commits" / name / f"{unit}.json").read_bytes()
    bits = np.random.default_rng(0).choice(len(data) * 8, 400, replace=False)
    for bit in bits.tolist():
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedStore):
            CommitRecord.from_bytes(bytes(broken), feature_id=name, unit=unit)
    for size in range(0, len(data), 97):
        with pytest.raises(DamagedStore):
            CommitRecord.from_bytes(data[:size], feature_id=name, unit=unit)


@pytest.mark.parametrize("damage", [lambda path: flip(path, 999), cut])
def test_a_damaged_commit_record_is_found_and_named(copy, damage):
    unit, _ = part_of(copy)
    path = copy.path / "commits" / copy["toy"].name / f"{unit}.json"
    damage(path)
    report = verify(copy)
    (problem,) = report.problems
    assert (problem.kind, problem.unit) == ("record", unit)
    assert report.garbage_parts == 1
    with pytest.raises(DamagedStore, match=unit):
        store.open(copy.path)["toy"].read(["c"])


def test_a_lost_commit_record_is_a_pending_unit(copy):
    unit, _ = part_of(copy)
    (copy.path / "commits" / copy["toy"].name / f"{unit}.json").unlink()
    report = verify(copy)
    assert (report.problems, report.garbage_parts) == ([], 1)
    assert copy["toy"].status_of(["a", "c"]).tolist() == [Status.PENDING, 0]


@pytest.mark.parametrize(
    "key", ["data.zarr/zarr.json", "data.zarr/F/zarr.json", "data.zarr/F/parts/zarr.json"]
)
def test_every_flipped_bit_of_a_group_is_found(copy, key):
    path = copy.path / key.replace("F", copy["toy"].name)
    data = path.read_bytes()
    for bit in range(0, len(data) * 8, 29):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        assert [p.kind for p in verify(copy).problems] == ["feature"], (bit, bytes(broken))
    path.unlink()
    assert {p.kind for p in verify(copy).problems} == {"feature"}


def test_a_part_taken_from_another_unit_is_found(copy):
    """Files and checksums fit; the names do not."""
    unit, part = part_of(copy)
    other, foreign = part_of(copy, ["c"])
    commits = copy.path / "commits" / copy["toy"].name
    record = json.loads((commits / f"{other}.json").read_bytes())
    record |= {"unit": unit, "part": part.name}
    (commits / f"{unit}.json").write_bytes(sealed(record))
    shutil.rmtree(part)
    shutil.copytree(foreign, part)
    assert {(p.kind, p.unit) for p in verify(copy).problems} == {("content", unit)}


def test_an_added_file_and_a_stray_record_are_found(copy):
    unit, part = part_of(copy)
    (part / "values" / "c" / "9").mkdir()
    (part / "values" / "c" / "9" / "0").write_bytes(b"x")
    (copy.path / "commits" / copy["toy"].name / "UPPER.json").write_text("{}")
    (copy.path / "commits" / "No Feature").mkdir()
    problems = {(p.kind, p.unit) for p in verify(copy).problems}
    assert problems == {("unexpected", unit), ("record", "UPPER"), ("name", "")}


def test_a_sound_store_has_nothing_to_report(sound):
    report = verify(sound, deep=True)
    assert (report.problems, report.features, report.units, report.files) == ([], 1, 2, 38)
    on_disk = sum(
        p.stat().st_size for p in sound.path.glob("data.zarr/*/parts/u-*/**/*") if p.is_file()
    )
    assert report.bytes == on_disk
    assert json.loads(json.dumps(report.to_dict()))["units"] == 2


def test_info_counts_what_is_there(sound):
    facts = json.loads(json.dumps(info(sound).to_dict()))
    (feature,) = facts["features"]
    assert (feature["clips"], feature["rows"], feature["parts"]) == (3, 5, 2)
    assert feature["status"] == {"ok": 2, "decode-error": 1}
    assert feature["written_by"]["torch"] == ["2.12", "2.13"]
    assert feature["spec"]["identity"] == {"fps": 1}
    assert feature["notes"] == {"licence": "MIT"}
    assert facts["manifests"]["kept"] == 0


PLAIN = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("store", "extract", "learn"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
import numpy as np, zarr
try:
    import store
    raise SystemExit("our package was imported")
except ImportError:
    pass
root = zarr.open_group(sys.argv[1], mode="r")
rows = {}
for name, feature in root.groups():
    assert feature.attrs["identity"] == {"fps": 1}
    for _, part in feature["parts"].groups():
        values, ids = part["values"][...], part["clip_id"][...].tolist()
        for clip, start, count in zip(ids, part["row_start"][...], part["row_count"][...]):
            rows[clip] = values[int(start) : int(start) + int(count)].tolist()
        assert part["values"].metadata.dimension_names == ("row", "feature")
        assert part["status"].attrs["flag_meanings"].split()[0] == "ok"
import json
print(json.dumps(rows))
"""


def test_plain_zarr_reads_it_all(sound):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PLAIN, str(sound.path / "data.zarr")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows_of_clip = json.loads(done.stdout)
    assert sorted(rows_of_clip) == ["a", "b", "c"]
    for clip, rows in rows_of_clip.items():
        expected = sound["toy"].read([clip])[0]
        np.testing.assert_array_equal(np.array(rows, np.float16).reshape(-1, 4), expected)


def test_a_lost_chunk_never_reads_as_zeros(copy):
    _, part = part_of(copy)
    (part / "values" / "c" / "0" / "0").unlink()
    import zarr

    assert np.isnan(zarr.open_array(str(part / "values"), mode="r")[...]).all()
    with pytest.raises(DamagedStore, match=r"values/c/0/0"):
        copy["toy"].read(["a"])


HOSTILE_RECORDS = {
    "other part": {"part": "../../../../etc-0123456789ab"},
    "other feature": {"feature_id": "x"},
    "other format": {"format": 2},
    "huge": {"rows": 1 << 39, "clips": 1 << 20},
    "many clips": {"clips": 1 << 40},
    "negative": {"rows": -1},
    "no clips": {"clips": 0, "status": {}},
    "text": {"rows": "3"},
    "truth": {"retry": True},
    "status": {"status": {"fine": 2}},
    "status sum": {"status": {"ok": 1}},
    "status list": {"status": ["ok"]},
    "wide": {"dim": 1 << 17},
    "files": {"files": []},
    "file list": {"files": 3},
    "file entry": {"files": [{"key": "/etc/passwd"}]},
    "more": {"surprise": 1},
    "files to escape": {
        "files": [{"key": "../../x", "size": 1, "crc32c": "0" * 8, "sha256": "0" * 64}]
    },
}


@pytest.mark.parametrize("change", HOSTILE_RECORDS.values(), ids=HOSTILE_RECORDS)
def test_a_hostile_record_with_a_good_checksum_is_refused(copy, change):
    unit, _ = part_of(copy)
    path = copy.path / "commits" / copy["toy"].name / f"{unit}.json"
    path.write_bytes(sealed({**json.loads(path.read_bytes()), **change}))
    began = time.perf_counter()
    with pytest.raises(DamagedStore, match=unit):
        copy["toy"].read(["a"])
    assert time.perf_counter() - began < 2
    assert {p.unit for p in verify(copy).problems} == {unit}


def rewrite_record(fs, unit, change):
    """Change a record's content and seal it again."""
    path = fs.path / "commits" / fs["toy"].name / f"{unit}.json"
    record = json.loads(path.read_bytes())
    change(record, {entry["key"]: entry for entry in record["files"]})
    path.write_bytes(sealed(record))


def test_a_size_no_such_file_can_have_is_refused(copy):
    unit, _ = part_of(copy)
    rewrite_record(copy, unit, lambda _, files: files["values/c/0/0"].update(size=1 << 39))
    with pytest.raises(DamagedStore, match="values/c/0/0 cannot have"):
        copy["toy"].read(["a"])


def test_another_spelling_of_a_record_is_not_the_record(copy):
    unit, _ = part_of(copy)
    name = copy["toy"].name
    data = (copy.path / "commits" / name / f"{unit}.json").read_bytes()
    for spelled in (data.replace(b":", b": "), b'{"clips":1,' + data[1:], data + b"\n"):
        with pytest.raises(DamagedStore, match="own checksum"):
            CommitRecord.from_bytes(spelled, feature_id=name, unit=unit)


def test_rows_of_another_size_than_the_feature_are_refused(copy):
    """Record and metadata agree with each other, but not with the feature."""
    from store.parts import layout

    unit, part = part_of(copy)
    metadata = layout.array_metadata("values", clips=2, rows=3, dim=8)
    (part / "values" / "zarr.json").write_text(json.dumps(metadata))
    size, crc32c, sha256 = files.file_digests(part / "values" / "zarr.json")

    def widen(record, entries):
        record["dim"] = 8
        entries["values/zarr.json"].update(size=size, crc32c=crc32c, sha256=sha256)

    rewrite_record(copy, unit, widen)
    with pytest.raises(DamagedStore, match="rows of 8 numbers"):
        copy["toy"].read(["a"])
    assert [(p.kind, p.unit) for p in verify(copy).problems] == [("record", unit)]


def test_a_file_of_another_size_is_refused_without_verifying(copy):
    _, part = part_of(copy)
    for key in ("values/c/0/0", "status/c/0"):
        path = part / key
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(DamagedStore, match=f"{key} has .* bytes instead of"):
            store.open(copy.path)["toy"].read(["a"])
        cut(path)
    store.open(copy.path)["toy"].read(["a"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("values", {"shape": [1 << 40, 4]}),
        ("values", {"fill_value": 0}),
        ("values", {"data_type": "float64"}),
        ("clip_id", {"codecs": [{"name": "numcodecs.pickle"}]}),
        ("status", {"codecs": []}),
        ("row_count", {"extra": 1}),
        ("row_start", {"shape": None}),
    ],
)
def test_hostile_metadata_is_refused_before_zarr_sees_it(sound, copy, name, change, monkeypatch):
    import zarr

    _, part = part_of(copy)
    path = part / name / "zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    truth = sound["toy"].read(["a"])[0]
    monkeypatch.setattr(zarr, "open_array", None)  # would be an error of ours
    np.testing.assert_array_equal(copy["toy"].read(["a"])[0], truth)  # format 1 says what it is
    assert {(problem.kind, problem.file) for problem in verify(copy).problems} == {
        ("size", f"{name}/zarr.json")
    }
    monkeypatch.setattr("store.features.feature.CAN_READ", False)  # then zarr must read the rows
    if name == "values":
        with pytest.raises(DamagedStore, match=f"{name}/zarr.json"):
            copy["toy"].read(["a"])


def test_a_decompression_bomb_is_refused(copy):
    from numcodecs import Zstd

    unit, part = part_of(copy)
    bomb = Zstd(level=3).encode(bytes(1 << 18))
    import google_crc32c

    bomb += google_crc32c.value(bomb).to_bytes(4, "little")
    path = copy.path / "commits" / copy["toy"].name / f"{unit}.json"
    record = json.loads(path.read_bytes())
    for key, table in (("status/c/0", "status"), ("clip_id/c/0", "clip_ids")):
        (part / key).write_bytes(bomb)
        (entry,) = [entry for entry in record["files"] if entry["key"] == key]
        entry |= {"size": len(bomb), "crc32c": files.crc32c_hex(bomb)}
        path.write_bytes(sealed(record))
        (opened,) = [p for p in store.open(copy.path)["toy"].parts() if p.record.unit == unit]
        with pytest.raises(DamagedStore, match=f"{key} .*announces {1 << 18} bytes"):
            getattr(opened, table)
        entry |= {"size": 1 << 30}
        path.write_bytes(sealed(record))
        (opened,) = [p for p in store.open(copy.path)["toy"].parts() if p.record.unit == unit]
        with pytest.raises(DamagedStore, match=f"{key} cannot have {1 << 30} bytes"):
            getattr(opened, table)


def test_random_damage_gives_only_our_errors(copy):
    """200 mutations of metadata, tables and records: an error of ours or the true rows, soon."""
    rng = np.random.default_rng(5)
    clips = ["a", "c", "b"]
    truth = copy["toy"].read(clips)[0]
    targets = [p for p in copy.path.rglob("*") if p.is_file() and p.stat().st_size < 100_000]
    caught = 0
    for _ in range(200):
        path = targets[rng.integers(len(targets))]
        kept = path.read_bytes()
        data = bytearray(kept)
        match rng.integers(4):
            case 0:
                data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            case 1:
                data = data[: rng.integers(len(data))]
            case 2:
                at = rng.integers(len(data))
                data[at : at + 8] = rng.bytes(8)
            case 3:
                data = bytearray(rng.bytes(rng.integers(1, 200)))
        path.write_bytes(data)
        try:
            feature = store.open(copy.path)["toy"]
            np.testing.assert_array_equal(feature.read(clips)[0], truth)
            feature.packed()
        except MicroshotError:
            caught += 1
        path.write_bytes(kept)
    assert caught > 50


def test_special_files_are_not_opened(copy):
    import os

    unit, _ = part_of(copy)
    path = copy.path / "commits" / copy["toy"].name / f"{unit}.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedStore, match="no plain file"):
        copy["toy"].read(["a"])
