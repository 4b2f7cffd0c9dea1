"""The functions mapped are the standard library's, so that a fresh interpreter can import them."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from operator import call
from pathlib import Path

import pytest

from extract import workers
from extract.workers import process_map
from store import Status

quick = partial(process_map, call, workers=2, deadline_seconds=30.0)


def state_and_parent(pid):
    """Of a process; None if there is none."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent)


def children():
    """Processes whose parent is this one, dead ones not collected yet included."""
    pids = {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()}
    return {pid for pid in pids if (state_and_parent(pid) or (0, 0))[1] == os.getpid()}


@pytest.fixture(autouse=True)
def _no_child_is_left():
    before = children()
    yield
    assert children() <= before


def test_values_come_in_order():
    sleeps = [0.2, 0.0, 0.1, 0.0, 0.0, 0.05]
    items = [partial(time.sleep, s) if s else partial(abs, -k) for k, s in enumerate(sleeps)]
    assert [o.value for o in quick(items)] == [None, 1, None, 3, 4, None]
    assert list(quick([])) == []


def test_a_death_costs_only_its_own_item():
    items = [partial(abs, -k) for k in range(12)]
    items[3] = partial(os._exit, 3)
    items[4] = partial(signal.raise_signal, signal.SIGSEGV)
    items[9] = partial(os.kill, 0, signal.SIGKILL)
    outcomes = list(quick(items))
    assert [o.value for k, o in enumerate(outcomes) if k not in (3, 4, 9)] == [
        k for k in range(12) if k not in (3, 4, 9)
    ]
    assert [outcomes[k].status for k in (3, 4, 9)] == [Status.CRASH] * 3
    assert "exit code 3" in outcomes[3].detail
    assert "SIGSEGV" in outcomes[4].detail


def test_the_late_are_killed_and_replaced():
    items = [partial(abs, -1), partial(time.sleep, 600), partial(abs, -2), partial(time.sleep, 600)]
    begun = time.monotonic()
    outcomes = list(quick([*items, partial(abs, -3)], deadline_seconds=0.5))
    assert [o.status for o in outcomes] == [0, Status.DEADLINE, 0, Status.DEADLINE, 0]
    assert "0.5 s" in outcomes[1].detail
    assert time.monotonic() - begun < 20


def test_memory_is_limited():
    items = [partial(bytearray, 3 << 30), partial(len, "four")]
    outcomes = list(quick(items, memory_bytes=1 << 30))
    assert [o.status for o in outcomes] == [Status.OUT_OF_MEMORY, Status.OK]


def test_exceptions_are_outcomes():
    (outcome,) = quick([partial(int, "seven")])
    assert outcome.status == Status.CRASH
    assert "seven" in outcome.detail


def test_a_slow_caller_slows_the_children_down():
    drawn = []

    def items():
        for k in range(100):
            drawn.append(k)
            yield partial(abs, -k)

    outcomes = quick(items(), ahead=5)
    for k in range(3):
        assert next(outcomes).value == k
        time.sleep(0.3)
        assert len(drawn) <= k + 1 + 5
    outcomes.close()


def test_closing_early_kills_what_is_running():
    outcomes = quick([partial(abs, -1), *[partial(time.sleep, 600)] * 9])
    assert next(outcomes).value == 1
    begun = time.monotonic()
    outcomes.close()
    assert time.monotonic() - begun < 5


def test_items_that_raise_stop_the_map():
    def items():
        yield partial(abs, -1)
        raise LookupError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(quick(items()))


def test_children_that_cannot_start_are_said(monkeypatch):
    monkeypatch.setattr(workers, "_BOOT", "raise SystemExit(7)")
    with pytest.raises(RuntimeError, match="exit code 7"):
        list(quick([partial(abs, -1)]))


def test_children_ignore_ctrl_c():
    (outcome,) = quick([partial(os.kill, 0, signal.SIGINT)])  # 0: the child's own process group
    assert outcome.status == Status.OK


def test_children_are_recycled(monkeypatch):
    monkeypatch.setattr(workers, "RECYCLE_ITEMS", 2)
    pids = [o.value for o in quick([os.getpid] * 6, workers=1)]
    assert len(set(pids)) == 3


def test_children_see_no_secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    (outcome,) = quick([partial(os.getenv, "AWS_SECRET_ACCESS_KEY")])
    assert outcome.value is None


def test_a_decode_process_imports_neither_torch_nor_zarr(tmp_path):
    """Asked of an interpreter that did what a decode process does."""
    code = (
        "import sys; import extract.workers; from extract.decode import Request, decode; "
        "from extract.sample import Sampling; from pathlib import Path; "
        f"decode(Request(path=Path({str(tmp_path / 'none.mp4')!r}))); "
        "print([m for m in ('torch', 'zarr', 'pyarrow', 'decord') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_children_die_with_their_parent():
    """SIGKILL of the parent, while a child hangs in a call that reads nothing."""
    code = (
        "import time\nfrom functools import partial\nfrom operator import call\n"
        "from extract.workers import process_map\n"
        "import os, subprocess\n"
        "for o in process_map(call, [os.getpid, partial(time.sleep, 600)], workers=1,"
        " deadline_seconds=900.0):\n    print(o.value, flush=True)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
    limit = time.monotonic() + 10
    while (found := state_and_parent(child)) and found[0] != "Z":
        assert time.monotonic() < limit, "the child outlived its parent"
        time.sleep(0.05)
