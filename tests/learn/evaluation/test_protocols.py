"""What single protocols promise, from a store on disk."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import learn
import store
from learn.commands.comparison_tables import evaluation_table
from learn.data.clips import load_clips
from learn.data.rows import choose_feature, load_rows
from learn.training.runs import load_run
from store import testing
from store.errors import ConfigError, InputError
from store.upkeep.merge import merge


def first(path, protocol, **asked):
    return learn.run_protocol(path, protocol, **{"support": ("v",), **asked}).findings[0]


def visual(path, split):
    """Means of what is seen of each clip that has rows and a label, and the labels."""
    fs = store.open(path)
    clips = load_clips(fs.manifest(), split=split, label="label")
    rows = load_rows(choose_feature(fs, "visual", None), clips.ids)
    keep = rows.valid
    return rows.means().double().numpy()[keep], clips.class_ids[keep], clips


def test_a_linear_probe_is_scikit_learns(filled):
    x, y, _ = visual(filled, "train")
    test_x, test_y, _ = visual(filled, "test")
    scale = StandardScaler().fit(x)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(scale.transform(x), y)
    accuracy = (model.predict(scale.transform(test_x)) == test_y).mean()
    finding = first(filled, "linear:c=0.1")
    assert finding.metrics["top1"] == pytest.approx(accuracy)
    assert finding.clips == len(test_x)
    assert finding.about["fitted_on"] == "train"


def test_regularisation_is_chosen_on_val_and_never_on_the_scored_split(filled):
    x, y, _ = visual(filled, "train")
    tuned, of_tuned, _ = visual(filled, "val")
    scale = StandardScaler().fit(x)
    accuracy = {}
    for c in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0):
        model = LogisticRegression(C=c, max_iter=1000).fit(scale.transform(x), y)
        accuracy[c] = (model.predict(scale.transform(tuned)) == of_tuned).mean()
    assert first(filled, "linear").about["c"] == max(accuracy, key=accuracy.get)
    assert first(filled, "linear", val_split="nowhere").about["c"] == 1.0


def test_folds_keep_groups_apart(tmp_path):
    """Labels that are the group's alone: a probe that has seen the group knows, others guess."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 6)
    label = rng.integers(0, 2, 40)[groups]
    ids = tuple(f"c{i:03d}" for i in range(240))
    fs = store.create(tmp_path / "s")
    table = {"path": ids, "clip_id": ids, "label": tuple("ab"[c] for c in label)}
    fs.add_manifest(store.Manifest(table=table | {"group": tuple(f"g{g}" for g in groups)}))
    centre = 10 * rng.standard_normal((40, 60))
    spec = store.FeatureSpec(slug="v", modality="visual", dim=60, identity={})
    fs.add_feature(spec).commit(
        store.UnitRows(
            clip_ids=ids,
            values=(centre[groups] + rng.standard_normal((240, 60))).astype(np.float16),
            row_time_ms=np.zeros(240, np.int32),
            row_count=np.ones(240, np.uint16),
            status=np.zeros(240, np.uint8),
            media_sha256=np.zeros((240, 32), np.uint8),
            detail=("",) * 240,
        )
    )
    apart = first(fs.path, "linear:folds=4").metrics["top1"]
    mixed = first(fs.path, "linear:folds=4", group="none").metrics["top1"]
    assert mixed > 0.95
    assert apart < 0.75
    by_column = first(fs.path, "linear:fold=group")
    assert by_column.about["fitted_on"] == "40 folds of all"


def test_a_probe_needs_classes_it_can_have_learnt(tmp_path):
    testing.fill(tmp_path / "s", clips=120, rows=1, dim=4, classes=12)
    with pytest.raises(InputError, match="linear:folds=5"):
        first(tmp_path / "s", "linear")
    with pytest.raises(InputError, match="`train_split`"):
        first(tmp_path / "s", "linear", split="all")
    with pytest.raises(InputError, match="lower folds"):
        first(tmp_path / "s", "linear:folds=99")
    with pytest.raises(ConfigError, match="folds=1"):
        first(tmp_path / "s", "linear:folds=1")


