"""Hostile answers from real decode processes: the parent survives each, as does the next item."""

import os
import socket
import time
from functools import partial
from operator import call

import numpy as np
import pytest

from extract.processes import pool, transport, wire
from extract.processes.child import Outcome
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import OFF
from store import Status
from tests.extract.processes import hostile
from tests.extract.processes.test_pool import state_and_parent

OBJECTS = '["array","O",1]'
NONSENSE = {
    "raw bytes": (partial(hostile.raw, b"\xff" * 64), "a message of 4294967295 bytes"),
    "a pickle": (partial(hostile.say, b"cposix\nsystem\n(Vtrue\ntR."), "Expecting value"),
    "objects": (partial(hostile.say, hostile.outcome(OBJECTS)), "an array of"),
    "a huge array": (
        partial(hostile.say, hostile.outcome('["array","uint8",1073741824]'), 1 << 30, True),
        "a file that is shorter",
    ),
    "more than may be": (
        partial(hostile.say, hostile.outcome(), 1 << 62, True), f"arrays of {1 << 62} bytes",
    ),
    "much through the pipe": (
        partial(hostile.say, hostile.outcome(), 1 << 30), f"arrays of {1 << 30} bytes",
    ),
    "a shorter file": (partial(hostile.shrink, None), "a file that is shorter"),
    "deep": (partial(hostile.say, '["list",' * 400 + "1" + "]" * 400), "deep"),
    "deeper": (partial(hostile.say, "[" * 100_000), "recursion"),
    "a stranger's class": (partial(hostile.say, '["class","Popen",1]'), "'Popen' is no class"),
    "no outcome": (partial(hostile.say, '"hello"'), "hello"),
    "ready twice": (
        partial(
            hostile.say, '["class","Ready",["class","Confinement",["tuple"],["dict"]]]'
        ), "Ready",
    ),
    "an endless message": (partial(hostile.flood, None), "Expecting value"),
}  # fmt: skip


def mapped(items, deadline_seconds=60.0, workers=2):
    limits = Limits(deadline_seconds=deadline_seconds)
    return list(process_map(call, items, workers=workers, limits=limits))


@pytest.fixture(scope="module")
def answered():
    """What came of each, with an honest item behind it."""
    items = [item for say, _ in NONSENSE.values() for item in (say, partial(abs, -7))]
    outcomes = mapped(items)
    return dict(zip(NONSENSE, zip(outcomes[::2], outcomes[1::2], strict=True), strict=True))


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_costs_its_own_item(what, answered):
    hostile_one, next_one = answered[what]
    assert hostile_one.status == Status.CRASH
    assert hostile_one.detail.startswith("the decoder answered nonsense: ")
    assert NONSENSE[what][1] in hostile_one.detail
    assert len(hostile_one.detail) < 400
    assert next_one.value == 7


def test_a_file_that_is_cut_while_it_is_read_kills_nobody():
    items = [partial(hostile.shrink_behind, None), partial(abs, -7)] * 3
    outcomes = mapped(items, deadline_seconds=10.0, workers=1)
    for cut, honest in zip(outcomes[::2], outcomes[1::2], strict=True):
        if cut.status == Status.CRASH:
            assert honest.value == 7
        else:  # it was read whole: whoever goes on cutting is given the next item, and is late
            assert cut.value.shape == (64 << 20,)
            assert honest.value == 7 or honest.status == Status.DEADLINE


def test_who_says_a_byte_at_a_time_or_chatters_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(pool, "MESSAGE_SECONDS", 1)
    items = [partial(hostile.drip, None), partial(hostile.chatter, None), partial(abs, -7)]
    drips, chatters, honest = mapped(items, deadline_seconds=4.0, workers=1)
    assert (drips.status, honest.value) == (Status.DEADLINE, 7)
    assert "in the middle of its answer" in drips.detail
    assert chatters.status == Status.DEADLINE
    assert "not done after 4 s" in chatters.detail


def test_nobody_is_left_behind(tmp_path):
    """A child whom no sandbox keeps from starting another process is killed with it."""
    limits = Limits(deadline_seconds=3.0, sandbox=OFF)
    item = partial(hostile.leave_somebody_behind, tmp_path)
    (outcome,) = process_map(call, [item], workers=1, limits=limits)
    assert outcome.status == Status.DEADLINE
    pid = int((tmp_path / "pid").read_text())
    limit = time.monotonic() + 5
    while (state := state_and_parent(pid)) and state[0] != "Z":
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    file = transport.shared_file() if transport.SHARED else None
    inbox = transport.Inbox(ours.fileno(), file)
    yield inbox, transport.Outbox(theirs.fileno(), file), theirs
    inbox.close()
    ours.close()
    theirs.close()


def test_a_message_may_come_in_pieces(ends):
    inbox, _, theirs = ends
    tree, data = hostile.honest(np.arange(5, dtype=np.int16))
    words = hostile.frame(tree, len(data)) + data
    for byte in words[:-1]:
        theirs.send(bytes([byte]))
        assert inbox.receive() is None
        assert inbox.since is not None
    theirs.send(words[-1:])
    message, *_ = inbox.receive()
    assert message.value.tolist() == [0, 1, 2, 3, 4]
    assert inbox.since is None


def test_messages_follow_one_another(ends):
    inbox, outbox, theirs = ends
    for k in range(3):
        outbox.send(Outcome(value=k))
    assert [inbox.receive()[0].value for _ in range(3)] == [0, 1, 2]
    assert inbox.receive() is None
    theirs.close()
    with pytest.raises(EOFError):
        inbox.receive()


@pytest.mark.skipif(not transport.SHARED, reason="no anonymous files here")
def test_the_next_answer_leaves_the_last_one_alone(ends):
    inbox, outbox, _ = ends
    outbox.send(np.full(1 << 20, 1, np.uint8))
    first, held, _ = inbox.receive()
    outbox.send(np.full(1 << 18, 2, np.uint8))
    second, *_ = inbox.receive()
    os.ftruncate(outbox.file, 0)
    assert (first == 1).all()
    assert (second == 2).all()
    assert held >= 1 << 20


@pytest.mark.skipif(not transport.SHARED, reason="no anonymous files here")
def test_the_memory_of_a_large_answer_is_given_back(ends):
    inbox, outbox, _ = ends
    for size, kept in ((1 << 20, True), (transport.KEEP_BYTES + 1, False)):
        outbox.send(np.ones(size, np.uint8))
        inbox.receive()
        assert bool(os.fstat(outbox.file).st_blocks) == kept


def test_without_a_file_all_goes_through_the_pipe():
    ours, theirs = socket.socketpair()
    inbox, outbox = transport.Inbox(ours.fileno(), None), transport.Outbox(theirs.fileno(), None)
    outbox.send(np.arange(9000, dtype=np.int16))
    assert inbox.receive()[0].tolist() == list(range(9000))
    theirs.sendall(hostile.frame("1", 64, True))
    with pytest.raises(wire.Nonsense, match="there is none"):
        inbox.receive()
    inbox.close()
    ours.close()
    theirs.close()
