"""The verdict on a run: the same figures as `learn episodes` gives on the same episodes."""

from dataclasses import replace

import numpy as np
import pytest

import learn
import store
from learn.fewshot import episode_files
from learn.training import against_stored, recipe, unseen
from learn.training.dataset import load_setup


def test_the_verdict_is_what_episodes_say(tmp_path):
    fs = tmp_path / "store"
    store.testing.fill(fs, clips=480, classes=24, rows=2, dim=16, separation=2.0)
    run = tmp_path / "run"
    done = learn.train(fs, "whiten", run_dir=run)
    recipe_ = recipe.load("whiten")
    setup = load_setup(fs, None, recipe_)
    clips = unseen.complete(setup.val.clips, setup.val.counts)
    drawn = unseen.draw(clips, recipe_.seed + against_stored._STREAM)
    plain = replace(clips, groups=None).keep(np.ones(len(clips), bool))
    used = np.unique(clips.class_ids)  # training knows other classes too
    drawn = [
        replace(
            episodes,
            clips_sha256=plain.sha256,
            classes=np.searchsorted(used, episodes.classes).astype(np.int32),
        )
        for episodes in drawn
    ]
    episode_files.save(tmp_path / "e.safetensors", plain, drawn)
    rows = learn.run_episodes(
        fs, split="val", episodes_file=tmp_path / "e.safetensors", projections=("none", run),
        group="none", guard="off", fusions=("weighted:prior=shipped",),
    ).results  # fmt: skip
    found = {(row.projection == "none", row.support, row.shots): row.accuracy for row in rows}
    verdicts = done.against_stored["results"]
    assert {row["mode"] for row in verdicts} == {"v", "a", "av"}
    for row in verdicts:
        key = row["mode"], row["shots"]
        assert row["stored"] == pytest.approx(found[True, *key])
        assert row["run"] == pytest.approx(found[False, *key])
    early = learn.run_episodes(
        fs, split="val", episodes_file=tmp_path / "e.safetensors", fusions=("early",),
        support=("av",), group="none",
    ).results  # fmt: skip
    assert [row.accuracy for row in early] != [found[True, "av", row.shots] for row in early]
