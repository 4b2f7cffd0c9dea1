"""Every command that writes, on a disk that refuses: one line, exit code 2, nothing left, and the
same command works once there is room."""

import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

import cli
import store
from store import testing
from tests.extract import media_files as media
from tests.extract.weights.test_convert import bundle, created
from tests.store.faults import Injector

MAINS = {"extract": cli.extract_main, "store": cli.store_main, "learn": cli.learn_main}
QUICK = ("--set", "optimiser.epochs=1", "--set", "projection.hidden=4")
FEW = ("--ways", "2", "--shots", "1", "--queries", "2", "--episodes", "4")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store, another one, clips, and support for a prediction."""
    folder = tmp_path_factory.mktemp("world")
    fs = testing.fill(folder / "store", clips=60, rows=2, dim=8, classes=4, disjoint=False)
    testing.fill(folder / "other", clips=20, rows=2, dim=8, classes=4)
    manifest = fs.manifest()
    labels = manifest.table["label"]
    rows = [f"{c},{x}" for c, x in zip(manifest.clip_ids, labels, strict=True)][:24]
    (folder / "support.csv").write_text("clip_id,label\n" + "\n".join(rows) + "\n")
    for name in ("a", "b"):
        (folder / "clips" / name).mkdir(parents=True)
        media.write(folder / "clips" / name / "1.mp4", range(0, 400, 40))
    (folder / "clips.csv").write_text("path\nclips/a/1.mp4\nclips/b/1.mp4\n")
    exported = ["store", "export", folder / "store", "--format", "npz", "-o", folder / "f.npz"]
    assert called([*exported, "--feature", fs.features[0]])[0] == 0
    names = sorted(set(labels))
    (folder / "names.csv").write_text(
        "name,0,1\n" + "".join(f"{n},{i},1\n" for i, n in enumerate(names))
    )
    zeros = {name: np.zeros(shape, "float32") for name, shape in created(50, 1, False).items()}
    bundle.write(folder / "model.ckpt-1", zeros)
    made = ["learn", "episodes", folder / "store", *FEW, "-o", folder / "result"]
    assert called(made)[0] == 0
    return folder


def commands(world, out):
    """What each command writes goes to `out`, a directory that is there."""
    store, feature = world / "store", "synthetic-visual"
    new_store = ("--store", out / "new")
    formats = ("npz", "hdf5", "parquet", "simpleshot")
    clips = ("extract", "run", world / "clips.csv", "--visual", "mobilenetv2:untrained")
    return {
        "extract manifest": (  # it lies at or above its media
            *("extract", "manifest", "folder", world / "clips", "-o", world / "m.csv"),
        ),
        "extract synth": ("extract", "synth", out / "s", "--classes", "1", "--clips", "1"),
        "extract run": (*clips, *new_store, "--workers", "1"),
        "store import": ("store", "import", world / "f.npz", "--format", "npz", *new_store),
        "store merge": ("store", "merge", out / "new", world / "other"),
        **{
            f"store export {form}": (
                *("store", "export", store, "--format", form),
                *("--feature", feature, "-o", out / f"f.{form}"),
            )
            for form in formats
        },
        "learn train": ("learn", "train", store, "--recipe", "infonce", *QUICK, "-o", out / "r"),
        "learn sweep": (
            *("learn", "sweep", store, "--recipe", "infonce", *QUICK),
            *("--grid", "optimiser.seed=0,1", "-o", out / "w"),
        ),
        "learn episodes": ("learn", "episodes", store, *FEW, "-o", out / "e"),
        "learn evaluate": ("learn", "evaluate", store, "--protocol", "retrieval", "-o", out / "v"),
        "extract weights convert": (
            *("extract", "weights", "convert", world / "model.ckpt-1"),
            *("--encoder", "simclrv2:variant=r50_1x_sk0", "-o", out / "c.safetensors"),
        ),
        "learn labels": (
            *("learn", "labels", store, "--from", world / "names.csv", "-o", out / "l.csv"),
        ),
        "learn predict": (
            *("learn", "predict", store, "--support", world / "support.csv", "-o", out / "a.csv"),
        ),
        "learn report": (
            "learn",
            "report",
            world / "result",
            "--map",
            "none",
            "-o",
            out / "p.html",
        ),
    }


def called(words, capsys=None):
    """Exit code and standard error of a command in this process."""
    before, sys.argv = sys.argv, [str(word) for word in words]
    try:
        with pytest.raises(SystemExit) as exit_:
            MAINS[words[0]]()
    finally:
        sys.argv = before
    return exit_.value.code or 0, capsys.readouterr().err if capsys else ""


@contextmanager
def files_no_larger_than(size):
    """What a full disk is to this process. Python must write no bytecode meanwhile: it would be
    torn, and break every later import. Commands that start processes are not for this.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = bytecode


@contextmanager
def mounted(folder, *options):
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def refusing(place, folder):
    """A directory in which nothing, or little, can be written."""
    if place == "full":
        with files_no_larger_than(40):
            yield folder
    elif place == "read-only":
        with mounted(folder, "size=1m", "ro"):
            yield folder
    elif place == "full tmpfs":
        with mounted(folder, "size=8k"):
            yield folder
    else:
        (folder / "file").write_text("in the way")
        yield folder / "file"


