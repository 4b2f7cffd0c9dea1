"""Functions mapped must be importable by a fresh interpreter."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Pipe
from operator import call
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from extract.processes import child, pool, slot, transport
from extract.processes.child import Outcome
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import OFF
from store import Status
from store.console import refusal
from store.errors import ProcessError

LIMITS = {field.name for field in fields(Limits)}


def mapped(function, items, *, workers=2, deadline_seconds=30.0, **given):
    """A map under limits, without a sandbox; what is no limit is `process_map`'s own."""
    given = {"sandbox": OFF} | given
    limits = {name: given.pop(name) for name in LIMITS & set(given)}
    limits["deadline_seconds"] = deadline_seconds
    return process_map(function, items, workers=workers, limits=Limits(**limits), **given)


quick = partial(mapped, call)


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


def hang(pids):
    """Write down who does it, and never return; for children."""
    with pids.open("a") as file:
        file.write(f"{os.getpid()}\n")
    while True:
        time.sleep(600)


def test_the_late_are_killed_and_replaced(tmp_path):
    pids = tmp_path / "pids"
    items = [partial(abs, -1), partial(hang, pids), partial(abs, -2), partial(hang, pids)]
    outcomes = list(quick([*items, partial(abs, -3)], deadline_seconds=2.0))
    assert [o.status for o in outcomes] == [0, Status.DEADLINE, 0, Status.DEADLINE, 0]
    assert "2 s" in outcomes[1].detail
    late = [int(line) for line in pids.read_text().split()]
    assert len(set(late)) == 2
    assert not any(map(state_and_parent, late))


def test_memory_is_limited():
    items = [partial(bytearray, 3 << 30), partial(len, "four")]
    outcomes = list(quick(items, memory_bytes=1 << 30))
    assert [o.status for o in outcomes] == [Status.OUT_OF_MEMORY, Status.OK]


@pytest.mark.parametrize("place", [0, 30])
def test_one_that_hangs_stops_nothing_when_order_does_not_matter(place):
    """Neither what comes later nor, in the middle of short ones, what its child had in hand."""
    items = [partial(abs, -k) for k in range(80)]
    items[place] = partial(time.sleep, 600)
    outcomes = quick(items, ordered=False, deadline_seconds=3.0)
    first = [next(outcomes) for _ in range(79)]
    assert sorted(o.index for o in first) == sorted(o.value for o in first)
    (last,) = outcomes
    assert (last.index, last.status) == (place, Status.DEADLINE)
    assert len({o.index for o in first}) == 79


@pytest.mark.parametrize("workers", [1, 2])
def test_what_waits_behind_a_long_item_is_answered_once(workers):
    """Another child has done it by the time that the long one is done, or else the same one."""
    items = [partial(abs, -k) for k in range(120)]
    items[40] = items[60] = partial(time.sleep, 2 * slot.OVERDUE_SECONDS)
    outcomes = list(quick(items, workers=workers))
    assert [o.value for o in outcomes] == [None if k in (40, 60) else k for k in range(120)]


SHORT = 60  # items, of which a child has many in hand


@pytest.mark.parametrize("grief", [partial(os._exit, 3), partial(time.sleep, 600)])
@pytest.mark.parametrize("ordered", [True, False])
def test_who_comes_to_grief_among_short_items_is_named_alone(grief, ordered):
    """Each of them in one try, though others were in hand with it; one follows another at once."""
    bad = (20, 37, 38, 59)
    items = [grief if k in bad else partial(abs, -k) for k in range(SHORT)]
    outcomes = sorted(quick(items, ordered=ordered, deadline_seconds=1.5), key=lambda o: o.index)
    assert [o.index for o in outcomes] == list(range(SHORT))
    assert [o.index for o in outcomes if o.status] == list(bad)
    assert all(o.value == k for k, o in enumerate(outcomes) if k not in bad)


def test_what_others_had_in_hand_is_no_second_try(tmp_path):
    """Nothing of them is told, and their first try is not counted."""
    mark = tmp_path / "died"
    items = [("once", mark) if k == 30 else ("", mark) for k in range(SHORT)]
    outcomes = list(mapped(mortal, items, workers=1, again=lambda item: item))
    assert [k for k, o in enumerate(outcomes) if o.earlier] == [30]
    assert all(o.value == "alive" for o in outcomes)


