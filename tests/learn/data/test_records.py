"""Run directories of strangers: every field changed to every other kind of value, one at a time."""

import json
import os
import shutil

import numpy as np
import pytest

import learn
from learn.data import records
from learn.evaluation.results import load_result
from learn.fewshot import episode_files
from learn.reporting.inputs import read_inputs
from learn.training.runs import load_run
from store.errors import InputError, MicroshotError

OTHERS = (None, True, -1.0, 1e300, 1.5, "x", [], {}, [[]], {"x": []})


@pytest.fixture(scope="module")
def directories(paired, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    quick = ("optimiser.epochs=1", "projection.hidden=4", "projection.dim_out=4")
    learn.train(paired, "infonce", settings=quick, run_dir=folder / "run")
    few = {"ways": 2, "shots": (1,), "queries": 2, "episodes": 4}
    learn.run_episodes(paired, **few, projections=("none", folder / "run")).save(folder / "result")
    learn.run_protocol(paired, "linear:folds=2", split="test").save(folder / "evaluation")
    return folder


def changed(value):
    """Copies with one value changed or one key gone; of lists, in the first item."""
    for other in OTHERS:
        if type(other) is not type(value) or other != value:
            yield other
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: inner} for inner in changed(value[key]))
    elif isinstance(value, list) and value:
        yield from ([inner, *value[1:]] for inner in changed(value[0]))


@pytest.mark.parametrize(
    ("directory", "file", "step"),
    [
        ("result", "result.json", 23),
        ("result", "answers.json", 17),
        ("evaluation", "evaluation.json", 23),
        ("run", "done.json", 11),
        ("run", "config.json", 97),
        ("run", "provenance.json", 29),
        *(
            pytest.param(*case, 1, marks=pytest.mark.soak)
            for case in (
                ("result", "result.json"),
                ("result", "answers.json"),
                ("evaluation", "evaluation.json"),
                ("run", "done.json"),
                ("run", "config.json"),
                ("run", "provenance.json"),
            )
        ),
    ],
)
def test_a_changed_field_is_read_or_refused_in_one_line(
    directories, tmp_path, directory, file, step
):
    """Digests are made to fit, as somebody who wants to do harm would."""
    copy = tmp_path / directory
    shutil.copytree(directories / directory, copy)
    original = json.loads((copy / file).read_text())
    seen = {"read": 0, "refused": 0}
    for number, value in enumerate(changed(original)):
        if number % step:
            continue
        (copy / file).write_text(json.dumps(value))
        if directory == "run" and file != "done.json":
            forge(copy)
        try:
            learn.report((copy,), tmp_path / f"{number}.html", map_by="none")
            seen["read"] += 1
        except MicroshotError:
            seen["refused"] += 1
    assert seen["refused"] > 3


def forge(run):
    done = json.loads((run / "done.json").read_text())
    done["files"] = {name: sha256(run / name) for name in done["files"]}
    (run / "done.json").write_text(json.dumps(done))


def sha256(path):
    from hashlib import sha256 as digest

    return digest(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("files", [{}, {"config.json": ""}, {"/dev/zero": "0" * 64}])
def test_a_run_that_lists_other_files_than_its_own_is_refused(directories, tmp_path, files):
    run = tmp_path / "run"
    shutil.copytree(directories / "run", run)
    done = json.loads((run / "done.json").read_text())
    listed = files if not files else {**done["files"], **files}
    if files == {"config.json": ""}:
        del listed["config.json"]
    (run / "done.json").write_text(json.dumps({**done, "files": listed}))
    with pytest.raises(InputError, match="does not list the files of a run"):
        load_run(run)


@pytest.mark.parametrize("name", ["done.json", "config.json", "weights.safetensors"])
def test_pipes_and_devices_are_not_waited_for(directories, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(directories / "run", run)
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(MicroshotError):
        load_run(run)
    (run / name).unlink()
    (run / name).symlink_to("/dev/zero")
    with pytest.raises(MicroshotError):
        load_run(run)


@pytest.mark.parametrize("shape", [(10**12,), (1, 10**9), (0,), (2, 3)])
def test_numbers_that_a_header_only_promises(tmp_path, shape):
    path = tmp_path / "a.npy"
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(48))
    if shape == (2, 3):
        assert records.read_numbers(path).shape == shape
    else:
        with pytest.raises(InputError, match="does not hold the numbers"):
            records.read_numbers(path)


def test_what_is_read_is_what_was_written(directories):
    saved = load_result(directories / "result")
    table = np.load(directories / "result" / "accuracy.npy")
    np.testing.assert_array_equal(np.stack(saved.of_episodes), table)
    assert read_inputs((directories / "evaluation",)).evaluations[0].record["protocol"] == "linear"
    ids, labels = episode_files.labelled(directories / "result" / "episodes.safetensors")
    assert len(ids) == len(labels) > 0
