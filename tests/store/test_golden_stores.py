"""Stores of every released format are read for ever: to the bit, by us and by plain zarr."""

import json
import shutil
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import store
from store import Status
from store.upkeep.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden" / "stores"
RELEASED = sorted(path.name.removesuffix(".zarr.tar.gz") for path in GOLDEN.glob("*.tar.gz"))


@pytest.fixture(scope="module", params=RELEASED)
def golden(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN / f"{request.param}.zarr.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return folder / f"{request.param}.zarr", json.loads(
        (GOLDEN / f"{request.param}.json").read_text()
    )


def digest(array, dtype):
    return sha256(np.ascontiguousarray(array, dtype=dtype).tobytes()).hexdigest()


def test_format_1_is_among_them():
    assert "v1" in RELEASED


def test_every_value_is_read(golden):
    path, facts = golden
    fs = store.open(path)
    assert fs.store_id == facts["store_id"]
    assert fs.features == sorted(facts["features"])
    for name, wanted in facts["features"].items():
        feature = fs[name]
        assert (feature.spec.digested, feature.notes) == (wanted["spec"], wanted["notes"])
        assert sorted(feature.clip_ids) == sorted(wanted["clips"])
        clips = list(wanted["clips"])
        values, offsets = feature.read(clips)
        times, details = feature.read_times(clips), feature.details(clips)
        for i, clip in enumerate(clips):
            span = slice(*offsets[i : i + 2].tolist())
            assert wanted["clips"][clip] | {"media_sha256": ""} == {
                "status": Status(int(feature.status_of([clip])[0])).kind,
                "rows": span.stop - span.start,
                "values": digest(values[span], "<f2"),
                "times": digest(times[span], "<i4"),
                "detail": details[i],
                "media_sha256": "",
            }, clip
        scanned = [clip for ids, _, _ in feature.scan(verify=True) for clip in ids]
        assert sorted(scanned) == sorted(clips)


def test_the_manifest_is_read(golden):
    path, facts = golden
    table = store.open(path).manifest().table
    assert {name: list(column) for name, column in table.items()} == facts["manifest"]


def test_it_is_sound_and_its_garbage_is_ignored(golden):
    report = verify(store.open(golden[0]), deep=True)
    assert (report.problems, report.units) == ([], 7)
    assert (report.garbage_parts, report.garbage_staging) == (1, 1)


def test_plain_zarr_finds_every_clip(golden):
    import zarr

    path, facts = golden
    root = zarr.open_group(str(path / "data.zarr"), mode="r")
    for name, wanted in facts["features"].items():
        clips_read = {}
        for record in (path / "commits" / name).iterdir():
            part = root[f"{name}/parts/{json.loads(record.read_bytes())['part']}"]
            values, start, count = (part[key][...] for key in ("values", "row_start", "row_count"))
            media = part["media_sha256"][...]
            for i, clip in enumerate(part["clip_id"][...].tolist()):
                rows = values[int(start[i]) : int(start[i]) + int(count[i])]
                if len(rows) or clip not in clips_read:
                    clips_read[clip] = (digest(rows, "<f2"), media[i].tobytes().hex())
        clips = wanted["clips"]
        assert clips_read == {c: (clips[c]["values"], clips[c]["media_sha256"]) for c in clips}


def test_it_can_be_written_to(golden, tmp_path, make_rows):
    shutil.copytree(golden[0], tmp_path / "fs")
    feature = store.open(tmp_path / "fs")["golden-audio"]
    rows = make_rows({"new": 2}, dim=3)
    assert feature.commit(rows)
    np.testing.assert_array_equal(feature.read(["new"])[0], rows.values)
    assert verify(store.open(tmp_path / "fs"), deep=True).problems == []
