"""Several features of one modality are as many senses, wherever senses are joined."""

import csv
import json

import numpy as np
import pytest

import learn
import store
from learn.commands.tables import episodes_table
from learn.evaluation.drop import Drop
from store import testing
from store.errors import InputError, UnknownFeature
from store.upkeep.merge import merge

FEW = {"ways": 4, "queries": 5, "episodes": 60, "split": "all", "shots": (1, 3)}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Clips with two visual features, of which the second tells little, and two audio features."""
    folder = tmp_path_factory.mktemp("several")
    for name, separation, seed in (("clear", 3.0, 0), ("faint", 0.3, 1)):
        testing.fill(
            folder / name, clips=200, rows=2, dim=12, classes=8, separation=separation, seed=seed,
            silent_share=0.1 * (1 - seed), disjoint=False,
        )  # fmt: skip
    merge(folder / "clear", [folder / "faint"])
    return folder / "clear"


@pytest.fixture(scope="module")
def named(several):
    """The features of each modality, the clearer one first."""
    fs = store.open(several)
    of = {m: [n for n in fs.features if fs[n].modality == m] for m in ("visual", "audio")}
    for names in of.values():
        names.sort(key=lambda name: -fs[name].spec.identity["separation"])
    assert [len(names) for names in of.values()] == [2, 2]
    return of


def test_a_mode_of_several_features_joins_them(several, named, capsys):
    """As any senses: by weights, early or late; and what tells little is given less weight."""
    asked = {**FEW, "visual": named["visual"], "support": ("v",)}
    result = learn.run_episodes(several, **asked, fusions=("weighted", "early"))
    rows = {(r.fusion, r.shots): r for r in result.results}
    weights = {name: w["mean"] for name, w in rows["weighted", 3].weights.items()}
    assert list(weights) == named["visual"]
    assert sum(weights.values()) == pytest.approx(1)
    assert weights[named["visual"][0]] > 0.6
    alone = learn.run_episodes(several, **{**asked, "visual": named["visual"][0]}).results
    assert [r.fusion for r in alone] == ["", ""]
    assert rows["weighted", 3].accuracy > alone[1].accuracy - 0.02
    assert rows["early", 3].accuracy < alone[1].accuracy - 0.02
    assert list(result.sampling["features"]) == ["visual", "visual 2"]
    shown = result.to_dict()
    assert json.loads(json.dumps(shown)) == shown
    episodes_table(shown)
    assert "which sense decided" in capsys.readouterr().out


def test_all_features_at_once(several, named):
    result = learn.run_episodes(several, **FEW, **named)
    rows = {(r.support, r.shots): r for r in result.results}
    assert {mode for mode, _ in rows} == {"v", "a", "av"}
    assert list(rows["av", 1].weights) == [*named["visual"], *named["audio"]]
    assert rows["av", 1].prior["value"] == pytest.approx(dict.fromkeys(rows["av", 1].weights, 0.25))
    first = {name: names[0] for name, names in named.items()}
    pair = learn.run_episodes(several, **FEW, **first, support=("av",)).results
    assert rows["av", 3].accuracy > pair[1].accuracy - 0.03
    assert result.config.visual == tuple(named["visual"])
    again = learn.run_episodes(several, **FEW, **{m: [n] for m, n in first.items()})
    assert again.config.visual == first["visual"]  # a list of one is the same question


def test_clips_are_predicted_and_found_by_all_of_them(several, named, tmp_path):
    fs = store.open(several)
    table = fs.manifest()
    truth = dict(zip(table.clip_ids, table.column("label"), strict=True))
    support, output = tmp_path / "s.csv", tmp_path / "o.csv"
    shots = {label: [c for c in truth if truth[c] == label][:4] for label in set(truth.values())}
    with support.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["clip_id", "label"], *([c, label] for label, cs in shots.items() for c in cs)]
        )
    learn.predict(several, support=support, output=output, **named)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["mode"] for row in rows} == {"av"}
    weights = [key for key in rows[0] if key.startswith("label_weight_")]
    assert weights == [f"label_weight_{n}" for n in (*named["visual"], *named["audio"])]
    lacking = [row for row in rows if float(row[weights[2]]) == 0]  # is judged by the other three
    assert 10 < len(lacking) < 40
    assert all(float(row[weights[3]]) > 0 for row in lacking)
    right = [row["label"] == truth[row["clip_id"]] for row in rows if row["mode"] == "av"]
    assert np.mean(right) > 0.85
    found = learn.search(several, rows[0]["clip_id"], **named)
    assert list(found.weights) == [*named["visual"], *named["audio"]]


def test_what_several_features_cannot_be_asked(several, named, tmp_path):
    with pytest.raises(UnknownFeature, match="name one or several of them"):
        learn.run_episodes(several, **FEW)
    with pytest.raises(UnknownFeature, match="is audio, not visual"):
        learn.run_episodes(several, **FEW, visual=[named["visual"][0], named["audio"][0]])
    learn.train(
        several, "infonce", run_dir=tmp_path / "run",
        settings=("optimiser.epochs=1", *(f"data.{m}={n[0]}" for m, n in named.items())),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"a projection was trained on .*; name those"):
        learn.run_episodes(several, **FEW, **named, projections=(tmp_path / "run",))
    drop = Drop(modes=("a",))
    with pytest.raises(InputError, match="`drop` is about one feature of each modality"):
        learn.run_episodes(several, **FEW, **named, drop=drop)
