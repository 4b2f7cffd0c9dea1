"""Calls in processes of their own: values, errors, deaths, and no port that others could use."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from learn.evaluation.processes import ProcessDied, each_in_a_process


def answer(number):
    if number == 1:
        raise ValueError("one")
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number, torch.get_num_threads(), listening(os.getpid())


def listening(pid):
    """Ports at which a process of ours listens: lines of /proc/net/tcp whose sockets it holds."""
    held = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(str(entry.readlink()))
        except OSError:
            continue
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [x[1] for x in lines if x[3] == "0A" and f"socket:[{x[9]}]" in held]


def test_values_errors_and_deaths_are_told_apart():
    calls = [{"number": number} for number in range(4)]
    outcomes = dict(each_in_a_process(answer, calls, workers=2))
    assert outcomes[0] == (0, 1, [])
    assert outcomes[3] == (3, 1, [])
    assert isinstance(outcomes[1], ValueError)
    assert isinstance(outcomes[2], ProcessDied)
    assert "exit code -9" in str(outcomes[2])
    assert listening(os.getpid()) == []


def sleep(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def test_whoever_stops_listening_leaves_nobody_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("learn.evaluation.processes.GRACE_SECONDS", 0.1)
    pid = tmp_path / "pid"
    outcomes = each_in_a_process(sleep, [{"path": str(pid)}, {"path": "/nowhere/x"}], workers=2)
    number, error = next(outcomes)
    assert (number, type(error)) == (1, FileNotFoundError)
    limit = time.monotonic() + 60
    while not pid.exists() or not pid.read_text():
        assert time.monotonic() < limit
        time.sleep(0.05)
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