NAMES = [
    "extract manifest", "extract synth", "extract run", "extract weights convert",
    "store import", "store merge",
    "store export npz", "store export hdf5", "store export parquet", "store export simpleshot",
    "learn train", "learn sweep", "learn episodes", "learn evaluate", "learn labels",
    "learn predict", "learn report",
]  # fmt: skip
PLACES = ["full", "in the way", "read-only", "full tmpfs"]
WITH_PROCESSES = ("extract run", "extract synth")
IN_EVERY_RUN = {("full", name) for name in NAMES if name != "learn sweep"} | {
    ("in the way", name) for name in ("learn predict", "store import")
}


@pytest.mark.parametrize(
    ("place", "name"),
    [
        pytest.param(place, name, marks=() if (place, name) in IN_EVERY_RUN else pytest.mark.soak)
        for name in NAMES
        for place in PLACES
        if (name != "extract manifest" if place != "full" else name not in WITH_PROCESSES)
    ],
)
def test_a_disk_that_refuses_is_one_line_and_in_nobodys_way(
    world, tmp_path, capsys, monkeypatch, place, name
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / "out"
    folder.mkdir()
    with refusing(place, folder) as out:
        before = sorted(path.name for path in folder.iterdir())
        code, err = called(commands(world, out)[name], capsys)
        left = sorted(path.name for path in folder.iterdir())
        if place == "full tmpfs":
            for entry in folder.iterdir():  # the room that a user makes
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    said = [line for line in err.splitlines() if line.startswith("error[")]
    if place == "full tmpfs" and code in (0, 1):
        return  # it fits
    assert (code, len(said)) == (2, 1), err
    assert "Traceback" not in err
    resumable = {"new": "extract run store import store merge", "w": "learn sweep"}
    assert [x for x in left if x not in before and name not in resumable.get(x, "")] == []
    assert not (world / "m.csv").exists()
    if place == "full":
        code, err = called(commands(world, folder)[name], capsys)
        assert code in (0, 1), err
        (world / "m.csv").unlink(missing_ok=True)


def inner_commands(path):
    """Those that change a store where it lies."""
    feature = "synthetic-visual"
    return {
        "store view": ("store", "view", path, feature),
        "store gc": ("store", "gc", path, "--older-than", "0s"),
        "store repair": ("store", "repair", path),
        "store remove": ("store", "remove", path, feature),
        "store rename": ("store", "rename", path, feature, "renamed"),
    }


INNER = ["store view", "store gc", "store repair", "store remove", "store rename"]


def spoil(path):
    """Work for every one of them: a damaged unit, one that no record names, a strange file."""
    fs = store.open(path)
    damaged, lost = sorted(path.glob("commits/*/u-*.json"))[:2]
    (part,) = path.glob(f"data.zarr/*/parts/{damaged.stem}-*")
    (part / "status" / "c" / "0").unlink()
    lost.unlink()
    (path / "tmp").mkdir(exist_ok=True)
    (path / "tmp" / "u-torn").mkdir()
    return fs


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("place", ["full", pytest.param("read-only", marks=pytest.mark.soak)])
def test_a_store_on_a_disk_that_refuses_stays_as_it_is(world, tmp_path, capsys, name, place):
    folder = tmp_path / "disk"
    folder.mkdir()
    path = folder / "store"
    with mounted(folder, "size=64m") if place == "read-only" else nullcontext():
        shutil.copytree(world / "store", path)
        if name in ("store gc", "store repair"):
            spoil(path)
        command = inner_commands(path)[name]
        if place == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
            code, err = called(command, capsys)
            subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        else:
            with files_no_larger_than(40):
                code, err = called(command, capsys)
        said = [line for line in err.splitlines() if line.startswith("error[")]
        if code not in (0, 1):  # moving and deleting need no room
            assert (code, len(said)) == (2, 1), err
            code, err = called(command, capsys)
        assert code in (0, 1), err
        assert place == "full" or said
        if name == "store rename":
            assert [f for f in store.open(path).features if f.startswith("renamed")]
        code, err = called(("store", "repair", path), capsys)
        assert called(("store", "verify", path), capsys)[0] == 0


VANISHING = [name for name in NAMES if name not in ("extract manifest", "extract synth")]


@pytest.mark.parametrize(
    ("name", "share"),
    [
        pytest.param(
            name, share, marks=() if share == 0.5 and name != "learn sweep" else pytest.mark.soak
        )
        for name in VANISHING
        for share in (0.0, 0.25, 0.5, 0.75)
    ],
)
def test_a_mount_that_vanishes_is_one_line(world, tmp_path, capsys, monkeypatch, name, share):
    """In the middle of writing the directory is no longer there; later it comes back."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    counted, folder, away = (tmp_path / word for word in ("counted", "out", "away"))
    counted.mkdir()
    with Injector(counted) as injector:
        assert called(commands(world, counted)[name], capsys)[0] in (0, 1)
    changes = len(injector.events)
    assert changes

    def vanish(number, kind, where):
        if number == int(share * changes):
            folder.rename(away)

    folder.mkdir()
    with Injector(folder, vanish):
        code, err = called(commands(world, folder)[name], capsys)
    said = [line for line in err.splitlines() if line.startswith("error[")]
    assert "Traceback" not in err
    if away.exists():
        assert (code, len(said)) == (2, 1) or code in (0, 1), err
        shutil.rmtree(folder, ignore_errors=True)  # made anew by a command that makes its parents
        away.rename(folder)
    if code == 2:
        again = commands(world, folder)[name]
        resumed = [*again, "--resume"] if name == "learn train" else again
        code, err = called(resumed, capsys)
        assert code in (0, 1), err
