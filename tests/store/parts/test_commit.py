"""Commits under races, crashes and full disks."""

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import store
from store.errors import StoreError
from store.storage import posix
from store.upkeep.repair import repair
from store.upkeep.verify import verify

ROOT = Path(__file__).parents[3]
# spawn: forking a process in which zarr runs threads may hang
PROCESSES = multiprocessing.get_context("spawn")


def race_files(folder, name, barrier, results):
    barrier.wait()
    for i in range(100):
        if posix.put_if_absent(
            folder / f"key{i}", f"{i} {name}".encode() * 50, staging=folder / "tmp"
        ):
            results.put((i, name))
    results.put(None)


def test_one_writer_wins_each_file(tmp_path):
    (tmp_path / "tmp").mkdir()
    barrier, results = PROCESSES.Barrier(4), PROCESSES.Queue()
    racers = [
        PROCESSES.Process(target=race_files, args=(tmp_path, n, barrier, results)) for n in range(4)
    ]
    for racer in racers:
        racer.start()
    won, finished = {}, 0
    while finished < 4:
        if (result := results.get(timeout=60)) is None:
            finished += 1
        else:
            assert result[0] not in won
            won[result[0]] = result[1]
    for racer in racers:
        racer.join(60)
    assert sorted(won) == list(range(100))
    for i, name in won.items():
        assert (tmp_path / f"key{i}").read_bytes() == f"{i} {name}".encode() * 50
    assert list((tmp_path / "tmp").iterdir()) == []


WRITER = """
import sys
import numpy as np
import store
from store import FeatureSpec, UnitRows
from store.errors import StoreError

path, units, clips = sys.argv[1], int(sys.argv[2]), 5
first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
while True:
    try:
        spec = FeatureSpec(slug="crash", modality="visual", dim=16, identity={})
        feature = store.create(path).add_feature(spec)
        break
    except StoreError:  # a collector of age 0 took what was staged
        pass
for unit in range(first, units):
    ids = tuple(f"clip{unit}-{i}" for i in range(clips))
    if feature.has_unit(feature.unit_name(ids)):
        continue
    values = np.repeat(np.arange(clips) + 10 * unit, 3)[:, None] * np.ones(16)
    rows = UnitRows(
        clip_ids=ids, values=values.astype(np.float16),
        row_time_ms=np.tile(np.arange(3, dtype=np.int32), clips),
        row_count=np.full(clips, 3, np.uint16), status=np.zeros(clips, np.uint8),
        media_sha256=np.zeros((clips, 32), np.uint8), detail=("",) * clips)
    try:
        won = feature.commit(rows)
    except StoreError:  # a collector of age 0 took what was staged: nothing is promised
        continue
    print(unit if won else "lost", flush=True)
"""

COLLECTOR = """
import sys
import store
from store.errors import MicroshotError
from store.upkeep.gc import gc

print("begun", flush=True)
while True:
    try:
        removed = gc(store.open(sys.argv[1]), older_than_seconds=0.0)
        print(len(removed.staging) + len(removed.parts), flush=True)
    except MicroshotError:  # another collector or writer was in its way
        pass
"""


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def start_writer(path, units, first=0):
    return start(WRITER, path, units, first)


def expected_rows(clip_id):
    unit, i = clip_id.removeprefix("clip").split("-")
    return np.full((3, 16), 10 * int(unit) + int(i), np.float16)


