"""Each deed of `hostile.py` is refused in a real decode process, and succeeds in one that is not
confined: a deed that fails anyway would prove nothing.
"""

import ctypes
import errno
import os
import platform
import shutil
import socket
import subprocess
import sys
from functools import partial
from operator import call
from pathlib import Path

import pytest

from extract.processes import landlock, sandbox, seccomp, slot
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import OFF, Confinement, Sandbox, confine
from store import Status
from store.errors import ConfigError
from tests.extract.processes import hostile

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the sandbox is Linux's",
)
DEEDS = (
    hostile.read_outside, hostile.read_through_a_descriptor, hostile.list_outside,
    hostile.write, hostile.write_in_media, hostile.append, hostile.truncate, hostile.rename,
    hostile.link, hostile.make_folder, hostile.change_mode, hostile.change_times, hostile.remove,
    hostile.make_socket, hostile.connect, hostile.connect_unix, hostile.make_pair,
    hostile.run_program, hostile.fork, hostile.load_program_of_another_user, hostile.trace,
    hostile.read_parents_memory_file, hostile.read_parents_environment,
    hostile.read_parents_memory, hostile.signal_parent, hostile.signal_parents_thread,
    hostile.signal_group, hostile.kill, hostile.open_parents_pid, hostile.limit_parent,
    hostile.slow_parent_down, hostile.raise_limits, hostile.open_many_files,
    hostile.outlive_parent, hostile.make_memory_file, hostile.share_memory, hostile.watch_folder,
    hostile.make_ring, hostile.change_user, hostile.use_capability, hostile.change_root,
)  # fmt: skip
# What an ordinary user may not do anyway, or not everywhere; and what a kernel may lack.
PRIVILEGED = (
    hostile.trace, hostile.read_parents_memory_file, hostile.read_parents_environment,
    hostile.read_parents_memory, hostile.raise_limits, hostile.use_capability, hostile.change_root,
    hostile.limit_parent,
)  # fmt: skip
OPTIONAL = (hostile.make_ring, hostile.share_memory)