def test_short_items_come_several_in_a_message(monkeypatch):
    sent = []
    send = slot.Slot._send

    def counting(self, items):
        sent.append(len(items := list(items)))
        send(self, items)

    monkeypatch.setattr(slot.Slot, "_send", counting)
    assert [o.value for o in mapped(abs, range(200), workers=1)] == list(range(200))
    assert sum(sent) == 200
    assert max(sent) > 4
    assert len(sent) < 100


def test_long_items_wait_for_no_child_that_is_busy():
    """Of ten that take as long as messages may, no child has more than its half, begun or not."""
    seconds = 1.1 * slot.IN_HAND_SECONDS
    items = [partial(pid_after, seconds)] * 24
    pids = [outcome.value for outcome in quick(items)]
    assert max(map(pids.count, pids)) <= 14


def test_a_child_begins_the_next_item_without_its_parent(monkeypatch):
    answered = pool._Pool._answered

    def slowly(self, *words):
        time.sleep(0.03)
        return answered(self, *words)

    monkeypatch.setattr(pool._Pool, "_answered", slowly)
    times = [outcome.value for outcome in mapped(begin_and_end, range(80), workers=1)]
    pauses = [begun - ended for (_, ended), (begun, _) in pairwise(times[-40:])]
    assert median(pauses) < 0.02


def begin_and_end(_):
    begun = time.monotonic()
    time.sleep(0.005)
    return begun, time.monotonic()