@pytest.mark.parametrize(
    ("rounds", "collectors"),
    [(4, 1), *(pytest.param(67, n, marks=pytest.mark.soak) for n in (0, 1))],
)
def test_kills_at_any_time_lose_nothing_acknowledged(tmp_path, rounds, collectors):
    """SIGKILLs at random moments of three racing writers, and of a collector that takes whatever no
    record names however young it is; then a writer that finishes."""
    path, endless = tmp_path / "fs", 1_000_000
    rng, acknowledged, torn, races, collected = random.Random(7), set(), 0, 0, 0
    unfinished = 0
    store.create(path)
    for number in range(rounds):
        writers = [start_writer(path, endless) for _ in range(3)]
        others = [start(COLLECTOR, path) for _ in range(collectors)]
        heard = [one.stdout.readline() for one in (*writers, *others)]
        for one in (*writers, *others):
            time.sleep(rng.uniform(0, 0.15))
            os.kill(one.pid, signal.SIGKILL)
        heard = heard[:3]
        heard += [line for one in writers for line in one.communicate()[0].splitlines(True)]
        told = [line for one in others for line in one.communicate()[0].splitlines(True)]
        collected += sum(int(line) for line in told if line.endswith("\n"))
        assert {one.returncode for one in (*writers, *others)} == {-signal.SIGKILL}
        acknowledged |= {line.strip() for line in heard if line.endswith("\n")} - {"lost"}
        races += heard.count("lost\n")
        report = verify(store.open(path), deep=number % 8 == 7 or number == rounds - 1)
        if collectors and report.problems:  # killed between moving a part and looking again
            assert {problem.kind for problem in report.problems} == {"missing"}
            unfinished += 1
            repair(store.open(path))
            report = verify(store.open(path))
        assert report.problems == []
        torn = max(torn, report.garbage_staging)
        clips = store.open(path)["crash"].clip_ids
        done = {clip.removeprefix("clip").split("-")[0] for clip in clips}
        assert len(clips) == len(set(clips)) == 5 * len(done)  # whole units only
        assert acknowledged <= done
    assert collected or torn, "nothing was torn: the test has lost its subject"

    # A writer whose staging is taken goes on, so that thousands of units may be missing: the last.
    units = max(map(int, done)) + 3
    first = max(0, units - 30)
    start_writer(path, units, first).communicate(timeout=120)
    feature, seen = store.open(path)["crash"], []
    for ids, values, offsets in feature.scan(verify=True):
        seen += ids
        for i, clip in enumerate(ids):
            np.testing.assert_array_equal(values[offsets[i] : offsets[i + 1]], expected_rows(clip))
    whole = {*map(int, done), *range(first, units)}
    assert sorted(seen) == sorted(f"clip{unit}-{i}" for unit in whole for i in range(5))
    print(
        f"{(3 + collectors) * rounds} kills, {len(acknowledged)} units acknowledged: 0 lost, "
        f"0 changed; {torn} torn stagings, {collected} collected, {unfinished} times something "
        f"moved and not settled, {races} races lost cleanly, {report.garbage_parts} garbage parts"
    )


def test_racing_commits_have_one_winner_each(tmp_path):
    """Three processes, the same 12 units: 12 commits, every loser says so and exits cleanly."""
    writers = [start_writer(tmp_path / "fs", 12) for _ in range(3)]
    lines = [line for writer in writers for line in writer.communicate(timeout=60)[0].split()]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert sorted(int(line) for line in lines if line != "lost") == list(range(12))
    report = verify(store.open(tmp_path / "fs"), deep=True)
    assert (report.problems, report.units) == ([], 12)
    # Who comes when the record is there already writes no part at all.
    assert report.garbage_parts <= lines.count("lost")


def test_the_loser_is_told_and_changes_nothing(fs, feature, make_rows, monkeypatch):
    """Both have written their part before either commits."""
    first, second = make_rows({"a": 2}, seed=1), make_rows({"a": 2}, seed=2)
    publish = posix.publish

    def overtaken(staged, target):
        publish(staged, target)
        monkeypatch.setattr(posix, "publish", publish)
        assert store.open(fs.path)["toy"].commit(first)

    monkeypatch.setattr(posix, "publish", overtaken)
    assert feature.commit(second) is False
    np.testing.assert_array_equal(feature.read(["a"])[0], first.values)
    report = verify(fs)
    assert (report.problems, report.units, report.garbage_parts) == ([], 1, 1)


def test_a_lost_answer_is_not_a_lost_commit(feature, make_rows, monkeypatch):
    """NFS may report that a link exists because an earlier try of ours made it."""
    link = os.link

    def link_twice(source, target):
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    assert feature.commit(make_rows({"a": 1})) is True


