"""From clips to weights to features to answers: what `learn finetune` makes is used and told."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cli
import learn
import store
from extract.datasets import synth
from store.errors import MicroshotError

NETWORK = "simclrv2:variant=r50_1x_sk0,narrow=8,side=32"
QUICK = ("optimiser.epochs=2", "optimiser.batch_size=16", "data.frames=1", "data.looks=2")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune") / "clips"
    synth.render(folder, classes=8, clips=4, seconds=0.4, groups=2, workers=2)
    table = (folder / "manifest.csv").read_text().splitlines()
    header, rows = table[0].split(","), [line.split(",") for line in table[1:]]
    label, split = header.index("label"), header.index("split")
    for row in rows:  # six classes to learn, two to ask about
        row[split] = "val" if row[label] in ("class_006", "class_007") else "train"
    text = "\n".join(",".join(row) for row in (header, *rows))
    (folder / "manifest.csv").write_text(text)
    return folder


def run(app, *words, capsys):
    code = app([str(word) for word in words], standalone_mode=False)
    return code, capsys.readouterr().out


def test_clips_to_weights_to_answers(clips, tmp_path, capsys):
    weights, features = tmp_path / "run", tmp_path / "store"
    changes = [word for change in QUICK for word in ("--set", change)]
    code, out = run(
        cli.learn_app, "finetune", clips, "--recipe", "supervised", "--visual",
        f"{NETWORK},untrained", "--seed", "1", "--workers", "1", "--sandbox", "off", "--device",
        "cpu", *changes, "-o", weights, "--json", capsys=capsys,
    )  # fmt: skip
    result = json.loads(out)
    assert code == 0
    assert (result["clips"], result["classes"], result["val_clips"]) == (24, 6, 8)
    assert result["gains"]
    assert result["specs"]["visual"] == f"{NETWORK},weights={weights}/visual.safetensors"
    assert (weights / "command.txt").is_file()

    code, out = run(
        cli.extract_app, "run", clips, "--store", features, "--visual", result["specs"]["visual"],
        "--frames", "2", "--device", "cpu", "--workers", "1", "--sandbox", "off", "--json",
        capsys=capsys,
    )  # fmt: skip
    assert code == 0
    (feature,) = store.open(features).features
    spec = store.open(features)[feature].spec
    (entry,) = spec.identity["weights"]["lineage"]
    assert entry["parent"] == {"untrained": True, "seed": 1}
    assert entry["clips"] == 24
    assert "untrained" not in feature

    of_train, of_val = (
        learn.run_episodes(features, split=split, ways=2, queries=2, episodes=20)
        for split in ("train", "val")
    )
    assert [row.seen_in_training for row in of_train.results] == [24]
    assert [row.seen_in_training for row in of_val.results] == [0]
    results = learn.run_protocol(features, protocol="linear:folds=2", split="train").findings
    assert {finding.seen_in_training for finding in results} == {24}


def test_the_lines_say_what_was_gained_and_how_to_go_on(clips, tmp_path, capsys):
    changes = [word for change in QUICK for word in ("--set", change)]
    code, out = run(
        cli.learn_app, "finetune", clips, "--recipe", "supervised", "--visual",
        f"{NETWORK},untrained", "--memory", "100kB", "--workers", "1", "--sandbox", "off",
        "--set", "optimiser.epochs=1", *changes[2:], "-o", tmp_path / "run", capsys=capsys,
    )  # fmt: skip
    assert code == 0
    assert "2 classes of split 'val'" in out.replace("\n    ", " ")
    assert f"use: extract run CLIPS --store DIR --visual {NETWORK},weights=" in out.replace(
        "\n", ""
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--recipe", "audio_unlabelled", "--visual", f"{NETWORK},untrained"), "trains .* `audio`"),
        (("--recipe", "supervised"), "no encoder to train"),
        (
            ("--recipe", "supervised", "--visual", f"{NETWORK},untrained", "--set",
             "data.val_split=vall"),
            "val_split=vall",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told_in_a_line(words, says, clips, tmp_path, capsys):
    with pytest.raises(MicroshotError, match=says):
        run(cli.learn_app, "finetune", clips, *words, "-o", tmp_path / "run", capsys=capsys)
    assert not (tmp_path / "run").exists()


KILLS = 20
LONG = ("optimiser.epochs=60", "optimiser.batch_size=16", "data.frames=1", "data.looks=2")


def command(clips, run, *words):
    changes = [word for change in LONG for word in ("--set", change)]
    return [
        sys.executable, "-m", "learn", "finetune", clips, "--recipe", "supervised", "--visual",
        f"{NETWORK},untrained", "--workers", "1", "--device", "cpu", "--checkpoint-seconds", "0",
        *changes, "-o", run, "--json", *words,
    ]  # fmt: skip


def bytes_of(run):
    """All that a training leaves but its duration and what was typed; paths apart."""
    kept = {path.name: path.read_bytes() for path in run.iterdir()}
    done = json.loads(kept.pop("done.json"))
    for own in ("command.txt", "seconds", "frames_per_second"):
        (kept if own in kept else done).pop(own)
    kept["done.json"] = json.dumps(done).encode()
    return {name: data.replace(str(run).encode(), b"RUN") for name, data in kept.items()}


@pytest.mark.soak
def test_killed_twenty_times_the_command_goes_on_to_the_same_bytes(clips, tmp_path):
    """SIGKILL of the command: in three of four runs soon after it has gone on by a step, else at
    any time before."""
    env, root = {**os.environ, "OMP_NUM_THREADS": "1"}, Path(cli.__file__).parent

    def start(run, *words):
        return subprocess.Popen(
            command(clips, run, *words), cwd=root, env=env, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    whole, run = tmp_path / "whole", tmp_path / "killed"
    begun = time.monotonic()
    _, told = start(whole).communicate()
    assert (whole / "done.json").is_file(), told.decode()
    whole_seconds, chance = time.monotonic() - begun, random.Random(0)
    log, steps = run / "metrics.jsonl", []
    for kill in range(KILLS):
        before = log.stat().st_size if log.is_file() else 0
        process = start(run, *(["--resume"] if run.is_dir() else []))
        if kill % 4 == 3:
            time.sleep(chance.random() * whole_seconds / 4)
        else:
            while process.poll() is None and not (log.is_file() and log.stat().st_size > before):
                time.sleep(0.02)
            time.sleep(chance.random() / 10)
        assert process.poll() is None, process.communicate()[1].decode()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        steps.append(log.read_bytes().count(b'"event": "step"') if log.is_file() else 0)
    _, told = start(run, "--resume").communicate()
    assert (run / "done.json").is_file(), told.decode()
    print(f"{KILLS} kills, after steps {steps}")
    assert len(set(steps)) > KILLS / 3
    assert bytes_of(run) == bytes_of(whole)
