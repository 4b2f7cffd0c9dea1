import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import learn
import store
from learn.data import Rows, choose_feature, load_rows
from learn.runs import load_run
from learn.training import _comparable, _Data
from store import testing
from store.errors import InputError, MissingFile, UnknownColumn, UnknownFeature

QUICK = ("optimiser.epochs=3", "projection.hidden=16", "projection.dim_out=8")


def accuracy(path, run, support, query, **asked):
    result = learn.run_episodes(
        path, ways=5, queries=5, episodes=300, projections=(run,), support=(support,),
        query=(query,), **asked,
    )  # fmt: skip
    return result.results[0].accuracy


@pytest.fixture(scope="module")
def quick(paired, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "quick"
    return run, learn.train(paired, "infonce", settings=QUICK, run_dir=run)


@pytest.mark.parametrize("recipe", ["infonce", "cross_entropy"])
def test_training_makes_the_modalities_meet(paired, tmp_path, recipe):
    """Sound answers what sight has taught: chance before, nearly as good as one modality after."""
    settings = ("projection.dim_out=16", "optimiser.epochs=40")
    untrained = tmp_path / "untrained"
    hardly = (*settings, "optimiser.epochs=1", "optimiser.learning_rate=1e-9")
    learn.train(paired, recipe, settings=hardly, run_dir=untrained)
    done = learn.train(paired, recipe, settings=settings, run_dir=tmp_path / "run")
    assert done.clips == 400
    assert done.val_clips == 80
    for sides in (("v", "a"), ("a", "v")):
        assert accuracy(paired, untrained, *sides) < 0.4
        assert accuracy(paired, tmp_path / "run", *sides) > 0.6


def test_the_seed_decides_every_bit(paired, quick, tmp_path):
    torch.manual_seed(77)  # nobody else's seed matters
    state = torch.random.get_rng_state()
    learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), state)
    other = (*QUICK, "optimiser.seed=1")
    learn.train(paired, "infonce", settings=other, run_dir=tmp_path / "other")
    first, again, other = (
        load_file(run / "weights.safetensors")
        for run in (quick[0], tmp_path / "again", tmp_path / "other")
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_run_says_all_of_itself(paired, quick):
    run, done = quick
    assert {p.name for p in run.iterdir()} == {
        "config.json", "metrics.jsonl", "weights.safetensors", "provenance.json", "done.json",
    }  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["projection"]["hidden"] == 16
    assert config["recipe"]["optimiser"]["seed"] == 0
    assert len(config["sha256"]) == 64
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2] == list(range(done.epochs))
    assert lines[done.best_epoch]["val_loss"] == done.val_loss
    assert done.val_loss == min(line["val_loss"] for line in lines)
    provenance = json.loads((run / "provenance.json").read_text())
    fs = store.open(paired)
    assert provenance["store_id"] == fs.store_id
    assert sorted(provenance["features"].values()) == fs.features
    assert provenance["clips"] == sorted(fs.manifest().select(split="train").clip_ids)
    assert json.loads((run / "done.json").read_text())["run"] == str(run)


def test_reading_back_gives_the_trained_towers(paired, quick):
    run = load_run(quick[0])
    fs = store.open(paired)
    ids = fs.manifest().clip_ids[:9]
    rows = {m: load_rows(choose_feature(fs, m, None), ids) for m in ("visual", "audio")}
    vectors = run.embed(rows)
    assert {m: v.shape for m, v in vectors.items()} == {"visual": (9, 8), "audio": (9, 8)}
    torch.testing.assert_close(vectors["audio"].norm(dim=1), torch.ones(9))
    weights = load_file(quick[0] / "weights.safetensors")
    assert torch.equal(run.towers["visual"].mean, weights["visual.mean"])
    assert torch.equal(load_run(quick[0]).embed(rows)["visual"], vectors["visual"])


def test_the_best_epoch_is_kept_and_patience_ends_it(filled, tmp_path):
    """A rate that overfits: the weights are those of the best epoch, not of the last."""
    settings = ("optimiser.learning_rate=3e-2", "optimiser.patience=2", "optimiser.epochs=30")
    done = learn.train(filled, "infonce", settings=settings, run_dir=tmp_path / "long")
    assert done.epochs == done.best_epoch + 3 < 30
    short = (*settings, f"optimiser.epochs={done.best_epoch + 1}")
    learn.train(filled, "infonce", settings=short, run_dir=tmp_path / "short")
    long, short = (load_file(tmp_path / r / "weights.safetensors") for r in ("long", "short"))
    assert all(torch.equal(long[key], short[key]) for key in long)


def test_clips_scored_and_trained_on_are_counted(paired, quick):
    asked = {"ways": 5, "queries": 5, "episodes": 9, "projections": ("none", quick[0])}
    for split, seen in (("test", 0), ("train", 400), ("val", 80), ("all", 480)):
        results = learn.run_episodes(paired, split=split, **asked).results
        assert {r.projection: r.seen_in_training for r in results} == {
            "none": 0,
            str(quick[0]): seen,
        }


