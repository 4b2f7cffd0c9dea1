"""`--incomplete`: each mode on all clips that it can look at, and never called paired."""

import json
import subprocess
import sys

import pytest

import learn
import store
from learn.commands.incomplete import OfModes, give_apart, scored_apart
from store import testing

FEW = ("--ways", "4", "--queries", "3", "--episodes", "60", "--split", "test")


def run(*words):
    command = [sys.executable, "-m", "learn", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def whole(fs, *modalities):
    """How many clips of the split have rows in all of these."""
    clips = fs.manifest().select(split="test").clip_ids
    has = [fs[n].locate(clips).rows > 0 for n in fs.features if fs[n].modality in modalities]
    return int(sum(map(all, zip(*has, strict=True))))


def test_every_mode_has_clips_of_its_own(filled, tmp_path):
    fs, kept = store.open(filled), tmp_path / "kept"
    done = run("episodes", filled, *FEW, "--incomplete", "-o", kept, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    counts = {
        "v": whole(fs, "visual"), "a": whole(fs, "audio"), "av": whole(fs, "visual", "audio"),
    }  # fmt: skip
    assert shown["clips"] == counts
    assert counts["v"] > counts["av"]
    assert shown["paired"] is False
    alone = learn.run_episodes(
        filled, ways=4, queries=3, episodes=60, split="test", support=("v",)
    ).to_dict()
    (found,) = shown["incomplete"]["v"]["results"]
    (wanted,) = alone["results"]
    assert {**found, "seconds": 0} == {**wanted, "seconds": 0}
    assert (
        json.loads((kept / "v" / "result.json").read_text())["results"][0]["clips"] == counts["v"]
    )
    compared = run("compare", kept / "v", kept / "a")
    assert compared.returncode == 2
    assert "other episodes" in compared.stderr


def test_what_is_kept_appears_whole_or_not_at_all(filled, tmp_path):
    class Full:
        def to_dict(self):
            return {}

        def save(self, run_dir):
            if run_dir.name == "a":
                raise OSError(28, "No space left on device")
            run_dir.mkdir()

    with pytest.raises(OSError, match="No space"):
        scored_apart(str(filled), ["v", "a"], lambda _: Full(), tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_a_mode_of_too_few_clips_is_left_out_and_said_where_nobody_named_it(tmp_path, capsys):
    path, kept = tmp_path / "store", tmp_path / "kept"
    testing.fill(path, clips=200, rows=2, dim=8, classes=4, disjoint=False, silent_share=0.97)
    done = run("episodes", path, *FEW, "--incomplete", "-o", kept, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert set(shown["incomplete"]) == set(shown["clips"]) == {"v"}
    assert set(shown["left_out"]) == {"a", "av"}
    assert all("4" in reason for reason in shown["left_out"].values())
    assert [folder.name for folder in kept.iterdir() if folder.is_dir()] == ["v"]
    give_apart(OfModes(shown["incomplete"], shown["left_out"]), {"v": 48}, False, lambda _: None)
    assert "Not scored: mode a. " in capsys.readouterr().out
    done = run("episodes", path, *FEW, "--incomplete", "--support", "v,a")
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    assert done.stderr.count("\n") == 1


def test_protocols_too_and_the_clip_sets_are_said(filled):
    fs = store.open(filled)
    done = run("evaluate", filled, "--protocol", "retrieval", "--split", "test", "--incomplete",
               "--support", "v", "--support", "a")  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert first.endswith(f"v {whole(fs, 'visual')}, a {whole(fs, 'audio')}.")
    assert "not paired" in second
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    "words", [("--drop", "a"), ("--query", "a"), ("--save-episodes", "e"), ("--inflation",)]
)
def test_what_is_about_the_same_clips_is_refused(filled, tmp_path, words):
    done = run("episodes", filled, *FEW, "--incomplete", *words, "-o", tmp_path / "kept")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error[config]")
    assert done.stderr.count("\n") == 1
    assert words[0] in done.stderr
    assert not (tmp_path / "kept").exists()
