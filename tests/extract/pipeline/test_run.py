import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import store
from extract import tables
from extract.media.clip import Request
from extract.media.decode import decode
from extract.media.sampling import Sampling
from extract.pipeline import outputs
from extract.pipeline import run as running
from store import Status
from store.errors import ConfigError, InputError, UnknownPlugin
from tests.extract import media_files as media
from tests.extract.fakes import Frames, Whole, Windows, quick

FOUR = Sampling(fps=4.0)
CLIPS = 14


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """14 clips of unequal length, the fifth without sound, and their manifest."""
    root = tmp_path_factory.mktemp("clips")
    for k in range(CLIPS):
        seconds = 0.6 + 0.17 * k
        media.write(
            root / f"{k:02}.mp4",
            range(0, round(1000 * seconds), 40),
            pictures=[media.picture(10 * k + j, 96, 64) for j in range(120)],
            size=(96, 64),
            sound=None if k == 4 else media.tone(seconds, hz=200.0 + 50 * k),
        )
    return write_manifest(root, [f"{k:02}.mp4" for k in range(CLIPS)])


def write_manifest(root, paths, **columns):
    with (root / "clips.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", *columns])
        rows.writerows([p, "x", *(columns[c][i] for c in columns)] for i, p in enumerate(paths))
    return root / "clips.csv"


def values(directory, slug="fake-frames"):
    feature = store.open(directory)[slug]
    ids = sorted(feature.clip_ids)
    rows, offsets = feature.read(ids)
    return ids, rows, offsets, feature.read_times(ids)


