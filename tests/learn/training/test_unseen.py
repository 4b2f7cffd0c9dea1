"""Validation by classes that training does not see, and the state before it as a candidate."""

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import learn
import store
from learn.data.clips import UNLABELLED
from learn.training import unseen
from learn.training.loop import Trainer
from learn.training.runs import load_run
from store import plugins, testing
from store.errors import ConfigError, InputError

QUICK = ("optimiser.epochs=3", "projection.hidden=16")


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Splits with classes of their own: 8 train, 4 val, 4 test."""
    path = tmp_path_factory.mktemp("unseen") / "apart"
    testing.fill(path, clips=320, rows=2, dim=64, classes=16)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Ten classes and no splits."""
    path = tmp_path_factory.mktemp("unseen") / "whole"
    fs = testing.fill(path, clips=200, rows=2, dim=8, classes=10)
    kept = fs.manifest()
    (file,) = (path / "manifests").iterdir()
    file.unlink()
    fs.add_manifest(
        store.Manifest(table={key: kept.column(key) for key in kept.columns if key != "split"})
    )
    return path


def events(run, event):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == event]


def test_classes_are_those_of_the_val_split_that_training_lacks(make_clips):
    train, val = make_clips([8, 8]), make_clips([8, 8, 8, 8])
    found = unseen.of_split(train, val, 0)
    assert found.train is train
    assert set(found.val.classes) == {"class2", "class3"}
    assert "2 classes of split 'test'" in found.what
    assert unseen.of_split(train, make_clips([8, 8, 8]), 0) is None  # one class is no question
    assert unseen.of_split(train, make_clips([8, 8, 1, 1]), 0) is None


@pytest.mark.parametrize(("classes", "aside"), [(7, 0), (8, 4), (20, 4), (30, 6)])
def test_classes_are_put_aside_where_as_many_stay(make_clips, classes, aside):
    clips = make_clips([6] * classes)
    found = unseen.put_aside(clips, 0)
    if not aside:
        assert found is None
        return
    assert len(found.val.classes) == aside
    assert not set(found.val.classes) & set(found.train.classes)
    assert sorted(found.val.ids + found.train.ids) == list(clips.ids)
    assert all(name in found.what for name in found.val.classes)
    again, other = (unseen.put_aside(clips, seed).val.classes for seed in (0, 1))
    assert again == found.val.classes != other


def test_episodes_of_groups_take_fewer_queries_before_fewer_ways(make_clips, many_episodes):
    clips = make_clips([4] * 5, groups=np.arange(20) // 2)  # two groups of two a class
    (one,) = unseen.draw(clips, 0)
    assert (one.shots, *one.classes.shape, one.query.shape[1]) == (1, 300, 5, 10)
    assert unseen.draw(make_clips([1] * 9), 0) == ()


def scores(rows, classes):
    return unseen.Scores(episodes=np.array(rows), classes=np.array(classes))


def test_a_step_away_needs_a_gain_above_its_own_error_over_episodes_and_classes():
    flat = scores(np.full((2, 100), 0.5), np.full((2, 4), 0.5))
    wave = np.tile([0.3, -0.28], 50)  # + 0.01 in the mean, with an error of 0.03
    assert not scores(0.5 + np.stack([wave] * 2), np.full((2, 4), 0.51)).better(flat, flat)
    sure = np.full((2, 100), 0.51)
    assert scores(sure, np.full((2, 4), 0.51)).better(flat, flat)
    one_class = 0.5 + np.array([[0.04, 0.0, 0.0, 0.0]] * 2)  # all of the gain is one class's
    assert not scores(sure, one_class).better(flat, flat)
    assert not flat.better(flat, flat)


def test_a_gain_across_modes_does_not_pay_for_a_loss_within_one():
    flat = scores(np.full((2, 100), 0.5), np.full((2, 4), 0.5))
    rows = np.stack([np.full(100, 0.7), np.full(100, 0.45)])
    traded = scores(rows, np.array([[0.7] * 4, [0.45] * 4]))
    assert traded.gains(flat)[0][0] == pytest.approx(0.2)
    assert not traded.better(flat, flat)
    assert traded.better(flat, traded)  # no more is lost than was before


def test_training_that_only_harms_leaves_the_state_before_it(apart, tmp_path):
    """A rate that ruins every space: what is kept is what was stored."""
    settings = ("optimiser.learning_rate=1.0", "optimiser.epochs=4", "optimiser.patience=2")
    done = learn.train(apart, "supcon", settings=settings, run_dir=tmp_path / "r")
    assert (done.best_epoch, done.loss, done.epochs) == (-1, None, 2)
    weights = load_file(tmp_path / "r" / "weights.safetensors")
    assert not weights["visual.projection.matrix.weight"].any()
    (start,) = events(tmp_path / "r", "start")
    assert start["epoch"] == -1
    assert start["val_accuracy"] == pytest.approx(done.val_accuracy)
    assert all(
        row["val_accuracy"] < start["val_accuracy"] for row in events(tmp_path / "r", "epoch")
    )
    assert done.against_stored["classes"] == "unseen"
    assert done.against_stored["verdict"] != "worse"


def test_the_epoch_kept_is_the_last_sure_gain(apart, tmp_path):
    """Settings that gain: epochs by epochs, each told with its gain and that one's error."""
    settings = ("projection.dim_out=6", "optimiser.epochs=6", "optimiser.learning_rate=1e-2")
    done = learn.train(apart, "supcon", settings=settings, run_dir=tmp_path / "r")
    rows = events(tmp_path / "r", "epoch")
    assert done.best_epoch >= 0
    assert rows[done.best_epoch]["val_gain"] > rows[done.best_epoch]["val_gain_se"] > 0
    assert done.val_accuracy == rows[done.best_epoch]["val_accuracy"]
    assert done.val_accuracy > events(tmp_path / "r", "start")[0]["val_accuracy"]
    assert done.worse  # six dimensions for two modalities hold less than is stored


def test_without_a_val_split_some_train_classes_are_spared_and_that_is_said(whole, tmp_path):
    done = learn.train(whole, "supcon", settings=("optimiser.epochs=1",), run_dir=tmp_path / "r")
    assert (done.clips, done.val_clips) == (120, 80)
    assert done.validation.startswith("episodes of 4 of 10 train classes, put aside by seed 0: ")
    run = load_run(tmp_path / "r")
    assert len(run.classes) == 6
    assert len(run.trained_on) == 200  # what chose the epoch was seen too
    split = ("optimiser.epochs=1", "optimiser.watch=split")
    everything = learn.train(whole, "supcon", settings=split, run_dir=tmp_path / "s")
    assert (everything.clips, everything.validation) == (200, "none: no val split")
    assert everything.against_stored["verdict"] == "not measured"


def test_unseen_classes_that_cannot_be_had_are_one_line(apart, filled, tmp_path):
    settings = ("optimiser.epochs=1", "optimiser.watch=unseen")
    done = learn.train(filled, "supcon", settings=settings, run_dir=tmp_path / "f")
    assert "put aside" in done.validation  # its val split knows all classes of training
    few = (*settings, "data.split=val", "data.val_split=none")
    with pytest.raises(InputError, match=r"watch=unseen needs 8 labelled classes.*has 4"):
        learn.train(apart, "supcon", settings=few, run_dir=tmp_path / "x")
    recipe = tmp_path / "two.toml"
    recipe.write_text(
        '[projection]\nname = "linear"\n[objective]\nname = "supcon"\n[[stages]]\nname = "a"\n'
        'optimiser = { watch = "unseen" }\n[[stages]]\nname = "b"\noptimiser = { watch = "none" }\n'
    )
    with pytest.raises(ConfigError, match="for all stages or none"):
        learn.train(filled, recipe, run_dir=tmp_path / "y")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 4, 5, 9])
