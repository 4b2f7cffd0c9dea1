"""Fusions in `learn episodes`: what is scored, what it says, and that no scored label enters."""

import csv
import json

import numpy as np
import pytest

import learn
import store
from learn.commands.evaluation import specs
from learn.commands.tables import episodes_table
from learn.evaluation.config import EpisodesConfig
from learn.evaluation.episodes import draw, pose
from store.errors import ConfigError, InputError

FEW = {"ways": 3, "queries": 3, "episodes": 40}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    path = tmp_path_factory.mktemp("fusions") / "store"
    store.testing.fill(path, clips=240, rows=2, dim=16, classes=8, separation=3.0, disjoint=False)
    return path


@pytest.fixture(scope="module")
def manifest(filled, tmp_path_factory):
    """Five classes to be asked about, and three of the val split."""
    table = store.open(filled).manifest()
    labels = table.column("label")
    apart = set(sorted(set(labels))[:3])
    path = tmp_path_factory.mktemp("manifest") / "m.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "clip_id", "label", "split"])
        for i, clip in enumerate(table.clip_ids):
            split = "val" if labels[i] in apart else "test"
            writer.writerow([table.paths[i], clip, labels[i], split])
    return path


def test_every_fusion_is_a_row_on_the_same_episodes(filled, capsys):
    fusions = ("weighted", "weighted:prior=equal", "late", "early")
    result = learn.run_episodes(filled, **FEW, split="all", shots=(1, 3), fusions=fusions)
    rows = {(r.support, r.fusion, r.shots): r for r in result.results}
    assert {key[:2] for key in rows} == {("v", ""), ("a", ""), *(("av", f) for f in fusions)}
    shown = result.to_dict()
    assert json.loads(json.dumps(shown)) == shown
    row = rows["av", "weighted:prior=equal", 1]
    assert row.prior["from"] == "equal"
    assert [w["mean"] for w in row.weights.values()] == pytest.approx([0.5, 0.5])
    assert [w["sd"] for w in row.weights.values()] == pytest.approx([0, 0], abs=1e-6)
    assert rows["av", "early", 1].weights is None
    assert rows["av", "weighted", 3].weights.keys() == set(result.sampling["features"].values())
    assert sum(w["mean"] for w in rows["av", "weighted", 3].weights.values()) == pytest.approx(1)
    episodes_table(shown)
    out = capsys.readouterr().out
    assert "which sense decided" in out
    assert "weights begin at: equal: none is known of" in out
    assert max(map(len, out.splitlines())) <= 80
    for row in shown["results"]:
        row |= {"untrained": True, "seen_in_training": 3}
    episodes_table(shown)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("v ")]
    assert line.rstrip().endswith("*!")


def test_each_origin_of_weights_is_told_with_what_it_is_of(filled, capsys):
    shown = learn.run_episodes(filled, **FEW, split="all", shots=(1, 3)).to_dict()
    weighed = [row for row in shown["results"] if row["weights"]]
    assert [row["shots"] for row in weighed] == [1, 3]
    told = []
    for origins in (("here", "here"), ("here", "there")):
        for row, origin in zip(weighed, origins, strict=True):
            row["prior"] = {**row["prior"], "from": origin}
        episodes_table(shown)
        lines = capsys.readouterr().out.splitlines()
        told += [line.strip() for line in lines if "begin at" in line]
    assert told == [
        "weights begin at: here",
        "weights of 1-shot begin at: here",
        "weights of 3-shot begin at: there",
    ]


def test_equal_weights_of_bare_prototypes_are_the_joined_vector(filled):
    asked = {**FEW, "split": "all", "heads": ("prototypes",), "support": ("av",)}
    fusions = ("early", "weighted:prior=equal")
    early, equal = learn.run_episodes(filled, **asked, fusions=fusions).results
    np.testing.assert_array_equal(early.of_episodes, equal.of_episodes)
    sharper = learn.run_episodes(filled, **asked, fusions=fusions, shots=(4,)).results
    assert sharper[0].accuracy != sharper[1].accuracy


def test_the_prior_is_of_classes_that_nobody_asks_about(filled, manifest):
    config = EpisodesConfig(store=str(filled), manifest=str(manifest), **FEW)
    drawing = draw(config, pose(config))
    apart = drawing.benchmark.apart
    asked = set(drawing.benchmark.scored.clips.classes)
    present = {apart.clips.classes[c] for c in np.unique(apart.clips.class_ids)}
    assert len(present) == 3
    assert not present & asked
    assert not set(apart.clips.ids) & set(drawing.clips.ids)
    row = next(r for r in drawing.benchmark.results("t-ddof1") if r.support == "av")
    assert row.prior["from"].startswith("3 other classes")
    value = list(row.prior["value"].values())
    assert sum(value) == pytest.approx(1)
    assert value != pytest.approx([0.5, 0.5], abs=1e-3)
    shipped = learn.run_episodes(
        filled, manifest=manifest, **FEW, support=("av",), fusions=("weighted:prior=shipped",)
    ).results[0]
    assert "none is known" in shipped.prior["from"]


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"fusions": ("learned",)}, InputError, "fits none .* vector that a network makes"),
        (
            {"fusions": ("late",), "support": ("v",)},
            InputError,
            "each mode asked about looks at one",
        ),
        ({"fusions": ("weighted:prior=mine",)}, ConfigError, "prior"),
        ({"fusions": ("weighed",)}, ConfigError, "did you mean 'weighted'"),
    ],
)
def test_what_cannot_be_fused_is_one_line(filled, asked, error, says):
    with pytest.raises(error, match=says) as refused:
        learn.run_episodes(filled, **FEW, split="all", **asked)
    assert "\n" not in str(refused.value)


def test_commas_between_settings_are_not_between_fusions():
    assert specs(["early,late", "weighted:prior=equal"]) == (
        "early",
        "late",
        "weighted:prior=equal",
    )
    assert specs(["a:x=1,y=2,b"]) == ("a:x=1,y=2", "b")
