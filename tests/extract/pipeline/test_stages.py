"""How a run stops, goes on, makes do with less memory, and tells what it does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

import store
from extract.encoders._network import Frozen
from extract.media.sampling import Sampling
from extract.pipeline import progress, stages
from extract.pipeline.batching import Halving, Packer
from store import Feature, Status
from store.errors import ConfigError, InputError, StoreError
from store.parts.unit_rows import UnitRows
from tests.extract import media_files as media
from tests.extract.fakes import Frames, Windows, quick

CLIPS = 14


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for k in range(CLIPS):
        media.write(root / f"{k:02}.mp4", range(0, 600, 40), sound=media.tone(0.6))
    (root / "m.csv").write_text("path\n" + "".join(f"{k:02}.mp4\n" for k in range(CLIPS)))
    return root / "m.csv"


def values(directory, slug="fake-frames"):
    feature = store.open(directory)[slug]
    return feature.read(sorted(feature.clip_ids))


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


def narrow(most):
    """A network that takes so many items at once, and tells how many it was given."""
    sizes = []

    def forward(x):
        sizes.append(len(x))
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.flatten(1)[:, :3] * 2

    return forward, sizes


def test_a_batch_that_does_not_fit_is_halved_for_good():
    forward, sizes = narrow(3)
    network = Halving(forward)
    x = torch.arange(48.0).reshape(16, 3)
    assert torch.equal(network(x), x * 2)
    assert sizes == [16, 8, 4, 2, *[2] * 7]
    sizes.clear()
    packer = Packer(network, 4)
    packer.put(x[:5])
    packer.put(x[5:7])
    rows = packer.finish()
    assert [len(r) for r in rows] == [5, 2]
    assert torch.equal(torch.cat(rows), x[:7] * 2)
    assert set(sizes) == {2}


def test_one_item_that_does_not_fit_is_said_so():
    with pytest.raises(ConfigError, match="not even one item fits the memory of cpu"):
        Halving(narrow(0)[0])(torch.zeros(4, 3))


def test_a_run_goes_on_with_smaller_batches_and_says_so(source, tmp_path):
    class Narrow(Frames):
        def forward(self, x):
            if len(x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    quick(source, tmp_path / "small", visual=[Narrow()])
    quick(source, tmp_path / "whole")
    small, whole = (values(tmp_path / name)[0] for name in ("small", "whole"))
    np.testing.assert_allclose(small.astype(float), whole.astype(float), atol=1e-3)
    notes = [part.attributes() for part in store.open(tmp_path / "small")["fake-frames"].parts()]
    assert {note["writer"]["batch_size"] for note in notes} == {2}


def test_a_unit_of_many_rows_is_committed_in_pieces(source, tmp_path, monkeypatch):
    """Where they end follows from the clips, so a run that goes on makes the same ones."""
    monkeypatch.setattr(stages, "PIECE_BYTES", 3 * 2 * 6 * 2)  # three clips' rows of six numbers
    result = quick(source, tmp_path / "s", clips_per_unit=5)
    assert result.features[0].new == CLIPS
    feature = store.open(tmp_path / "s")["fake-frames"]
    assert sorted(len(part.clip_ids) for part in feature.parts()) == [1, 2, 2, 3, 3, 3]
    monkeypatch.undo()
    quick(source, tmp_path / "whole", clips_per_unit=2)  # the same batches
    for ours, theirs in zip(values(tmp_path / "s"), values(tmp_path / "whole"), strict=True):
        np.testing.assert_allclose(ours.astype(float), theirs.astype(float), atol=1e-3)


@pytest.mark.gpu
def test_copies_to_a_gpu_are_whole():
    network = Frozen(torch.nn.Linear(4, 2), device="cuda", precision="fp32")
    for _ in range(20):
        x = torch.randint(0, 256, (64, 4), dtype=torch.uint8)
        assert torch.equal(network.take(x).cpu(), x)


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────


def test_asked_to_stop_it_finishes_what_the_networks_have_begun(source, tmp_path):
    stop = Event()

    def watch(done, total, message, status):
        if done == 6:
            stop.set()

    result = quick(source, tmp_path / "s", stop=stop, progress=watch, workers=1)
    assert result.interrupted
    assert result.findings == ["stopped: interrupted; run the same command to go on"]
    assert result.to_dict()["stopped"] == "interrupted"
    assert len(store.open(tmp_path / "s")["fake-frames"].clip_ids) == 8
    again = quick(source, tmp_path / "s")
    assert again.features[0].new == CLIPS - 8
    assert again.to_dict()["stopped"] is None
    quick(source, tmp_path / "whole")
    for ours, theirs in zip(values(tmp_path / "s"), values(tmp_path / "whole"), strict=True):
        assert np.array_equal(ours, theirs)


def test_too_many_failures_end_a_run_that_has_seen_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "ENOUGH_CLIPS", 6)
    names = [f"{k:02}.mp4" for k in range(40)]
    media.write(tmp_path / names[0], range(0, 200, 40))
    (tmp_path / "m.csv").write_text("path\n" + "\n".join(names) + "\n")
    result = quick(tmp_path / "m.csv", tmp_path / "s", max_failures=0.5, workers=1)
    assert not result.interrupted
    assert "too many clips failed" in result.findings[0]
    seen = len(store.open(tmp_path / "s")["fake-frames"].clip_ids)
    assert 6 <= seen <= 16
    assert seen % 4 == 0
    whole = quick(tmp_path / "m.csv", tmp_path / "s", max_failures=1.0)
    assert whole.stopped == ""
    assert sum(whole.features[0].counts.values()) == 40


COMMAND = """
import sys
import cli
from extract.pipeline import options; from extract.pipeline import run as running
from tests.extract.fakes import Frames
running.encoders_of = lambda *_: [Frames(pause=0.25)]
source, directory = sys.argv[1:]
sys.argv = ["extract", "run", source, "--store", directory, "--visual",
            "efficientnet_lite", "--workers", "1"]