def test_staging_and_uncommitted_parts_are_never_seen(fs, feature, make_rows):
    feature.commit(make_rows({"a": 1}))
    feature.commit(make_rows({"b": 1}))
    unit = feature.unit_name(["b"])
    (part,) = fs.path.glob(f"data.zarr/*/parts/{unit}-*")
    part.rename(fs.path / "tmp" / part.name)
    (fs.path / "commits" / feature.name / f"{unit}.json").unlink()
    feature.commit(make_rows({"c": 1}))
    (fs.path / "commits" / feature.name / f"{feature.unit_name(['c'])}.json").unlink()
    fresh = store.open(fs.path)["toy"]
    assert fresh.clip_ids == ["a"]
    assert [ids for ids, _, _ in fresh.scan(verify=True)] == [["a"]]
    report = verify(fs)
    assert (report.problems, report.garbage_parts, report.garbage_staging) == ([], 1, 1)
    assert fresh.commit(make_rows({"b": 1}))


FAULTS = ["link", "fsync", "rename", "mkdir"]


@pytest.mark.parametrize("call", FAULTS)
@pytest.mark.parametrize("nth", [1, 2, 5])
def test_a_full_disk_is_reported_and_commits_nothing(
    fs, feature, make_rows, monkeypatch, call, nth
):
    calls = 0

    def failing(original):
        def fail(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == nth:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **kwargs)

        return fail

    owner = Path if call in ("rename", "mkdir") else os
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, failing(getattr(owner, call)))
        if call in ("link", "rename") and nth > 1:
            assert feature.commit(make_rows({"a": 1}))  # a commit has one of these
            return
        with pytest.raises(StoreError, match="No space left"):
            feature.commit(make_rows({"a": 1}))
    fresh = store.open(fs.path)["toy"]
    assert fresh.clip_ids == []
    assert list((fs.path / "tmp").iterdir()) == []
    assert fresh.commit(make_rows({"a": 1}))
    assert verify(fs).problems == []


def test_a_file_system_without_links_is_named(feature, make_rows, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="has no hard links"):
        feature.commit(make_rows({"a": 1}))


def test_the_record_is_written_last_and_after_the_data_is_durable(
    fs, feature, make_rows, monkeypatch
):
    """Every file and directory of the part is flushed before the record appears."""
    events, fsync, link = [], os.fsync, os.link
    record = lambda kind, file: events.append((kind, str(file)))  # noqa: E731

    def logged_fsync(descriptor):
        record("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def logged_link(source, target):
        record("link", target)
        link(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "link", logged_link)
    feature.commit(make_rows({"a": 1}))
    (linked,) = [i for i, (kind, _) in enumerate(events) if kind == "link"]
    (part,) = fs.path.glob("data.zarr/*/parts/u-*")
    flushed = {path.split(part.name)[-1] for _, path in events[:linked] if part.name in path}
    wanted = {f"/{path.relative_to(part)}" for path in part.rglob("*")} | {""}
    assert flushed == wanted
    assert ("fsync", str(part.parent)) in events[:linked]
    assert events[linked - 1][1].startswith(str(fs.path / "tmp" / "put-"))
    assert events[linked + 1] == ("fsync", str(fs.path / "commits" / feature.name))


def test_provenance_holds_no_host_or_path(fs, feature, make_rows):
    feature.commit(make_rows({"a": 1}), {"torch": "2.12"})
    host = os.uname().nodename
    for path in fs.path.rglob("*"):
        if path.is_file():
            assert str(fs.path).encode() not in path.read_bytes()
            assert len(host) < 3 or host.encode() not in path.read_bytes()
    (part,) = fs.path.glob("data.zarr/*/parts/u-*/zarr.json")
    assert set(json.loads(part.read_text())["attributes"]["writer"]) == {
        "microshot",
        "numpy",
        "torch",
        "zarr",
    }
