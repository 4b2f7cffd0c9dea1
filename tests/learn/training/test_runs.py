"""A training's directory: held by one process, and gone again where nothing came of it."""

import fcntl
import json
import subprocess
import sys

import pytest

import learn
from learn.training import runs
from store import atomic
from store.errors import InputError

QUICK = ("optimiser.epochs=1", "projection.hidden=4", "projection.dim_out=4")
HOLD = """
import sys, time
from pathlib import Path
from learn.training import runs
with runs.held(Path(sys.argv[1]), new=False):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_never_train_in_one_directory(paired, tmp_path):
    run = tmp_path / "run"
    learn.train(paired, "infonce", settings=QUICK, run_dir=run)
    (run / "done.json").unlink()
    before = (run / "metrics.jsonl").read_bytes()
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process trains in"):
            learn.train(paired, "infonce", settings=QUICK, run_dir=run, resume=True)
        assert (run / "metrics.jsonl").read_bytes() == before
        other.kill()  # the system drops the lock with it
    learn.train(paired, "infonce", settings=QUICK, run_dir=run, resume=True)
    assert (run / "done.json").is_file()


def test_a_new_directory_is_made_by_one_only(tmp_path):
    with (
        runs.held(tmp_path / "r", new=True),
        pytest.raises(InputError, match="exists; name a new"),
        runs.held(tmp_path / "r", new=True),
    ):
        pass
    assert (tmp_path / "r").is_dir()


@pytest.mark.parametrize("file", ["config.json", "provenance.json"])
def test_a_full_disk_at_the_start_leaves_nothing_in_the_way(paired, tmp_path, monkeypatch, file):
    """Half a `provenance.json` used to block `--resume`, and a whole sweep."""
    write = atomic.write_bytes

    def refuses(path, data, **how):
        if path.name == file:
            raise OSError(28, "No space left on device", str(path))
        return write(path, data, **how)

    monkeypatch.setattr(atomic, "write_bytes", refuses)
    with pytest.raises(OSError, match="No space left"):
        learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "done.json").read_text())["epochs"] == 1


def test_where_nobody_can_lock_everybody_may_train(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with runs.held(tmp_path / "r", new=True):
        pass