options.CLIPS_PER_UNIT = {"cpu": 3}
options.BATCH_SIZE = {"cpu": 1}
cli.extract_main()
"""


def started(source, directory):
    """`extract run` in a process of its own, with one commit behind it."""
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(source), str(directory)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    limit = time.monotonic() + 60
    while not list(Path(directory).glob("commits/*/*.json")):
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.02)
    return child


def no_child_of(pid):
    stats = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            stats.append(int(stat.read_text().rpartition(")")[2].split()[1]))
        except OSError:
            continue
    return pid not in stats


def test_ctrl_c_finishes_units_and_a_second_one_does_not_wait(source, tmp_path):
    child = started(source, tmp_path / "once")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "finishing what is in hand; Ctrl-C again stops at once" in err
    assert "stopped: interrupted" in out
    assert "Traceback" not in err
    done = len(store.open(tmp_path / "once")["fake-frames"].clip_ids)
    assert 0 < done < CLIPS
    assert done % 3 == 0
    assert no_child_of(child.pid)
    child = started(source, tmp_path / "twice")
    child.send_signal(signal.SIGINT)
    assert "Ctrl-C again stops at once" in child.stderr.readline()  # so the first one was heard
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "stopped: interrupted" not in out  # a run that finishes its units says so
    assert "Traceback" not in err
    for name in ("once", "twice"):
        quick(source, tmp_path / name, visual=[Frames()], sampling=Sampling(fps=1.0))
        ids = store.open(tmp_path / name)["fake-frames"].clip_ids
        assert len(ids) == len(set(ids)) == CLIPS


def test_a_disk_that_refuses_ends_the_run_and_keeps_what_was_committed(
    source, tmp_path, monkeypatch
):
    from store import Feature

    commit, sizes = Feature.commit, []

    def full(self, rows, *args, **options):
        if len(sizes) == 2:
            raise StoreError("no space left on device")
        sizes.append(len(rows.clip_ids))
        return commit(self, rows, *args, **options)

    monkeypatch.setattr(Feature, "commit", full)
    with pytest.raises(StoreError, match="no space left"):
        quick(source, tmp_path / "s")
    assert len(store.open(tmp_path / "s")["fake-frames"].clip_ids) == sum(sizes)
    monkeypatch.undo()
    assert quick(source, tmp_path / "s").features[0].new == CLIPS - sum(sizes)


# ── telling ──────────────────────────────────────────────────────────────────────────────────────


def test_every_commit_is_a_line_of_metrics(source, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    result = quick(source, tmp_path / "s", audio=[Windows()], metrics=metrics)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert len(lines) == 2 * 4
    for report in result.features:
        mine = [line for line in lines if line["feature"] == report.feature]
        assert sum(line["clips"] for line in mine) == report.new == CLIPS
        assert sorted(line["unit"] for line in mine) == [0, 1, 2, 3]
        feature = store.open(tmp_path / "s")[report.feature]
        rows = len(feature.read(feature.clip_ids)[0])
        assert sum(line["rows"] for line in mine) == rows
    assert lines[-1]["clips_done"] == lines[-1]["clips_total"] == CLIPS
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    quick(source, tmp_path / "s", visual=[Frames(seed=1)], metrics=metrics)
    assert len(metrics.read_text().splitlines()) == 2 * 4 + 4  # appended


def test_metrics_that_cannot_be_written_are_refused_before_the_work(source, tmp_path):
    with pytest.raises(InputError, match="name another file"):
        quick(source, tmp_path / "s", metrics=tmp_path / "nowhere" / "m.jsonl")
    assert not (tmp_path / "s").exists()


def test_progress_tells_the_rate_and_the_failures(tmp_path):
    media.write(tmp_path / "good.mp4", range(0, 200, 40))
    (tmp_path / "bad.mp4").write_bytes(b"garbage")
    (tmp_path / "m.csv").write_text("path\ngood.mp4\nbad.mp4\ngone.mp4\n")
    reports = []
    quick(tmp_path / "m.csv", tmp_path / "s", progress=lambda *words: reports.append(words))
    assert reports[-1][:2] == (3, 3)
    assert "/s, " in reports[-1][3]
    assert "1 unreadable" in reports[-1][3]


# ── losing to another run ────────────────────────────────────────────────────────────────────────


def beaten(monkeypatch, source, directory, other_status):
    """A run, every unit of which another run has committed a moment before, with that outcome."""
    commit = Feature.commit

    def late(feature, rows, notes=None, *, retry=0):
        if not retry:
            count = np.zeros_like(rows.row_count) if other_status.failed else rows.row_count
            without = rows if count.any() else UnitRows(
                clip_ids=rows.clip_ids,
                values=rows.values[:0],
                row_time_ms=rows.row_time_ms[:0],
                row_count=count,
                status=np.full(len(count), other_status, np.uint8),
                media_sha256=rows.media_sha256,
                detail=rows.detail,
            )  # fmt: skip
            assert commit(feature, without, notes)
        return commit(feature, rows, notes, retry=retry)

    told = []
    with monkeypatch.context() as patch:
        patch.setattr(Feature, "commit", late)
        result = quick(source, directory, progress=lambda *args: told.append(args[2]))
    return result, [line for line in told if line]


def test_rows_beat_the_failures_that_another_run_committed_first(source, tmp_path, monkeypatch):
    result, told = beaten(monkeypatch, source, tmp_path / "s", Status.DEADLINE)
    report = result.features[0]
    assert (report.counts, report.new, report.by_others) == ({"ok": CLIPS}, CLIPS, 0)
    assert "another" not in "".join(told)
    quick(source, tmp_path / "alone")
    ours, alone = (values(tmp_path / name)[0] for name in ("s", "alone"))
    np.testing.assert_array_equal(ours, alone)


def test_what_another_run_committed_first_is_not_counted_as_ours(source, tmp_path, monkeypatch):
    result, told = beaten(monkeypatch, source, tmp_path / "s", Status.OK)
    report = result.features[0]
    assert (report.counts, report.new, report.by_others) == ({"ok": CLIPS}, 0, CLIPS)
    assert all("of them another run had committed first" in line for line in told)
    assert result.to_dict()["features"][0]["by_others"] == CLIPS