def in_child(items, how, function=call, **more):
    limits = Limits(deadline_seconds=30.0, sandbox=how)
    return list(process_map(function, items, workers=1, limits=limits, **more))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What became of each deed in a confined process, and in one that is not."""
    canary = ctypes.create_string_buffer(b"canary", 6)
    results = []
    for how in ("auto", "off"):
        folder = tmp_path_factory.mktemp(how)
        place, media = folder / "outside", folder / "media"
        place.mkdir()
        media.mkdir()
        (place / "secret").write_text("s")
        shutil.copy("/bin/true", place / "setuid")
        (place / "setuid").chmod(0o4755)
        (place / "address").write_text(f"{ctypes.addressof(canary)} 6")
        sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
        for name, sleeper in zip(("victim", "mortal"), sleepers, strict=True):
            (place / name).write_text(str(sleeper.pid))
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as s:
            (place / "port").write_text(str(listener.getsockname()[1]))
            s.bind(str(place / "socket"))
            s.listen()
            # What the deeds are told lies outside: the confined process is given it as media.
            told = media / "told"
            told.mkdir()
            for name in ("address", "victim", "mortal", "port"):
                shutil.copy(place / name, told / name)
            places = [told if deed in TOLD else place for deed in DEEDS]
            (told / "socket").symlink_to(place / "socket")
            box = Sandbox(mode=how, readable=(media,))
            items = [partial(deed, at) for deed, at in zip(DEEDS, places, strict=True)]
            results.append(dict(zip(DEEDS, in_child(items, box), strict=True)))
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
    return results


# Deeds that must read what they are told before they can be refused.
TOLD = (
    hostile.trace, hostile.read_parents_memory, hostile.kill, hostile.connect,
    hostile.connect_unix,
)  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_a_confined_process_is_refused(deed, done):
    confined, free = (results[deed] for results in done)
    assert confined.status == Status.CRASH, confined
    refusal = ("PermissionError", "Operation not permitted", "not allowed", "Too many open files")
    assert any(word in confined.detail for word in refusal), confined.detail
    assert confined.confinement.layers == tuple(sandbox._LAYERS)
    if free.status != Status.OK and deed in PRIVILEGED + OPTIONAL:
        pytest.skip(f"refused anyway here: {free.detail}")
    assert free.status == Status.OK, free.detail
    assert free.confinement.layers == ()


def test_every_deed_is_tried():
    functions = [f for f in vars(hostile).values() if hasattr(f, "__code__")]
    deeds = {f for f in functions if f.__code__.co_varnames[:1] == ("place",)}
    apart = {
        hostile.exec_program, hostile.call_as_32_bit, hostile.use_threads, hostile.end_itself,
        hostile.leave_somebody_behind,
    }  # fmt: skip
    assert deeds - apart == set(DEEDS)


def test_what_would_end_the_process_is_refused_too(tmp_path):
    """And what a process must be able to do: threads, and to end itself."""
    deeds = (hostile.exec_program, hostile.call_as_32_bit, hostile.use_threads, hostile.end_itself)
    items = [partial(deed, tmp_path) for deed in deeds]
    execs, foreign, threads, ends = in_child(items, Sandbox())
    assert "PermissionError" in execs.detail
    assert threads.value == list(range(8))
    assert ends.detail == "the decoder died: SIGABRT"
    free = in_child(items, OFF)
    assert free[0].detail == "the decoder died: exit code 9"
    assert (free[2].value, free[3].detail) == (threads.value, ends.detail)
    if platform.machine() == "x86_64":
        assert foreign.detail == "the decoder died: SIGSYS"
        assert free[1].status == Status.OK or "SIGSEGV" in free[1].detail  # a kernel without


def report_without(name, error, mode="auto"):
    """The confinement of a process on whose kernel a layer fails so; for children."""

    def fail(*_):
        raise error

    sandbox._LAYERS[name] = fail
    return confine(Sandbox(mode=mode))


def test_where_a_layer_is_missing_the_others_hold_and_it_is_said():
    lack = OSError(errno.ENOSYS, "x")
    (outcome,) = in_child([partial(report_without, "landlock", lack)], OFF)
    assert outcome.value.layers == ("rlimits", "no_new_privs", "seccomp")
    assert outcome.value.missing == {"landlock": "this kernel has none"}


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EOPNOTSUPP, "x"), "switched off when the system was started"),
        (OSError(errno.EPERM, "x"), "not permitted here, by a container's own filter perhaps"),
        (OSError(errno.E2BIG, "odd"), "odd"),
        (LookupError("no filter for riscv64 processors"), "no filter for riscv64 processors"),
    ],
)
def test_why_a_layer_is_missing_is_said_in_words(error, why):
    assert sandbox._why(error) == why


def test_a_layer_alone_still_keeps_files_from_being_written(tmp_path):
    """Rules and filter each bar it, so that an old kernel does not leave it open."""
    for name in ("landlock", "seccomp"):
        (outcome,) = in_child([partial(write_without, name, tmp_path)], OFF)
        assert "PermissionError" in outcome.detail, name
    assert list(tmp_path.iterdir()) == []


def write_without(name, place):
    report_without(name, OSError(38, "x"))
    hostile.write(place)


def test_a_sandbox_that_is_required_and_not_whole_stops_the_run(monkeypatch):
    boot = boot_without_landlock()
    monkeypatch.setattr(slot, "_BOOT", boot)
    with pytest.raises(ConfigError, match=r"landlock: this kernel has none.*--sandbox"):
        in_child([os.getpid], Sandbox(mode="require"))
    (outcome,) = in_child([os.getpid], Sandbox())
    assert outcome.confinement.missing == {"landlock": "this kernel has none"}


def boot_without_landlock():
    """The start of a child on whose kernel there is none."""
    serve = "from extract.processes.child import serve; "
    assert serve in slot._BOOT
    lacking = "import extract.processes.landlock as l; l._CREATE_RULESET = 9999; "
    return slot._BOOT.replace(serve, serve + lacking)


def test_required_and_whole_it_goes_on():
    (outcome,) = in_child([os.getpid], Sandbox(mode="require"))
    assert outcome.confinement == Confinement(layers=tuple(sandbox._LAYERS))


def test_threads_that_imports_started_are_no_secret():
    (outcome,) = in_child([confine_beside_a_thread], OFF)
    assert "started threads" in outcome.value.missing["landlock"]


def confine_beside_a_thread():
    import threading

    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return confine(Sandbox())


def test_what_holds_for_all_children_is_what_holds_for_each():
    whole = Confinement(layers=("a", "b"))
    part = Confinement(layers=("a",), missing={"b": "none"})
    assert whole.and_of(None) == whole
    assert whole.and_of(part) == part.and_of(whole) == part


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="there are auto"):
        Sandbox(mode="of")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_decides_as_it_should(machine):
    """The program, run by hand: another architecture cannot be had here."""
    column = seccomp._MACHINES[machine][0]
    run = partial(verdict, list(seccomp.program(machine, 4711)), seccomp._MACHINES[machine][1])
    refused, refusal = seccomp.refused(machine), seccomp._ERROR
    assert len(set(refused.values())) == len(refused) > 100
    assert {run(number) for number in refused.values()} == {refusal | 1}
    assert run(435) == run(437) == refusal | 38  # clone3, openat2
    free = set(range(500)) - set(refused.values()) - {435, 437}
    asked = {calls[column] for calls in (
        seccomp._OPEN, seccomp._OPENAT, seccomp._CLONE, seccomp._KILL, seccomp._TGKILL,
        seccomp._PRCTL, seccomp._PRLIMIT, seccomp._IOCTL,
    )}  # fmt: skip
    assert {run(number) for number in free - asked} == {seccomp._ALLOW}
    allow, no = seccomp._ALLOW, refusal | 1
    for calls, words, expected in (
        (seccomp._OPENAT, (0, 0, os.O_RDONLY | os.O_CLOEXEC), allow),
        (seccomp._OPENAT, (0, 0, os.O_WRONLY), no),
        (seccomp._OPENAT, (0, 0, os.O_RDWR), no),
        (seccomp._OPENAT, (0, 0, os.O_CREAT), no),
        (seccomp._OPENAT, (0, 0, os.O_TRUNC), no),
        (seccomp._CLONE, (0x3D0F00,), allow),  # a thread
        (seccomp._CLONE, (17,), no),
        (seccomp._KILL, (4711,), allow),
        (seccomp._KILL, (4712,), no),
        (seccomp._TGKILL, (4711,), allow),
        (seccomp._TGKILL, (1,), no),
        (seccomp._PRCTL, (1,), no),
        (seccomp._PRCTL, (15,), allow),
        (seccomp._PRLIMIT, (0,), allow),
        (seccomp._PRLIMIT, (1,), no),
        (seccomp._IOCTL, (0, 0x5401), allow),
        (seccomp._IOCTL, (0, 0x5412), no),
        (seccomp._IOCTL, (0, 0x541C), no),
    ):
        assert run(calls[column], words) == expected, (calls, words)
    if machine == "x86_64":
        assert run(2, (0, os.O_WRONLY)) == no
        assert run(0x40000000 | 39) == no
    other = verdict(list(seccomp.program(machine, 1)), 0x40000003, 20)
    assert other == seccomp._KILL_PROCESS


def verdict(program, machine, number, words=()):
    """What a filter says of a call."""
    data = {0: number, 4: machine} | {16 + 8 * k: word for k, word in enumerate(words)}
    at, held = 0, 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        match code:
            case seccomp._RETURN:
                return operand
            case seccomp._LOAD:
                held = data.get(operand, 0)
            case seccomp._EQUAL:
                at += yes if held == operand else no
            case seccomp._AT_LEAST:
                at += yes if held >= operand else no
            case seccomp._ANY_BIT:
                at += yes if held & operand else no


def test_a_rule_about_what_is_not_there_is_none(tmp_path):
    (outcome,) = in_child([os.getpid], Sandbox(readable=(tmp_path / "gone", Path("/proc/1/mem"))))
    assert outcome.status == Status.OK
    assert landlock.version() >= 1