def same(left, right):
    assert left[0] == right[0]
    for a, b in zip(left[1:], right[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def done(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("done") / "store"
    result = quick(source, directory, audio=[Windows()], clips_per_unit=3)
    return directory, result


def test_the_rows_are_those_of_one_clip_at_a_time(source, done):
    directory, _ = done
    frames, windows = Frames(), Windows()
    fs = store.open(directory)
    for clip_id in store.read_manifest(source).clip_ids:
        request = Request(
            path=source.parent / clip_id, pick=FOUR, short_sides=(32,), sample_rates=(8000,)
        )
        clip = decode(request)
        rows, _ = fs["fake-frames"].read([clip_id])
        alone = frames(torch.from_numpy(np.ascontiguousarray(clip.visual.data[32].pixels)))
        np.testing.assert_allclose(rows, alone.numpy(), atol=2e-3)
        times = fs["fake-frames"].read_times([clip_id])
        assert times == pytest.approx(1000 * clip.visual.data[32].seconds, abs=0.51)
        rows, _ = fs["fake-windows"].read([clip_id])
        if clip.audio.data:
            alone = windows(torch.from_numpy(clip.audio.data[8000].samples)[None])
            np.testing.assert_allclose(rows, alone.numpy(), atol=1e-3)
            times = fs["fake-windows"].read_times([clip_id])
            assert times.tolist() == [500 * k for k in range(len(rows))]
        else:
            assert not len(rows)


def test_the_result_says_what_happened(done):
    _, result = done
    answer = json.loads(json.dumps(result.to_dict()))
    assert [f["counts"] for f in answer["features"]] == [{"ok": 14}, {"ok": 13, "absent": 1}]
    assert answer["clips"] == 14
    assert answer["clips_per_second"] > 0
    assert answer["bottleneck"] in {"decode", "encoder", "disk"}
    assert answer["evidence"]["decode_cpu_seconds"] > 0
    assert 10 << 20 < answer["evidence"]["decoder_bytes"] < 1 << 30
    assert 0 < answer["evidence"]["batch_fill"][answer["features"][0]["feature"]] <= 1
    layers = {"rlimits", "no_new_privs", "landlock", "seccomp"}
    assert answer["sandbox"]["layers"] == [*result.timings.confinement.layers]
    assert {*answer["sandbox"]["layers"], *answer["sandbox"]["missing"]} == layers
    assert "rlimits" in answer["sandbox"]["layers"]
    assert (result.failed, answer["findings"]) == (0, [])


def test_how_decode_processes_were_confined_is_said(source, tmp_path, capsys):
    result = quick(source, tmp_path / "s", sandbox="off").to_dict()
    assert (result["sandbox"]["layers"], result["stopped"]) == ((), None)
    tables.run_table(result)
    shown = capsys.readouterr().out
    assert "sandbox of the decode processes: off" in shown
    assert max(map(len, shown.splitlines())) <= 80
    result["sandbox"] = {"layers": ["rlimits"], "missing": {"seccomp": "this kernel has none"}}
    tables.run_table(result)
    out = " ".join(capsys.readouterr().out.split())
    assert "sandbox of the decode processes: rlimits; no seccomp: this kernel has none" in out
    nothing = quick(source, tmp_path / "s", sandbox="off").to_dict()
    assert nothing["sandbox"] is None
    tables.run_table(nothing)
    assert "sandbox" not in capsys.readouterr().out


def test_values_do_not_depend_on_units_or_workers(source, done, tmp_path):
    for k, options in enumerate([{"clips_per_unit": 256}, {"clips_per_unit": 1, "workers": 1}]):
        quick(source, tmp_path / str(k), **options)
        same(values(tmp_path / str(k)), values(done[0]))


def test_running_again_does_nothing(source, done):
    directory, _ = done
    before = sorted(directory.rglob("*"))
    again = quick(source, directory, audio=[Windows()], clips_per_unit=3)
    assert sorted(directory.rglob("*")) == before
    assert (again.timings.clips, again.timings.bottleneck) == (0, "nothing to do")
    assert again.features[0].counts == {"ok": 14}


def test_features_share_one_decoding(source, tmp_path, monkeypatch):
    asked = []
    whole = outputs.process_map

    def counting(function, items, **options):
        return whole(function, (asked.append(i) or i for i in items), **options)

    monkeypatch.setattr(outputs, "process_map", counting)
    quick(source, tmp_path / "s", visual=[Frames(), Frames(seed=1)], audio=[Whole(), Windows()])
    assert len(asked) == CLIPS
    assert asked[0].sample_rates == (8000,)
    asked.clear()
    result = quick(source, tmp_path / "s", visual=[Frames(), Frames(seed=2)])
    assert len(asked) == CLIPS
    assert not asked[0].sample_rates
    assert [f.new for f in result.features] == [0, CLIPS]


def test_killed_and_run_again_gives_the_same_values(source, done, tmp_path):
    """SIGKILL after the first commit; the rest of the work is then done by another process."""
    directory = tmp_path / "s"
    command = [sys.executable, "-m", "tests.extract.fakes", str(source), str(directory)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment) as process:
        limit = time.monotonic() + 60
        while len(list(directory.glob("commits/*/*.json"))) < 2:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    fs = store.open(directory)
    committed = {name: len(fs[name].clip_ids) for name in fs.features}
    assert 0 < sum(committed.values()) < 2 * CLIPS, "killed too late to show anything"
    result = quick(source, directory, audio=[Windows()], clips_per_unit=3)
    for report in result.features:
        assert report.new == CLIPS - committed[report.feature]
    for slug in ("fake-frames", "fake-windows"):
        same(values(directory, slug), values(done[0], slug))
        ids = store.open(directory)[slug].clip_ids
        assert len(ids) == len(set(ids)) == CLIPS


def test_ctrl_c_leaves_whole_units(source, done, tmp_path):
    def interrupt(done, total, message="", status=""):
        if done == 9 and not message:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(source, tmp_path / "s", progress=interrupt, workers=1)
    assert len(store.open(tmp_path / "s")["fake-frames"].clip_ids) == 8
    quick(source, tmp_path / "s")
    same(values(tmp_path / "s"), values(done[0]))


@pytest.fixture
def troubles(source, tmp_path):
    root = tmp_path / "m"
    root.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        shutil.copy(source.parent / "03.mp4", root / name)
    for name in ("hang.mp4", "crash.mp4"):
        shutil.copy(source.parent / "05.mp4", root / name)
    (root / "garbage.mp4").write_bytes(b"garbage" * 99)
    (root / "zero.mp4").touch()
    media.cut_bytes(source.parent / "06.mp4", root / "cut.mp4", 0.7)
    names = ["a", "hang", "b", "crash", "garbage", "zero", "none", "cut", "c"]
    return write_manifest(root, [f"{name}.mp4" for name in names])


def test_ctrl_c_leaves_no_child(troubles, tmp_path, monkeypatch):
    """One child hangs meanwhile; the traceback, kept here, keeps the run's frames alive."""
    monkeypatch.setattr(outputs, "Decoder", lambda *_: media.troubled)

    def interrupt(done, total, message="", status=""):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        quick(troubles, tmp_path / "s", progress=interrupt)
    parents = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.append(int(stat.read_text().rpartition(")")[2].split()[1]))
    assert parents
    assert os.getpid() not in parents
    assert caught.tb


def test_a_clip_that_hangs_holds_up_its_own_unit_only(source, tmp_path, monkeypatch):
    """It is the first of all, and the last to be given up."""
    monkeypatch.setattr(outputs, "Decoder", lambda *_: media.troubled)
    (tmp_path / "m").mkdir()
    names = ["hang.mp4", *(f"{k}.mp4" for k in range(12))]
    for name in names:
        shutil.copy(source.parent / "03.mp4", tmp_path / "m" / name)
    units = []

    def watch(done, total, message="", status=""):
        units.extend([message.split()[1]] if message else [])

    manifest = write_manifest(tmp_path / "m", names)
    quick(manifest, tmp_path / "s", clips_per_unit=5, deadline_seconds=6.0, progress=watch)
    assert sorted(units[:-1]) == ["2/3", "3/3"]
    assert units[-1] == "1/3"
    feature = store.open(tmp_path / "s")["fake-frames"]
    assert feature.status_of(names).tolist() == [Status.DEADLINE] + [Status.OK] * 12


def test_clips_that_fail_are_data(troubles, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "Decoder", lambda *_: media.troubled)
    lines = []
    result = quick(
        troubles,
        tmp_path / "s",
        audio=[Windows()],
        deadline_seconds=1.5,
        progress=lambda done, total, message="", status="": message and lines.append(message),
    )
    fs = store.open(tmp_path / "s")
    for name in fs.features:
        feature = fs[name]
        ids = [f"{n}.mp4" for n in ("hang", "crash", "garbage", "zero", "none", "cut")]
        assert feature.status_of(ids).tolist() == [
            Status.DEADLINE,
            Status.CRASH,
            Status.UNREADABLE,
            Status.UNREADABLE,
            Status.MISSING,
            Status.UNREADABLE,
        ]
        assert all(feature.details(ids))
        assert feature.status_of(["a.mp4", "b.mp4", "c.mp4"]).tolist() == [Status.OK] * 3
    assert result.failed == 12
    assert len(result.findings) == 2
    assert "6 of 9" in result.findings[0]
    assert any("1 deadline" in line for line in lines)


def test_failures_are_tried_again_when_asked_and_missing_files_once_they_are_there(
    troubles, tmp_path, source
):
    directory = tmp_path / "s"
    quick(troubles, directory)
    shutil.copy(source.parent / "07.mp4", troubles.parent / "none.mp4")
    shutil.copy(source.parent / "07.mp4", troubles.parent / "zero.mp4")
    assert quick(troubles, directory).timings.clips == 1  # the one that was missing is there
    result = quick(troubles, directory, retry=("missing",))
    assert result.timings.clips == 0
    result = quick(
        troubles,
        directory,
        retry=(
            "unreadable",
            "missing",
        ),
    )
    assert result.timings.clips == 3
    assert result.features[0].counts == {"ok": 7, "unreadable": 2}
    again = quick(troubles, directory, retry=("unreadable",))  # the two that stay broken
    assert (again.timings.clips, again.features[0].counts) == (2, {"ok": 7, "unreadable": 2})


def test_pieces_of_one_file_are_clips(source, tmp_path):
    shutil.copy(source.parent / "13.mp4", tmp_path / "long.mp4")
    manifest = write_manifest(
        tmp_path,
        ["long.mp4"] * 3,
        clip_id=["head", "tail", "beyond"],
        start_seconds=["", "1.0", "60"],
        end_seconds=["1.0", "2.0", "61"],
    )
    quick(manifest, tmp_path / "s", audio=[Windows()])
    for slug, count in (("fake-frames", 4), ("fake-windows", 2)):
        feature = store.open(tmp_path / "s")[slug]
        assert feature.status_of(["head", "tail", "beyond"]).tolist() == [0, 0, Status.EMPTY]
        _, offsets = feature.read(["head", "tail"])
        assert offsets.tolist() == [0, count, 2 * count]


class Overflowing(Frames):
    """Gives more than float16 holds, or NaN, for dark frames."""

    slug, bad = "overflowing", 1e6

    def forward(self, x):
        rows = super().forward(x)
        rows[x.mean((1, 2, 3)) < 0.5] = self.bad
        return rows


@pytest.mark.parametrize("bad", [65_600.0, float("nan"), float("inf"), -1e9])
def test_rows_float16_cannot_hold_fail_their_clip_alone(tmp_path, bad):
    for name, level in (("dark", 20), ("light", 220)):
        pixels = np.full((64, 96, 3), level, "u1")
        media.write(tmp_path / f"{name}.mp4", [0, 40], pictures=[pixels] * 2, size=(96, 64))
    encoder = Overflowing()
    encoder.bad = bad
    manifest = write_manifest(tmp_path, ["dark.mp4", "light.mp4"])
    quick(manifest, tmp_path / "s", visual=[encoder])
    feature = store.open(tmp_path / "s")["overflowing"]
    assert feature.status_of(["dark.mp4", "light.mp4"]).tolist() == [Status.NOT_FINITE, Status.OK]


def test_what_was_asked_is_in_the_identity(source, tmp_path):
    quick(source, tmp_path / "s", visual=[Frames()], audio=[Windows()])
    quick(source, tmp_path / "s", sampling=Sampling(frames=3, max_seconds=1.0))
    fs = store.open(tmp_path / "s")
    identities = {json.dumps(fs[n].spec.identity["sampling"], sort_keys=True) for n in fs.features}
    assert identities == {
        '{"decoder": "pyav", "fps": 4, "max_seconds": 30, "short_side": 32}',
        '{"decoder": "pyav", "frames": 3, "max_seconds": 1, "short_side": 32}',
        '{"decoder": "pyav", "max_seconds": 30}',
    }


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"visual": ["nosuch"]}, UnknownPlugin, "nosuch"),
        ({"visual": [Windows()]}, ConfigError, "--audio"),
        ({"visual": [Frames(), Frames()]}, InputError, "twice"),
        ({"workers": -1}, InputError, "workers=-1"),
        ({"deadline_seconds": 0.0}, InputError, "deadline_seconds=0"),
        ({"max_failures": 1.5}, InputError, "max_failures=1.5"),
        ({"clips_per_unit": -1}, InputError, "clips_per_unit=-1"),
        ({"retry": ("nosuch",)}, InputError, "nosuch"),
        ({"retry": ("ok",)}, InputError, "'ok'"),
        ({"device": "tpu"}, ConfigError, "tpu"),
        ({"decoder": "decor"}, ConfigError, "did you mean 'decord'"),
    ],
)
def test_wrong_questions_write_nothing(source, tmp_path, options, error, says):
    with pytest.raises(error, match=says):
        quick(source, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_a_wrong_manifest_writes_nothing(tmp_path):
    with pytest.raises(InputError):
        quick(tmp_path / "none.csv", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_who_decodes_is_in_the_identity_where_it_was_asked_for(source, tmp_path):
    for decoder in ("auto", "pyav", "decord"):
        quick(source, tmp_path / "s", decoder=decoder)
    fs = store.open(tmp_path / "s")
    decoders = [fs[name].spec.identity["sampling"]["decoder"] for name in fs.features]
    assert sorted(decoders) == ["decord", "pyav"]
    status = {
        detail.partition(" ")[0]
        for name in fs.features
        for detail in fs[name].details(list(fs[name].clip_ids))
        if fs[name].spec.identity["sampling"]["decoder"] == "pyav"
    }
    assert status == {"pyav"}


def test_the_policy_is_in_the_identity(source, tmp_path):
    quick(source, tmp_path / "s", sampling=Sampling(sample="keyframes:most=3"))
    (name,) = store.open(tmp_path / "s").features
    how = store.open(tmp_path / "s")[name].spec.identity["sampling"]
    assert how == {
        "decoder": "pyav", "max_seconds": 30, "most": 3, "policy": "keyframes", "short_side": 32,
    }  # fmt: skip


def test_one_frame_a_second_is_the_default():
    assert running.sampling() == Sampling(fps=1.0)
    assert running.sampling(frames=5) == Sampling(frames=5)
