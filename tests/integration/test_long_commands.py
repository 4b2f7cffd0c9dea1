"""Every command that can take long says how far it is, can be stopped, and keeps to `--memory`.

At its first step and at its last one each is interrupted, and told that there is no more memory:
130 or 2 with one line, no output and nothing half-written, and the same command works afterwards.
"""

import hashlib
import mmap
import shutil
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest

from store import console, progress
from store.errors import ConfigError, NotEnoughMemory
from tests.integration.test_faults_of_commands import (
    FEW,
    called,
    commands,
    inner_commands,
    spoil,
    world,
)
from tests.integration.test_options import options

__all__ = ["world"]

# Their time does not grow with clips: they list, or wait for a person, who sees what goes on.
SHORT = {
    "extract encoders", "extract layouts", "extract samplers", "extract texts",
    "extract weights list",
    "learn augmentations", "learn fusions", "learn heads", "learn loggers", "learn protocols",
    "learn recipes", "learn strategies", "learn tasks", "store formats", "learn annotate",
}  # fmt: skip
# Stopped where they are tested themselves: with a server, and with networks that learn.
ELSEWHERE = {
    "extract weights fetch": "tests/extract/weights/test_fetch.py",
    "learn benchmark": "tests/learn/evaluation/test_frozen.py",
    "learn finetune": "tests/integration/test_finetune.py",
    "learn try": "tests/integration/test_readme.py",
}
SCRATCH = ("index", "tmp")  # of a store: caches, and staging that is never read


def every_command(world, out):
    """A line for each that is tried; what it writes goes to `out`, what it changes lies there."""
    spoilt, path = out / "spoilt", out / "store"
    if not path.exists():
        shutil.copytree(world / "store", path)
        shutil.copytree(world / "store", spoilt)
        spoil(spoilt)
    made = commands(world, out)
    exports = [name for name in made if name.startswith("store export ")]
    made["store export"] = made[exports[0]]
    clips, support = world / "clips.csv", world / "support.csv"
    encoder = ("--visual", "mobilenetv2:untrained", "--workers", "1")
    manifest = world / "manifest.csv"
    if not manifest.exists():
        rows = [line.split(",") for line in support.read_text().splitlines()[1:]]
        text = "".join(f"{clip},{label}\n" for clip, label in rows)
        manifest.write_text("path,label\n" + text)
        told = "".join(f"{clip},a clip of {label}\n" for clip, label in rows)
        (world / "texts.csv").write_text("clip_id,text\n" + told)
    return {name: line for name, line in made.items() if name not in exports} | {
        **inner_commands(path),
        "store repair": ("store", "repair", spoilt),
        "store gc": ("store", "gc", spoilt, "--older-than", "0s"),
        "store info": ("store", "info", path),
        "store verify": ("store", "verify", path, "--deep"),
        "store doctor": ("store", "doctor", out / "elsewhere"),
        "extract plan": ("extract", "plan", clips, "--store", out / "new", *encoder),
        "extract status": ("extract", "status", manifest, "--store", path),
        "extract text": ("extract", "text", world / "texts.csv", "--store", path),
        "learn search": ("learn", "search", path, "class000/clip000000.mp4"),
        "learn predict": (
            *("learn", "predict", path, "--support", support, "--by", "prototypes"),
            *("-o", out / "a.csv"),
        ),
        "learn groups": ("learn", "groups", path, "-o", out / "g.csv"),
        "learn split": ("learn", "split", manifest, "-o", out / "s.csv", "--by", "clips"),
        "learn compare": ("learn", "compare", world / "result", world / "result2"),
    }


NAMES = sorted(set(options()) - SHORT - set(ELSEWHERE))
BOUNDED = sorted(
    name for name in NAMES if "memory" in options()[name]
    and name not in ("learn train", "learn episodes")  # there it is a share, kept by what streams
)  # fmt: skip


class Steps:
    """Hears how far a command is, and ends it at one of the steps."""

    def __init__(self, end=None, error=None):
        self.heard, self.end, self.error = [], end, error

    def step(self, *how_far):
        self.heard.append(how_far)
        if self.end is not None and len(self.heard) > self.end:
            self.end = None
            raise self.error

    @contextmanager
    def progress(self, noun, *, quiet):
        with progress.listening(self.step):
            yield lambda done, total, message="", status="": self.step(noun, done, total)