@pytest.mark.parametrize("ordered", [True, False])
def test_answers_of_any_size_are_whole(ordered):
    """Many in hand: they share a file, whose halves fill, overflow, and are used again."""
    chance, most = np.random.default_rng(0), slot.HALF_BYTES
    sizes = chance.choice([0, 100, 1 << 16, most // 9, most // 2, 3 * most], 150)
    items = list(enumerate(sizes.tolist()))
    for outcome in mapped(pattern, items, ordered=ordered, recycle_items=40):
        assert not outcome.status, outcome.detail
        expected = pattern(items[outcome.index])
        assert all(map(np.array_equal, outcome.value, expected))


def pattern(item):
    """Arrays that only this item has."""
    seed, size = item
    return [np.arange(size, dtype=np.uint32).astype(np.uint8) + np.uint8(seed), np.full(3, seed)]


def careless(item):
    """Announces a risk and comes to grief, unless it is the second try; for children."""
    how, safe = item
    if not safe:
        child.risk("haste")
        {"hang": partial(time.sleep, 600), "die": partial(os._exit, 7), "fine": int}[how]()
    return how, safe


def test_who_took_a_risk_gets_a_second_try():
    items = [("fine", False), ("hang", False), ("die", False), ("fine", False)]
    outcomes = list(
        mapped(careless, items, deadline_seconds=3.0, again=lambda item: (item[0], True))
    )
    assert [o.value for o in outcomes] == [
        ("fine", False), ("hang", True), ("die", True), ("fine", False),
    ]  # fmt: skip
    assert "haste: not done after 1.5 s" in outcomes[1].earlier
    assert "haste" in outcomes[2].earlier
    assert "exit code 7" in outcomes[2].earlier


def test_who_died_gets_a_second_try_even_without_a_risk(tmp_path):
    mark = tmp_path / "died"
    items = [("once", mark), ("always", mark)]
    first, second = mapped(mortal, items, workers=1, deadline_seconds=20.0, again=lambda item: item)
    assert (first.value, first.earlier) == ("alive", "the decoder died: exit code 5")
    assert second.status == Status.CRASH
    assert second.detail == "the decoder died: exit code 5; the decoder died: exit code 5"


def mortal(item):
    how, mark = item
    if how == "always" or (how == "once" and not mark.exists()):
        mark.touch()
        os._exit(5)
    return "alive"


def test_a_risk_that_is_over_gives_the_whole_deadline_back():
    (outcome,) = mapped(
        relieved, ["x"], workers=1, deadline_seconds=2.0, again=lambda item: "again"
    )
    assert (outcome.value, outcome.earlier) == ("x", "")


def relieved(item):
    child.risk("haste")
    child.risk("")
    time.sleep(1.4)
    return item


def test_the_second_try_is_the_last(tmp_path):
    pids = tmp_path / "pids"
    (outcome,) = mapped(hasty, [pids], workers=1, deadline_seconds=4.0, again=lambda item: item)
    assert outcome.status == Status.DEADLINE
    assert outcome.detail.startswith("haste: not done after 2 s; haste: not done after")
    tries = [int(line) for line in pids.read_text().split()]
    assert len(set(tries)) == len(tries) == 2
    assert not any(map(state_and_parent, tries))


def hasty(pids):
    """Announces a risk and hangs, however often it is tried; for children."""
    child.risk("haste")
    hang(pids)


def test_items_that_belong_together_go_to_one_child():
    items = [partial(pid_of, name) for name in "aaabbbccc"]
    pids = [o.value for o in quick(items, together=lambda item: item.args[0], workers=2)]
    assert all(len(set(pids[k : k + 3])) == 1 for k in (0, 3, 6))
    assert len(set(pids)) == 2


def pid_of(_):
    return pid_after(0.05)


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


def test_arrays_come_through_shared_memory_and_are_freed():
    held = resident_bytes()
    outcomes = quick([partial(np.full, 8 << 20, k, np.uint8) for k in range(64)], ahead=4)
    for k, outcome in enumerate(outcomes):
        assert outcome.value[::4096].tolist() == [k] * 2048
        outcome.value[:] = 0  # it is the caller's to change
        assert resident_bytes() - held < 128 << 20
    assert k == 63


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("shared", [True, False])
def test_what_waits_is_bounded_in_bytes(shared):
    drawn = []

    def items():
        for k in range(50):
            drawn.append(k)
            yield partial(np.zeros, 8 << 20, np.uint8)

    outcomes = quick(items(), shared=shared, ahead_bytes=20 << 20)
    next(outcomes)
    while len(drawn) < 3:
        time.sleep(0.05)
    time.sleep(0.5)
    assert len(drawn) <= 6
    outcomes.close()


@pytest.mark.parametrize("shared", [True, False])
def test_both_ways_carry_the_same(shared):
    ours, theirs = Pipe()
    message = Outcome(value=np.arange(1 << 20, dtype=np.int32).reshape(2, -1), index=3)
    file = transport.shared_file() if shared else None
    outbox, inbox = transport.Outbox(theirs.fileno(), file), transport.Inbox(ours.fileno(), file)
    thread = threading.Thread(target=outbox.send, args=(message,))
    thread.start()
    while (received := inbox.receive()) is None:
        time.sleep(0.01)
    got, held, _ = received
    thread.join()
    inbox.close()
    np.testing.assert_array_equal(got.value, message.value)
    assert got.index == 3
    assert held >= 4 << 20


def test_who_stops_in_the_middle_of_an_answer_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(pool, "MESSAGE_SECONDS", 1)
    first, second = quick([mumble, os.getpid], workers=1)
    assert first.status == Status.DEADLINE
    assert "in the middle" in first.detail
    assert second.value


def mumble():
    """Announces 100 bytes and sends two."""
    os.write(child._outbox.get().pipe, (100).to_bytes(4, "big") + b"\2\2")
    time.sleep(600)


def test_only_values_are_built_from_what_a_child_says(tmp_path):
    """Neither is what a pickle would call, nor an object that is no data."""
    (outcome,) = quick([partial(Nasty, f"touch {tmp_path / 'canary'}")])
    assert outcome.status == Status.CRASH
    assert "Nasty is no value that a child may send" in outcome.detail
    assert not (tmp_path / "canary").exists()


class Nasty:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_processor_time_is_limited():
    (outcome,) = quick([spin], deadline_seconds=0.4, workers=1)
    assert outcome.status == Status.DEADLINE
    code = (
        "import time; from extract.processes.child import _ProcessorLimit\n"
        "_ProcessorLimit(0.1).allow(time.process_time())\nwhile True: pass"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=30)
    assert done.returncode == -signal.SIGXCPU


def spin():
    while True:
        pass


def test_processor_time_of_short_items_is_counted():
    """The system's own count lags behind by up to a tick, and misses most of these."""
    outcomes = list(quick([work] * 100, workers=1))
    shortest = min(outcome.value for outcome in outcomes)
    assert sum(outcome.cpu_seconds for outcome in outcomes) > 0.5 * 100 * shortest > 0


def work():
    begun = time.perf_counter()  # asking for the thread's processor time would bring it up to date
    sum(range(20_000))
    return time.perf_counter() - begun


def test_children_that_grew_are_replaced():
    items = [os.getpid, partial(hoard, 400 << 20), os.getpid]
    first, grown, after = (o.value for o in quick(items, workers=1, recycle_bytes=300 << 20))
    assert first == grown != after


def hoard(size, kept=[]):  # noqa: B006 (a leak)
    kept.append(b"x" * size)
    return os.getpid()


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


def test_closing_early_kills_what_is_running(tmp_path):
    pids = tmp_path / "pids"
    outcomes = quick([partial(abs, -1), *[partial(hang, pids)] * 9], deadline_seconds=600.0)
    assert next(outcomes).value == 1
    while not pids.exists() or len(running := pids.read_text().split()) < 2:
        time.sleep(0.05)
    outcomes.close()
    assert not any(state_and_parent(int(pid)) for pid in running)


def test_items_that_raise_stop_the_map():
    def items():
        yield partial(abs, -1)
        raise LookupError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(quick(items()))


def test_a_child_killed_before_it_is_ready_is_replaced(monkeypatch):
    started = []
    whole = pool.ChildProcess.__init__

    def kill_the_first(self, *words):
        whole(self, *words)
        started.append(self)
        if len(started) == 1:
            self.process.kill()

    monkeypatch.setattr(pool.ChildProcess, "__init__", kill_the_first)
    outcomes = list(mapped(abs, [-1, -2], workers=1))
    assert [outcome.value for outcome in outcomes] == [1, 2]
    assert len(started) == 2


def test_children_that_cannot_start_are_said(monkeypatch):
    monkeypatch.setattr(slot, "_BOOT", "raise SystemExit(7)")
    with pytest.raises(ProcessError, match="exit code 7 each of 3 times"):
        list(quick([partial(abs, -1)]))


@pytest.mark.parametrize("refused", [BlockingIOError(errno.EAGAIN, "no more"), MemoryError()])
def test_a_system_that_gives_no_more_processes_is_told_as_such(monkeypatch, refused):
    def popen(*_, **__):
        raise refused

    monkeypatch.setattr(slot.subprocess, "Popen", popen)
    with pytest.raises(type(refused)) as caught:
        list(quick([partial(abs, -1)]))
    assert re.search("ulimit -u|not enough memory", refusal(caught.value))


def test_children_ignore_ctrl_c():
    (outcome,) = quick([partial(os.kill, 0, signal.SIGINT)])  # 0: the child's own process group
    assert outcome.status == Status.OK


def test_children_are_recycled():
    pids = [o.value for o in quick([os.getpid] * 6, workers=1, recycle_items=2)]
    assert len(set(pids)) == 3


def test_children_see_no_secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    (outcome,) = quick([partial(os.getenv, "AWS_SECRET_ACCESS_KEY")])
    assert outcome.value is None


def test_a_decode_process_imports_neither_torch_nor_zarr(tmp_path):
    """Asked of an interpreter that did what a decode process does."""
    code = (
        "import sys; import extract.processes.pool; "
        "from extract.media.clip import Request; from extract.media.decode import decode; "
        "from extract.media.sampling import Sampling; from pathlib import Path; "
        f"decode(Request(path=Path({str(tmp_path / 'none.mp4')!r}))); "
        "print([m for m in ('torch', 'zarr', 'pyarrow', 'decord') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_children_die_with_their_parent():
    """SIGKILL of the parent, while a child hangs in a call that reads nothing."""
    code = (
        "import time\nfrom functools import partial\nfrom operator import call\n"
        "from extract.processes.pool import Limits, process_map\n"
        "import os, subprocess\n"
        "for o in process_map(call, [os.getpid, partial(time.sleep, 600)], workers=1,"
        " limits=Limits(deadline_seconds=900.0)):\n    print(o.value, flush=True)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
    limit = time.monotonic() + 10
    while (state := state_and_parent(child)) and state[0] != "Z":
        assert time.monotonic() < limit, "the child outlived its parent"
        time.sleep(0.05)