def test_late_fusion_is_the_mean_of_two_probes(filled):
    modes = {
        fusion: {
            finding.query: finding.metrics["top1"]
            for finding in learn.run_protocol(filled, f"linear:fusion={fusion}").findings
        }
        for fusion in ("early", "late")
    }
    assert modes["early"]["v"] == modes["late"]["v"]
    assert modes["late"]["av"] >= max(modes["late"]["v"], modes["late"]["a"]) - 0.05
    finding = learn.run_protocol(filled, "linear:fusion=late", support=("av",)).findings[0]
    assert finding.about["fusion"] == "late"


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory):
    """Sight that tells classes apart, and sound that does not."""
    path = tmp_path_factory.mktemp("lopsided") / "s"
    testing.fill(path, clips=160, rows=1, dim=8, classes=4, separation=3.0, disjoint=False)
    fs = store.open(path)
    sound = next(name for name in fs if fs[name].modality == "audio")
    noise = tmp_path_factory.mktemp("noise") / "s"
    testing.fill(noise, clips=160, rows=1, dim=8, classes=4, separation=0.0, disjoint=False, seed=1)
    merge(path, [noise])
    sounds = [name for name in store.open(path) if store.open(path)[name].modality == "audio"]
    return path, next(name for name in sounds if name != sound)


def test_the_weighted_probe_listens_to_what_tells_classes_apart(lopsided, capsys):
    path, sound = lopsided
    fs = store.open(path)
    sight = next(n for n in fs if fs[n].modality == "visual" and fs[n].spec.identity["separation"])
    result = learn.run_protocol(
        path, "linear:folds=4", split="all", visual=sight, audio=sound,
        fusions=("weighted", "early"),
    )  # fmt: skip
    rows = {(f.query, f.about.get("fusion", "")): f for f in result.findings}
    weights = rows["av", "weighted"].about["weights"]
    assert list(weights) == [sight, sound, "all"]
    assert sum(weights.values()) == pytest.approx(1)
    assert weights[sound] < 0.1
    told = {key: row.metrics["top1"] for key, row in rows.items()}
    assert told["a", ""] < 0.4
    assert told["av", "weighted"] >= told["v", ""] - 0.02
    evaluation_table(result.to_dict())
    assert "av weighted  fitted on: 4 folds of all" in capsys.readouterr().out
    (unasked,) = learn.run_protocol(
        path, "linear:folds=4", split="all", visual=sight, audio=sound, support=("av",)
    ).findings
    assert unasked.about["fusion"] == "weighted"
    assert unasked.metrics == rows["av", "weighted"].metrics


@pytest.mark.parametrize(
    ("protocol", "fusions", "says"),
    [
        ("retrieval", ("late",), "retrieval joins senses by .*early"),
        ("zero_shot", ("late",), "zero_shot has one way to join senses"),
        ("linear", ("lat",), "did you mean 'late'"),
        ("linear:fusion=late", ("early",), "name it once"),
    ],
)
def test_a_fusion_that_a_protocol_does_not_have_is_refused(filled, protocol, fusions, says):
    with pytest.raises(ConfigError, match=says):
        learn.run_protocol(filled, protocol, fusions=fusions)


