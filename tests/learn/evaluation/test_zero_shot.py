"""Zero-shot by hand: who is seen, what beta is chosen on, means per class."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import learn
import store
from learn.data import class_embeddings
from learn.data.class_embeddings import ClassEmbeddings
from learn.data.evaluation_set import load_evaluation_set
from learn.evaluation.protocols.zero_shot import Config, Scored, _area, _best, _harmonic
from learn.training.runs import load_run
from store import testing
from store.errors import ConfigError, InputError

UNSEEN, OF_VAL = ("class0", "class1"), ("class2",)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Ten classes in every split; a run that was trained on seven, and a manifest to score by."""
    where = tmp_path_factory.mktemp("zero")
    fs = testing.fill(
        where / "s", clips=360, rows=1, dim=6, classes=10, separation=5.0, disjoint=False
    )
    table = fs.manifest()
    old = sorted(set(table.column("label")))
    named = {name: f"class{i}" for i, name in enumerate(old)}
    known, scored = ["path,split,label"], ["path,split,label"]
    columns = (table.clip_ids, table.column("split"), table.column("label"))
    for clip, split, label in zip(*columns, strict=True):
        name = named[label]
        known.append(f"{clip},{'away' if name in UNSEEN + OF_VAL else split},{name}")
        lost = (split == "val" and name in UNSEEN) or (split == "test" and name in OF_VAL)
        scored.append(f"{clip},{'away' if lost else split},{name}")
    (where / "train.csv").write_text("\n".join(known) + "\n")
    (where / "m.csv").write_text("\n".join(scored) + "\n")
    vectors = np.random.default_rng(0).standard_normal((10, 12)).astype(np.float32)
    names = tuple(f"class{i}" for i in range(10))
    class_embeddings.write(where / "names.csv", ClassEmbeddings(names=names[::-1], vectors=vectors))
    learn.train(
        where / "s", "cjme", settings=("optimiser.epochs=8", f"data.labels={where / 'names.csv'}"),
        manifest=where / "train.csv", run_dir=where / "run",
    )  # fmt: skip
    return where


def score(made, protocol="zero_shot", **asked):
    return learn.run_protocol(
        made / "s", protocol, manifest=made / "m.csv", projections=(made / "run",), **asked
    ).findings


def by_hand(made, split, beta, among=None):
    """Recall of each class, from the run and names alone; mode v."""
    fs = store.open(made / "s")
    manifest = store.read_manifest(made / "m.csv")
    features = {fs[name].modality: fs[name] for name in fs.features}
    scored = load_evaluation_set(manifest, features, split=split, label="label", group=None)
    run = load_run(made / "run")
    x = run.embed(scored.rows)["visual"].double().numpy()
    names = sorted({*run.classes, *scored.clips.classes})
    texts = run.class_embeddings(names).double().numpy()
    hits = {}
    for vector, class_id in zip(x, scored.clips.class_ids, strict=True):
        truth = scored.clips.classes[class_id]
        scores = [
            (vector @ text - beta * (name in run.classes), name)
            for name, text in zip(names, texts, strict=True)
            if among is None or name in among
        ]
        hits.setdefault(truth, []).append(max(scores)[1] == truth)
    return {name: np.mean(of) for name, of in hits.items()}, run.classes


def test_the_numbers_are_means_over_classes(made):
    (finding,) = score(made, "zero_shot:beta=0.05", support=("v",))
    recall, seen = by_hand(made, "test", 0.05)
    s = np.mean([r for name, r in recall.items() if name in seen])
    u = np.mean([r for name, r in recall.items() if name not in seen])
    assert len(seen) == 7
    assert finding.metrics["seen"] == pytest.approx(s)
    assert finding.metrics["unseen"] == pytest.approx(u)
    assert finding.metrics["harmonic_mean"] == pytest.approx(2 * s * u / (s + u))
    alone, _ = by_hand(made, "test", 0.0, among=UNSEEN)
    assert finding.metrics["zsl"] == pytest.approx(np.mean([alone[name] for name in UNSEEN]))
    assert {row.name: row.recall for row in finding.classes} == pytest.approx(recall)
    assert finding.about["unseen_classes"] == list(UNSEEN)


def test_beta_is_chosen_on_val_alone(made):
    (finding,) = score(made, support=("v",))
    assert finding.about["beta_chosen_on"] == "val"

    def of_val(beta):
        recall, seen = by_hand(made, "val", beta)
        recalls = [
            [r for n, r in recall.items() if (n in seen) == is_seen] for is_seen in (True, False)
        ]
        return _harmonic(*map(np.mean, recalls))

    best = max(of_val(beta) for beta in np.linspace(-0.25, 0.5, 11))
    assert of_val(finding.metrics["beta"]) >= best
    (none,) = score(made, support=("v",), val_split="nowhere")
    assert none.metrics["beta"] == 0
    assert "nothing" in none.about["beta_chosen_on"]


