"""The protocol of MVEB, against a literal loop over the same clips."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

import learn
import store
from learn.data.clips import load_clips
from learn.data.rows import choose_feature, load_rows
from store import testing
from store.errors import InputError


def means(path, split, table=None):
    fs = store.open(path)
    clips = load_clips(table or fs.manifest(), split=split, label="label")
    rows = load_rows(choose_feature(fs, "visual", None), clips.ids)
    keep = rows.valid & clips.labelled
    names = [clips.classes[c] for c in clips.class_ids[keep]]
    return rows.means().numpy()[keep], names


def literal(x, names, queries, asked, samples=8, draws=10, seed=42):
    """What mteb does: one order, shuffled on by a generator that is seeded anew each time."""
    order = list(range(len(names)))
    found = {}
    for _ in range(draws):
        np.random.RandomState(seed).shuffle(order)
        seen, chosen = {}, []
        for i in order:
            if seen.setdefault(names[i], 0) < samples:
                seen[names[i]] += 1
                chosen.append(i)
        model = LogisticRegression(max_iter=100, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x[chosen], [names[i] for i in chosen])
            answers = model.predict(queries)
            one = {"accuracy": accuracy_score(asked, answers)}
            for name, metric in (
                ("f1", f1_score), ("precision", precision_score), ("recall", recall_score),
            ):  # fmt: skip
                one[name] = metric(asked, answers, average="macro")
                one[f"{name}_weighted"] = metric(asked, answers, average="weighted")
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def first(path, protocol="mveb", **asked):
    return learn.run_protocol(path, protocol, **{"support": ("v",), **asked}).findings[0]


def test_numbers_are_those_of_a_literal_loop(filled):
    wanted = literal(*means(filled, "train"), *means(filled, "test"))
    assert 0.2 < wanted["accuracy"] < 1
    found = first(filled)
    for name, value in wanted.items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-9), name
    other = first(filled, "mveb:samples=2,draws=3,seed=5").metrics
    wanted = literal(*means(filled, "train"), *means(filled, "test"), samples=2, draws=3, seed=5)
    assert other["accuracy"] == pytest.approx(wanted["accuracy"], abs=1e-9)
    assert 0 < other["accuracy_ci95"] < 1


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Labels that are a group's alone, each group in both splits: only its copies tell."""
    path = tmp_path_factory.mktemp("mveb") / "s"
    rng = np.random.default_rng(0)
    groups, size = 60, 4
    of = np.repeat(np.arange(groups), size)
    ids = tuple(f"c{i:03d}" for i in range(len(of)))
    label = rng.integers(0, 2, groups)[of]
    split = tuple("train" if i % size < size // 2 else "test" for i in range(len(of)))
    fs = store.create(path)
    table = {"path": ids, "clip_id": ids, "split": split, "label": tuple("ab"[c] for c in label)}
    fs.add_manifest(store.Manifest(table=table | {"source": tuple(f"g{g}" for g in of)}))
    centre = 4 * rng.standard_normal((groups, 100))
    values = centre[of] + 0.3 * rng.standard_normal((len(of), 100))
    spec = store.FeatureSpec(slug="v", modality="visual", dim=100, identity={})
    fs.add_feature(spec).commit(unit(ids, values))
    return path


def unit(ids, values):
    return store.UnitRows(
        clip_ids=ids, values=values.astype(np.float16), row_time_ms=np.zeros(len(ids), np.int32),
        row_count=np.ones(len(ids), np.uint16), status=np.zeros(len(ids), np.uint8),
        media_sha256=np.zeros((len(ids), 32), np.uint8), detail=("",) * len(ids),
    )  # fmt: skip


def test_training_clips_of_groups_asked_about_are_left_out_beside_it(copied):
    found = first(copied, "mveb:samples=60", group="source")
    assert found.metrics["accuracy"] > 0.95
    assert "accuracy_apart" not in found.metrics  # every group is asked about: nothing is left
    assert found.about["train_clips_of_groups_asked_about"] == 120
    folds = first(copied, "mveb:folds=5,samples=100", group="source", split="all").metrics
    assert folds["accuracy"] > 0.9
    assert folds["accuracy_apart"] < 0.7
    unknown = first(copied)
    assert "learn groups" in unknown.about["groups"]
    assert "accuracy_apart" not in unknown.metrics


def test_groups_that_meet_nowhere_change_nothing(filled, tmp_path):
    table = store.open(filled).manifest()
    lines = ["path,split,label,group"] + [
        f"{clip},{split},{label},{clip}"
        for clip, split, label in zip(
            table.clip_ids, table.column("split"), table.column("label"), strict=True
        )
    ]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    found = first(filled, manifest=tmp_path / "m.csv").metrics
    assert found["accuracy_apart"] == found["accuracy"]


def test_what_cannot_be_drawn_is_said(tmp_path):
    testing.fill(tmp_path / "s", clips=60, rows=1, dim=4, classes=6)
    with pytest.raises(InputError, match="mveb:folds=5"):
        first(tmp_path / "s", split="all")