def test_a_kill_costs_neither_the_start_nor_the_best_state(apart, tmp_path, monkeypatch, after):
    settings = (*QUICK, "optimiser.batch_size=50")
    learn.train(apart, "infonce", settings=settings, run_dir=tmp_path / "whole")
    steps = itertools.count(1)

    def dies(self):
        self.log.flush()
        if (step := next(steps)) == after:
            raise Killed
        if step % 2 == 0:
            self._save()

    monkeypatch.setattr(Trainer, "_save_if_due", dies)
    with pytest.raises(Killed):
        learn.train(apart, "infonce", settings=settings, run_dir=tmp_path / "parts")
    monkeypatch.undo()
    learn.train(apart, "infonce", settings=settings, run_dir=tmp_path / "parts", resume=True)
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_clips_that_lack_a_modality_are_not_asked_about(make_clips):
    clips = make_clips([3, 3])
    counts = {"visual": np.ones(6), "audio": np.array([1, 0, 1, 1, 1, 0])}
    assert unseen.complete(clips, counts).class_ids.tolist() == [
        0, UNLABELLED, 0, 1, 1, UNLABELLED,
    ]  # fmt: skip


def test_accuracies_are_those_of_counting(make_clips):
    """The scores of vectors, mode by mode and class by class, by the obvious loop."""
    clips = make_clips([6, 6, 6])
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3)[torch.from_numpy(clips.class_ids).long()]
    vectors = {
        name: centres * 1.5 + torch.randn(18, 3, generator=generator)
        for name in ("visual", "audio")
    }
    drawn = unseen.draw(clips, 0)
    head = plugins.build("learn.fewshot.heads", "prototypes")
    found = unseen.scores(vectors, clips, drawn, head)
    unit = {name: x / x.norm(dim=1, keepdim=True) for name, x in vectors.items()}
    sides = [*itertools.product(unit, unit), ("both", "both")]
    unit["both"] = torch.cat(list(unit.values()), 1)
    wanted, by_class = [], {c: [] for c in range(3)}
    for episodes in drawn:
        for e in range(len(episodes.indices)):
            right = []
            for support, query in sides:
                means = unit[support][torch.from_numpy(episodes.support[e])].mean(1)
                asked = unit[query][torch.from_numpy(episodes.query[e])]
                answers = torch.cdist(asked, means).argmin(1).numpy()
                right.append(answers == episodes.targets)
            wanted.append(np.mean(right))
            for column, target in enumerate(episodes.targets):
                by_class[int(episodes.classes[e, target])].append(
                    np.mean([r[column] for r in right])
                )
    np.testing.assert_allclose(found.episodes[0], wanted, atol=1e-9)
    np.testing.assert_allclose(found.classes[0], [np.mean(by_class[c]) for c in range(3)])
    assert found.episodes.shape == (4, len(wanted))  # all modes, then v, a and av