def tree(*folders):
    """Every file but caches and staging, by a digest of its bytes."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(path.relative_to(folder).parts) & set(SCRATCH)
    }


@pytest.fixture(scope="module")
def second(world):
    """Another result, to compare with."""
    made = ("learn", "episodes", world / "store", *FEW, "--head", "ridge", "-o", world / "result2")
    assert called(made)[0] == 0


@pytest.fixture
def ended(world, second, tmp_path, monkeypatch, capsys):
    """A function that ends a command at a step of its own, in a folder of its own."""

    def ended(name, *more, end=None, error=None):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        line = every_command(world, out)[name]
        (world / "m.csv").unlink(missing_ok=True)
        before = tree(world, out)
        steps = Steps(end, error)
        with monkeypatch.context() as patched:
            patched.setattr(console, "progress", steps.progress)
            code, err = called((*line, *more), capsys)
        return code, err, steps.heard, before, tree(world, out), line

    return ended


def test_every_command_is_tried_or_short(world, tmp_path):
    assert set(every_command(world, tmp_path)) == set(NAMES)
    assert set(options()) >= SHORT | set(ELSEWHERE)


# Resumed where they are tested themselves.
SLOW = {
    "extract plan", "extract run", "extract synth", "extract weights convert", "learn report",
    "learn sweep",
}  # fmt: skip
KEPT = {  # of these what is finished stays: units, parts, runs, clips
    "extract run", "extract synth", "store import", "store merge", "store rename", "store gc",
    "store repair", "learn train", "learn sweep", "learn labels", "extract text",
}  # fmt: skip
GO_ON = KEPT - {"learn train", "learn labels"} | {"store remove"}


@pytest.mark.parametrize("name", NAMES)
def test_it_tells_its_steps_and_can_be_ended_at_each(ended, world, capsys, name):
    code, err, heard, *_ = ended(name)
    assert code in (0, 1), err
    assert heard, "it tells nothing"
    ends = {len(heard) - 1} if name in SLOW else {0, len(heard) - 1}
    for end in sorted(ends):
        code, err, _, before, after, line = ended(name, end=end, error=KeyboardInterrupt())
        assert code == console.STOPPED, (end, code, err)
        said = err.splitlines()[-1]
        assert said.startswith("stopped; ")
        if name != "learn train":  # which goes on with --resume, once there is a checkpoint
            assert ("to go on" in said, "begins anew" in said) == (name in GO_ON, name not in GO_ON)
        if name not in KEPT:
            assert after == before, end
        if name not in SLOW:
            resume = ("--resume",) if name == "learn train" else ()
            code, err = called((*line, *resume), capsys)
            assert code in (0, 1), (end, err)


@pytest.mark.parametrize("name", BOUNDED)
def test_memory_that_does_not_suffice_is_said_in_a_line(ended, name):
    heard = ended(name)[2]
    for end in {0, len(heard) - 1}:
        code, err, _, before, after, _ = ended(
            name, "--memory", "64GiB", end=end, error=MemoryError()
        )
        assert code == console.FIXABLE, (end, err)
        (said,) = [line for line in err.splitlines() if line.startswith("error[")]
        assert said.startswith("error[memory]: --memory 64GiB is not enough"), said
        if name not in KEPT:
            assert after == before


def taking(mebibytes):
    """Takes new memory bit by bit, as work does; not what others of this process gave back."""
    taken = []
    for _ in range(mebibytes):
        taken.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        taken[-1].write(b"1" * (1 << 20))
        time.sleep(0.002)
    return len(taken)


def test_memory_is_looked_at():
    with pytest.raises(NotEnoughMemory, match="`memory` 16MiB is not enough here"), \
            console.within("16MiB"):  # fmt: skip
        taking(400)
    with console.within("1GiB"):
        assert taking(100) == 100
    time.sleep(0.05)  # nobody looks any more
    assert taking(100) == 100


def test_memory_is_looked_at_where_interrupts_are_ignored():
    """As in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(NotEnoughMemory), console.within("16MiB"):
            taking(400)
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_files_that_are_mapped_do_not_count(tmp_path):
    np.ones(1 << 23).tofile(tmp_path / "file")
    with console.within("8MiB"):
        assert np.memmap(tmp_path / "file", np.float64, "r").sum() == 1 << 23
        time.sleep(0.1)


def test_other_ends_pass():
    with pytest.raises(KeyboardInterrupt), console.within("1GiB"):
        raise KeyboardInterrupt
    with pytest.raises(ConfigError, match="no size"), console.within("much"):
        pass