def test_zero_is_a_beta_and_not_none(made):
    (plain,) = score(made, "zero_shot:beta=0.0", support=("v",))
    assert plain.metrics["beta"] == 0
    assert plain.about["beta_chosen_on"] == "given"
    assert plain.metrics["seen"] != score(made, support=("v",))[0].metrics["seen"]


def test_the_ends_of_beta_and_the_area_between():
    """Two seen and two unseen classes, a clip each; by hand every answer turns at a known beta."""
    scores = np.array([[3.0, 0, 1, 0], [0, 3, 0, 2.5], [2, 0, 1, 0], [0, 1, 0, 2]])
    scored = Scored(
        scores=scores,
        truth=np.arange(4),
        names=tuple("abcd"),
        seen=np.array([True] * 2 + [False] * 2),
    )
    assert scored.seen_and_unseen(-9.0) == (1.0, 0.0)
    assert scored.seen_and_unseen(9.0) == (0.0, 1.0)
    assert scored.seen_and_unseen(0.0) == (1.0, 0.5)
    # Clip 1 turns at 0.5, clip 2 at 1, clip 0 at 2: corners (1, .5), (.5, .5), (.5, 1), (0, 1)
    assert _area(scored) == pytest.approx(0.5 * 0.5 + 0.5 * 1.0)
    assert _best(scored) == 0  # of equals that which changes least
    shifted = replace(
        scored, scores=scores + np.array([0.6, 0.6, 0, 0])
    )  # turns at -.4, 1.1, 1.6, 2.6
    assert _best(shifted) == 0


def test_what_cannot_be_asked_is_one_line(made):
    with pytest.raises(ConfigError, match="neither val nor a number"):
        Config(beta="much")
    with pytest.raises(InputError, match="--recipe cjme"):
        learn.run_protocol(made / "s", "zero_shot", manifest=made / "m.csv")
    with pytest.raises(InputError, match="nothing is unseen"):
        learn.run_protocol(
            made / "s", "zero_shot", manifest=made / "train.csv", projections=(made / "run",)
        )


@pytest.mark.parametrize("mode", ["v", "a", "av"])
def test_the_rule_of_its_own_is_the_published_one(made, mode):
    """CJME: the name nearest to the modality that its attention chooses."""
    (finding,) = score(made, "zero_shot:beta=0.5,rule=own", support=(mode,))
    fs = store.open(made / "s")
    manifest = store.read_manifest(made / "m.csv")
    features = {fs[name].modality: fs[name] for name in fs.features}
    scored = load_evaluation_set(manifest, features, split="test", label="label", group=None)
    run = load_run(made / "run")
    x = run.space.embed(scored.rows)
    means = {m: rows.means() for m, rows in scored.rows.items()}
    names = sorted({*run.classes, *scored.clips.classes})
    with torch.inference_mode():
        texts = run.objective.embed_texts(torch.from_numpy(run.labels.of(names)))
        share = run.objective.attention(torch.cat([means["audio"], means["visual"]], 1)).sigmoid()
    chosen = {"v": [True], "a": [False], "av": (share[:, 0] >= 0.5).tolist()}[mode]
    assert mode != "av" or len(set(chosen)) == 2, "the attention chooses one modality for all"
    hits = {}
    for i, class_id in enumerate(scored.clips.class_ids):
        vector = x["visual" if chosen[i % len(chosen)] else "audio"][i]
        far = [
            (float((vector - text).norm()) + 0.5 * (name in run.classes), name)
            for name, text in zip(names, texts, strict=True)
        ]
        truth = scored.clips.classes[class_id]
        hits.setdefault(truth, []).append(min(far)[1] == truth)
    expected = {name: pytest.approx(np.mean(of)) for name, of in hits.items()}
    assert {row.name: row.recall for row in finding.classes} == expected


def test_all_modes_have_the_rule_and_a_run_without_one_says_who_has(made):
    assert {f.query for f in score(made, "zero_shot:rule=own")} == {"v", "a", "av"}
    settings = ("optimiser.epochs=1", f"data.labels={made / 'names.csv'}")
    learn.train(
        made / "s", "cross_modal_probe", settings=settings, manifest=made / "train.csv",
        run_dir=made / "probe",
    )  # fmt: skip
    with pytest.raises(InputError, match="avca, avgzslnet, cjme, tcaf have one"):
        learn.run_protocol(
            made / "s", "zero_shot:rule=own", manifest=made / "m.csv",
            projections=(made / "probe",),
        )  # fmt: skip