@pytest.fixture(scope="module")
def trained(filled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for recipe in ("cross_entropy", "infonce"):
        settings = ("optimiser.epochs=20", "optimiser.batch_size=32", "projection.dim_out=16")
        learn.train(filled, recipe, settings=settings, run_dir=folder / recipe)
    return folder


def test_a_runs_own_head_is_asked_about_unscaled_vectors(filled, trained):
    run = load_run(trained / "cross_entropy")
    fs = store.open(filled)
    clips = load_clips(fs.manifest(), split="test", label="label")
    rows = {
        m: load_rows(choose_feature(fs, m, None), clips.ids) for m in ("visual", "audio")
    }  # fmt: skip
    usable = rows["visual"].valid & rows["audio"].valid
    rows = {m: loaded.keep(usable) for m, loaded in rows.items()}
    with torch.inference_mode():
        x = run.space.embed(rows)
        weights = run.objective.classifier
        probabilities = {m: weights(embedded).softmax(1) for m, embedded in x.items()}
    targets = [run.classes.index(clips.classes[c]) for c in clips.class_ids[usable]]
    findings = learn.run_protocol(
        filled, "classify", projections=(trained / "cross_entropy",)
    ).findings
    by_mode = {finding.query: finding.metrics["top1"] for finding in findings}
    both = (probabilities["visual"] + probabilities["audio"]) / 2
    for mode, p in (
        ("v", probabilities["visual"]),
        ("a", probabilities["audio"]),
        ("av", both),
    ):
        assert by_mode[mode] == pytest.approx((p.argmax(1).numpy() == targets).mean())
    assert by_mode["av"] > 0.5


def test_who_has_no_head_is_told_what_has(filled, trained):
    with pytest.raises(InputError, match=r"cross_entropy.*linear"):
        learn.run_protocol(filled, "classify", projections=(trained / "infonce",))
    with pytest.raises(InputError, match="`projections`"):
        learn.run_protocol(filled, "classify")


def test_retrieval_goes_both_ways_in_a_common_space(filled, trained):
    result = learn.run_protocol(filled, "retrieval", projections=("none", trained / "infonce"))
    kinds = {
        (finding.projection, finding.about["level"], finding.support, finding.query)
        for finding in result.findings
    }
    run = str(trained / "infonce")
    assert {(run, "instance", "v", "a"), (run, "instance", "a", "v")} <= kinds
    assert ("none", "class", "av", "av") in kinds
    assert not any(name == "none" and a != b for name, _, a, b in kinds)
    for finding in result.findings:
        if finding.about["level"] == "class":
            assert finding.about["apart"] == "groups"
            assert finding.metrics["r1"] > 0.3


def cosines(fs, feature, ids):
    x = fs[feature].packed(ids)
    means = np.stack([x.values[a:b].astype(float).mean(0) for a, b in pairwise(x.offsets)])
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit @ unit.T


def test_retrieval_averages_cosines_by_the_weights_it_names(lopsided):
    path, sound = lopsided
    fs = store.open(path)
    sight = next(n for n in fs if fs[n].modality == "visual" and fs[n].spec.identity["separation"])
    asked = {"visual": sight, "audio": sound, "support": ("av",), "group": "none", "split": "test"}
    (found,) = learn.run_protocol(path, "retrieval", **asked).findings
    assert found.about["fusion"] == "weighted"
    assert found.about["weights"] == {sight: 0.5, sound: 0.5}
    assert found.about["prior"].startswith("equal")
    table = fs.manifest().select(split="test")
    ids = sorted(table.clip_ids)
    label = dict(zip(table.clip_ids, table.column("label"), strict=True))
    similar = (cosines(fs, sight, ids) + cosines(fs, sound, ids)) / 2
    np.fill_diagonal(similar, -np.inf)
    nearest = [label[ids[i]] for i in similar.argmax(1)]
    hit = np.mean([name == label[clip] for name, clip in zip(nearest, ids, strict=True)])
    assert found.metrics["r1"] == pytest.approx(hit)
    (early,) = learn.run_protocol(path, "retrieval", fusions=("early",), **asked).findings
    assert "weights" not in early.about


def test_classes_that_are_not_scored_tell_what_retrieval_listens_to(tmp_path):
    """Sound is noise, which other classes tell; the classes scored have no say."""
    path, noise = tmp_path / "s", tmp_path / "noise"
    testing.fill(path, clips=240, rows=1, dim=8, classes=24, separation=3.0)
    testing.fill(noise, clips=240, rows=1, dim=8, classes=24, separation=0.0, seed=1)
    own = next(n for n in store.open(path) if store.open(path)[n].modality == "audio")
    merge(path, [noise])
    fs = store.open(path)
    sight = next(n for n in fs if fs[n].modality == "visual" and fs[n].spec.identity["separation"])
    sound = next(n for n in fs if fs[n].modality == "audio" and n != own)
    asked = {"visual": sight, "audio": sound, "split": "test"}
    found = {f.query: f for f in learn.run_protocol(path, "retrieval", **asked).findings}
    assert found["av"].about["prior"].startswith("18 other classes")
    assert found["av"].about["weights"][sound] < 0.2
    assert found["av"].metrics["map"] > found["v"].metrics["map"] - 0.02
    assert found["a"].metrics["map"] < 0.4


def test_labels_are_told_by_what_tells_them(lopsided):
    path, sound = lopsided
    fs = store.open(path)
    sight = next(n for n in fs if fs[n].modality == "visual" and fs[n].spec.identity["separation"])
    for val_split in ("val", "nowhere"):
        result = learn.run_protocol(
            path, "multilabel", visual=sight, audio=sound, split="test", val_split=val_split,
            fusions=("weighted", "late", "early"),
        )  # fmt: skip
        rows = {(f.query, f.about.get("fusion", "")): f for f in result.findings}
        weights = rows["av", "weighted"].about["weights"]
        assert list(weights) == [sight, sound, "all"]
        assert sum(weights.values()) == pytest.approx(1)
        assert weights[sound] < 0.1
        told = {key: row.metrics["map"] for key, row in rows.items()}
        assert told["a", ""] < 0.5
        assert told["av", "weighted"] >= told["v", ""] - 0.02
    unasked = learn.run_protocol(
        path, "multilabel", visual=sight, audio=sound, split="test", val_split="nowhere",
        support=("av",),
    ).findings[0]  # fmt: skip
    assert unasked.metrics == rows["av", "weighted"].metrics


def test_labels_take_their_thresholds_from_val(tmp_path):
    """Two labels at once, one of them rare: half is no threshold for that."""
    rng = np.random.default_rng(0)
    ids = tuple(f"c{i:04d}" for i in range(600))
    x = rng.standard_normal((600, 6)) + 4
    rare, common = x[:, 0] + rng.standard_normal(600) > 6, x[:, 1] > 4
    cells = [
        ";".join(name for name, has in (("rare", r), ("common", c), ("", True)) if has)
        for r, c in zip(rare, common, strict=True)
    ]
    fs = store.create(tmp_path / "s")
    split = tuple(("train", "val", "test")[i % 3] for i in range(600))
    table = {"path": ids, "clip_id": ids, "label": tuple(cells), "split": split}
    fs.add_manifest(store.Manifest(table=table))
    spec = store.FeatureSpec(slug="v", modality="visual", dim=6, identity={})
    fs.add_feature(spec).commit(
        store.UnitRows(
            clip_ids=ids,
            values=x.astype(np.float16),
            row_time_ms=np.zeros(600, np.int32),
            row_count=np.ones(600, np.uint16),
            status=np.zeros(600, np.uint8),
            media_sha256=np.zeros((600, 32), np.uint8),
            detail=("",) * 600,
        )
    )
    tuned = first(fs.path, "multilabel")
    half = first(fs.path, "multilabel", val_split="nowhere")
    assert half.about["thresholds_from"] == "one half"
    assert tuned.about["thresholds_from"] == "val"
    by_name = {row.name: row for row in tuned.classes}
    assert by_name["rare"].threshold < 0.45
    assert tuned.metrics["macro_f1"] > half.metrics["macro_f1"]
    assert tuned.clips == sum(bool(c.strip(";")) for c in cells[2::3])
    with pytest.raises(InputError, match="several labels"):
        first(fs.path, "linear")


def test_a_finding_says_what_the_projection_was_trained_on(filled, trained):
    asked = {"projections": (trained / "cross_entropy",)}
    assert first(filled, "classify", **asked).seen_in_training == 0
    of_train = first(filled, "classify", split="train", **asked)
    assert 0.8 * of_train.clips < of_train.seen_in_training < of_train.clips  # heard, too


def test_an_evaluation_is_kept_whole(filled, tmp_path):
    result = learn.run_protocol(filled, "retrieval")
    result.save(tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["evaluation.json"]
    with pytest.raises(InputError, match="exists"):
        result.save(tmp_path / "kept")


def test_retrieval_where_no_clip_has_another_of_its_class_is_refused(tmp_path):
    testing.fill(tmp_path / "store", clips=20, classes=20)
    with pytest.raises(InputError, match="no clip of split 'test' has another of its label"):
        learn.run_protocol(tmp_path / "store", "retrieval")
    testing.fill(tmp_path / "pairs", clips=40, classes=20)  # whose two clips are of one source
    with pytest.raises(InputError, match=r"in other groups; .* or retrieval:mixed"):
        learn.run_protocol(tmp_path / "pairs", "retrieval")
    assert learn.run_protocol(tmp_path / "pairs", "retrieval:mixed").findings
