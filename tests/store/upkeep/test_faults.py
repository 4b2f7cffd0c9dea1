"""Every change an operation makes to the disk: killed there, or refused there, nothing is lost."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import store
from store import Status
from store.errors import MicroshotError, StoreError
from store.upkeep.gc import gc
from store.upkeep.verify import verify
from tests.store import operations
from tests.store.faults import Injector

ROOT = Path(__file__).parents[3]
BEFORE = {"begin": [], "repair": ["a"]}
AFTER = {"begin": [], "write": ["a", "b", "c"], "merge": ["a", "b", "c"], "repair": ["a"]}
# Of each operation, so many changes spread over it and so many of its last ones, which commit; in
# the soak all of them.
KILLS = {"write": (4, 9), "begin": (2, 3), "gc": (2, 3), "repair": (2, 3), "merge": (2, 4),
         "view": (2, 4)}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    operations.prepare(folder)
    return folder


def template_of(operation, template, folder):
    if operation not in ("begin", "repair"):
        return template
    folder.mkdir()
    if operation == "repair":
        operations.prepare(folder)
        operations.damage(folder)
    return folder


def assert_holds(fs, units):
    """Every clip of these units is there, whole and as it was written."""
    feature = fs["toy"] if units else None
    for unit in units:
        rows = operations.rows(unit)
        values, offsets = feature.read(rows.clip_ids)
        np.testing.assert_array_equal(values, rows.values)
        np.testing.assert_array_equal(np.diff(offsets), rows.row_count)


def assert_sound(fs, allowed=()):
    report = verify(fs, deep=True)
    assert [problem for problem in report.problems if problem.unit not in allowed] == []


def check_survivor(operation, path):
    """What a killed operation left is sound, and running it again completes it."""
    if operation != "begin" or (path / "store.json").exists():
        fs = store.open(path)
        unit = fs["toy"].unit_name(["b"]) if operation == "repair" else ""
        assert_sound(fs, {unit})
        if not (unit and fs["toy"].has_unit(unit)):  # else its damage is in the way
            assert_holds(fs, BEFORE.get(operation, ["a", "b"]))
            if fs.features and fs["toy"].status_of(["c"]).tolist() != [Status.PENDING]:
                assert_holds(fs, ["c"])
    getattr(operations, operation)(path)
    fs = store.open(path)
    assert_sound(fs)
    assert_holds(fs, AFTER.get(operation, ["a", "b"]))
    gc(fs, older_than_seconds=0.0)
    report = verify(fs, deep=True)
    kept = 1 if operation == "repair" else 0  # what was set aside a moment ago
    assert (report.problems, report.garbage_staging) == ([], 0)
    assert report.garbage_parts <= kept
    assert_holds(fs, AFTER.get(operation, ["a", "b"]))


@pytest.mark.parametrize(
    ("operation", "points"),
    [*KILLS.items(), *(pytest.param(name, (0, 0), marks=pytest.mark.soak) for name in KILLS)],
    ids=str,
)
def test_a_kill_before_any_change_leaves_a_sound_store(template, tmp_path, operation, points):
    start, out = template_of(operation, template, tmp_path / "start"), tmp_path / "out"
    command = [sys.executable, "-m", "tests.store.faults", operation, start, out]
    command += map(str, points)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    kinds = {kind for kind, _ in report["events"]}
    wanted = {
        "begin": {"mkdir", "open", "write", "fsync", "link", "remove"},
        "write": {"mkdir", "open", "write", "fsync", "link", "remove", "rename"},
        "gc": {"rename", "remove", "rmdir", "fsync"},
        "repair": {"mkdir", "rename", "fsync"},
        "merge": {"mkdir", "open", "write", "fsync", "link", "remove", "rename"},
        "view": {"mkdir", "open", "write", "fsync", "link", "rename"},
    }
    assert kinds >= wanted[operation]
    assert any(points) or len(report["killed"]) == len(report["events"])
    for number in report["killed"]:
        check_survivor(operation, out / str(number) / "fs")
    print(f"{operation}: {len(report['killed'])} of {len(report['events'])} crash points, 0 bad")


def codes(*names):
    return [getattr(errno, name) for name in names]


@pytest.fixture
def busy(tmp_path, make_rows):
    """A store to write to, and units to write, one after the other."""
    fs = store.create(tmp_path / "fs")
    return fs, fs.add_feature(operations.SPEC)


@pytest.mark.parametrize(
    ("codes", "stride"),
    [
        (codes("ENOSPC"), 11),
        (codes("EIO", "EINTR"), 37),
        pytest.param(codes("ENOSPC", "EIO", "EINTR", "EDQUOT"), 1, marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("lasting", [False, True])
def test_a_refused_change_is_a_clean_error(busy, make_rows, codes, stride, lasting):
    fs, feature = busy
    with Injector(fs.path) as counted:
        feature.commit(make_rows({"first": 2}))
    changes = len(counted.events)
    refused = dict.fromkeys(codes, 0)
    for number in range(0, changes, stride):
        for code in codes:
            unit = make_rows({f"{code} {number}": 2}, seed=number)
            refused[code] += refuse(fs, feature, unit, number, code, lasting)
    # A directory that zarr would make again, and the last tidying, may be refused without harm.
    assert all(count >= 0.8 * (changes // stride) for count in refused.values())
    print(f"{refused} refusals of {changes} changes, {'lasting' if lasting else 'once'}: 0 bad")
    assert_sound(fs)
    gc(fs, older_than_seconds=0.0)
    report = verify(fs, deep=True)
    assert (report.problems, report.garbage_parts, report.garbage_staging) == ([], 0, 0)


def refuse(fs, feature, rows, number, code, lasting):
    """Commit with that change refused, check what happened, commit again; whether it failed."""

    def act(at, kind, path):
        if at == number or (lasting and at > number):
            raise OSError(code, os.strerror(code), str(path))

    failed = False
    with Injector(fs.path, act):
        try:
            assert feature.commit(rows)
        except StoreError as error:
            failed, message = True, str(error)
    is_committed = feature.has_unit(feature.unit_name(rows.clip_ids))
    if failed:
        assert os.strerror(code) in message
        assert len(message.splitlines()) == 1
        assert is_committed == ("is written, but may not outlive" in message)
    else:
        assert is_committed
    assert feature.commit(rows) != is_committed
    np.testing.assert_array_equal(feature.read(list(rows.clip_ids))[0], rows.values)
    return failed


@pytest.mark.parametrize("often", [2, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("operation", ["merge", "view", "gc", "repair"])
def test_a_full_disk_under_any_operation_is_a_clean_error(template, tmp_path, operation, often):
    """From some change on all are refused; then there is room again and it goes on."""
    start = template_of(operation, template, tmp_path / "start")
    number = failures = tried = 0
    while True:
        folder = tmp_path / str(number)
        shutil.copytree(start, folder)

        def act(at, kind, path, first=number):
            if at >= first and kind not in ("remove", "rmdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with Injector(folder / "fs", act) as injector:
            try:
                getattr(operations, operation)(folder / "fs")
            except MicroshotError as error:
                failures += "No space left" in str(error)
        check_survivor(operation, folder / "fs")
        shutil.rmtree(folder)
        if len(injector.events) <= number:
            break
        tried += 1
        number += often * (17 if operation in ("merge", "view") else 4)
    assert failures >= tried // 2 or operation == "gc"


def test_the_injector_sees_a_commit(busy, make_rows):
    """Every file that is written is opened, written, and flushed before the record is linked."""
    fs, feature = busy
    with Injector(fs.path) as injector:
        feature.commit(make_rows({"a": 2}))
    events = injector.events
    (record,) = feature.records()
    seen = {(kind, key.partition(record.part)[2]) for kind, key in events if record.part in key}
    for file in record.files:
        assert {("fsync", f"/{file.key}")} <= seen, file.key
    assert [kind for kind, _ in events].index("link") == len(events) - 3
    assert sum(kind == "write" for kind, _ in events) == len(record.files) + 1