def test_classes_apart_leave_supervised_training_without_validation(tmp_path):
    testing.fill(tmp_path / "s", clips=120, rows=2, dim=8, classes=8)
    done = learn.train(tmp_path / "s", "cross_entropy", settings=QUICK, run_dir=tmp_path / "r")
    assert (done.val_clips, done.val_loss, done.best_epoch) == (0, None, 2)
    unsupervised = learn.train(tmp_path / "s", "infonce", settings=QUICK, run_dir=tmp_path / "u")
    assert unsupervised.val_clips == 30


@pytest.mark.parametrize("supervised", [True, False])
def test_validation_labels_mean_what_the_training_labels_do(make_clips, supervised):
    """Classes of the training come first and keep their codes; others follow, or are left out."""
    clips = replace(make_clips([2, 3, 1]), classes=("b", "c", "d"))
    rows = Rows(values=torch.zeros(6, 1).half(), offsets=torch.arange(7), seconds=torch.zeros(6))
    val = _comparable(_Data(clips=clips, rows={"audio": rows}), ("a", "c", "d"), supervised)
    told = [val.clips.classes[code] for code in val.clips.codes]
    assert val.clips.classes[:3] == ("a", "c", "d")
    assert told == (["c"] * 3 + ["d"] if supervised else ["b"] * 2 + ["c"] * 3 + ["d"])
    assert len(val.rows["audio"]) == len(told)


def test_without_labels_only_unsupervised_training_works(tmp_path):
    fs = testing.fill(tmp_path / "s", clips=60, rows=2, dim=8, classes=4)
    kept = fs.manifest()
    bare = {key: kept.column(key) for key in kept.columns if key not in ("label", "split")}
    (path,) = (tmp_path / "s" / "manifests").iterdir()
    path.unlink()
    fs.add_manifest(store.Manifest(table=bare))
    assert learn.train(fs.path, "infonce", settings=QUICK, run_dir=tmp_path / "u").clips == 60
    with pytest.raises(UnknownColumn):
        learn.train(fs.path, "cross_entropy", settings=QUICK, run_dir=tmp_path / "c")
    named = (*QUICK, "data.label=topic")
    with pytest.raises(UnknownColumn):
        learn.train(fs.path, "infonce", settings=named, run_dir=tmp_path / "n")


def test_one_modality_is_enough_for_a_supervised_objective(paired, tmp_path):
    learn.train(
        paired, "cross_entropy", settings=(*QUICK, "data.visual=none"), run_dir=tmp_path / "r"
    )
    result = learn.run_episodes(
        paired, queries=5, episodes=9, projections=(tmp_path / "r",)
    ).results
    assert [(r.support, r.query) for r in result] == [("a", "a")]
    with pytest.raises(InputError, match="projection was not trained on it"):
        accuracy(paired, tmp_path / "r", "v", "v")


def test_an_existing_directory_is_refused(paired, quick, tmp_path):
    for path in (quick[0], tmp_path):
        with pytest.raises(InputError, match="exists; name a new directory"):
            learn.train(paired, "infonce", settings=QUICK, run_dir=path)


def test_an_unfinished_run_is_refused(paired, tmp_path, monkeypatch):
    """The process dies after the weights: all is there but the last file."""

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("learn.runs.finish", dies)
    with pytest.raises(KeyboardInterrupt):
        learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "r")
    assert (tmp_path / "r" / "weights.safetensors").exists()
    with pytest.raises(MissingFile, match=r"unfinished.*train again"):
        load_run(tmp_path / "r")
    with pytest.raises(MissingFile, match="no run"):
        load_run(tmp_path / "none")


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "provenance.json"])
def test_a_changed_run_is_refused(paired, tmp_path, name):
    learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "r")
    path = tmp_path / "r" / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=f"{name} was changed"):
        load_run(tmp_path / "r")


def test_features_the_run_was_not_trained_on_are_refused(paired, filled, quick):
    with pytest.raises(InputError, match=r"was trained on visual-.*, not on synthetic-visual"):
        learn.run_episodes(filled, projections=(quick[0],), queries=5)


def test_a_loss_that_explodes_ends_the_run(paired, tmp_path):
    settings = (*QUICK, "optimiser.learning_rate=1e30")
    with pytest.raises(InputError, match=r"lower optimiser\.learning_rate"):
        learn.train(paired, "infonce", settings=settings, run_dir=tmp_path / "r")
    assert not (tmp_path / "r" / "done.json").exists()


def test_an_unknown_feature_is_refused(paired, tmp_path):
    settings = (*QUICK, "data.visual=simclr")
    with pytest.raises(UnknownFeature):
        learn.train(paired, "infonce", settings=settings, run_dir=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_progress_counts_epochs(paired, tmp_path):
    seen = []
    learn.train(
        paired, "infonce", settings=QUICK, run_dir=tmp_path / "r",
        progress=lambda *told: seen.append(told),
    )  # fmt: skip
    assert [told[:2] for told in seen] == [(1, 3), (2, 3), (3, 3)]
