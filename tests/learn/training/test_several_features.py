"""Trainings on several features of a modality: each has a projection of its own."""

import csv

import pytest

import learn
import store
from learn.training.runs import load_run
from store import testing
from store.errors import ConfigError, InputError
from store.upkeep.merge import merge

SHORT = ("optimiser.epochs=2",)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Clips with two visual features and one audio feature: 12 classes to train on, 6 test."""
    folder = tmp_path_factory.mktemp("several")
    for name, seed in (("one", 0), ("two", 1)):
        testing.fill(folder / name, clips=240, rows=2, dim=12, classes=24, seed=seed)
    merge(folder / "one", [folder / "two"])
    path = folder / "one"
    fs = store.open(path)
    names = {m: [n for n in fs.features if fs[n].modality == m] for m in ("visual", "audio")}
    return path, names["visual"], names["audio"][0]


def trained(several, recipe, run, **settings):
    path, visual, audio = several
    chosen = {"data.visual": ",".join(visual), "data.audio": audio, **settings}
    changes = (*SHORT * (recipe != "whiten"), *(f"{k}={v}" for k, v in chosen.items()))
    learn.train(path, recipe, run_dir=run, settings=changes)
    return run


@pytest.mark.parametrize(
    ("recipe", "audio"),
    [
        ("protonet", None), ("supcon", None), ("cross_entropy", None), ("triplet", "none"),
        ("infonce", "none"), ("nt_xent", "none"), ("whiten", None),
    ],
)  # fmt: skip
def test_each_feature_has_a_projection_and_is_a_sense(several, tmp_path, recipe, audio):
    path, visual, sound = several
    chosen = {} if audio is None else {"data.audio": audio}
    run = trained(several, recipe, tmp_path / "run", **chosen)
    of_sense = {"visual": visual[0], "visual 2": visual[1]}
    of_sense |= {"audio": sound} if audio is None else {}
    assert load_run(run).features == of_sense
    rows = learn.run_episodes(
        path, projections=(run,), ways=4, queries=3, episodes=40, shots=(1, 3), support=("v",),
    ).results  # fmt: skip
    assert [row.fusion for row in rows] == ["weighted", "weighted"]
    assert list(rows[0].weights) == visual
    assert rows[1].accuracy > 0.5
    named = learn.run_episodes(
        path, projections=(run,), ways=4, queries=3, episodes=40, shots=(1, 3), support=("v",),
        visual=visual,
    ).results  # fmt: skip
    assert [row.accuracy for row in named] == [row.accuracy for row in rows]


def test_a_run_of_several_answers_everywhere(several, tmp_path):
    path, visual, audio = several
    run = trained(several, "cross_entropy", tmp_path / "run")
    table = store.open(path).manifest().select(split="test")
    support, output = tmp_path / "s.csv", tmp_path / "o.csv"
    rows = list(zip(table.clip_ids, table.column("label"), strict=True))
    with support.open("w", newline="") as file:
        csv.writer(file).writerows([("clip_id", "label"), *rows[:40]])
    asked = tmp_path / "q.csv"
    asked.write_text("clip_id\n" + "".join(f"{clip}\n" for clip, _ in rows[40:]))
    learn.predict(path, support=support, query=asked, output=output, projection=run)
    with output.open(newline="") as file:
        answers = {row["clip_id"]: row for row in csv.DictReader(file)}
    right = [answers[clip]["label"] == label for clip, label in rows[40:]]
    assert sum(right) / len(right) > 0.6
    assert {f"label_weight_{name}" for name in (*visual, audio)} <= set(
        next(iter(answers.values()))
    )
    found = learn.search(path, rows[0][0], projection=run, source="v", top=3)
    assert list(found.weights) == visual
    modes = learn.run_protocol(path, "classify", split="train", projections=(run,)).findings
    assert {finding.query for finding in modes} == {"v", "a", "av"}


def test_what_learns_from_one_feature_says_so(several, tmp_path):
    path, visual, _ = several
    for recipe in ("sscl", "avid", "cma"):
        with pytest.raises(ConfigError, match="one visual feature; name one") as refused:
            trained(several, recipe, tmp_path / "no")
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "no").exists()
    run = trained(several, "protonet", tmp_path / "one", **{"data.visual": visual[0]})
    with pytest.raises(InputError, match=r"a projection was trained on .*; name those"):
        learn.run_episodes(path, projections=(run,), visual=visual)
