"""Class names as a sense: regressed on at once, worth as much as classes of training say."""

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import learn
import store
from learn.commands.answer_tables import prediction_lines
from learn.data import class_embeddings
from learn.data.class_embeddings import ClassEmbeddings
from learn.fewshot import episode_files
from learn.fewshot.guard import NAMES, Worth
from learn.models.projections.semantic_ridge import Config, SemanticRidge
from learn.training.runs import load_run
from store.errors import ConfigError
from tests.learn.reporting.pages import Page

TRAIN, VAL, TEST, EACH, DIM, WIDTH = 20, 4, 8, 14, 24, 10
CLASSES = [f"class{c:02d}" for c in range(TRAIN + VAL + TEST)]


def named(path, *, shuffled=False):
    """Vectors of all names; shuffled, of others."""
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((len(CLASSES), WIDTH)).astype(np.float32)
    order = np.roll(np.arange(len(CLASSES)), 7) if shuffled else np.arange(len(CLASSES))
    class_embeddings.write(path, ClassEmbeddings(names=tuple(CLASSES), vectors=vectors[order]))
    return path, vectors


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Clips of which the name of their class tells much; sight and sound are alike made."""
    folder = tmp_path_factory.mktemp("names")
    table, vectors = named(folder / "names.csv")
    named(folder / "shuffled.csv", shuffled=True)
    rng = np.random.default_rng(0)
    of = np.arange(len(CLASSES)).repeat(EACH)
    ids = tuple(f"c{i:04d}" for i in range(len(of)))
    split = ["train" if c < TRAIN else "val" if c < TRAIN + VAL else "test" for c in of]
    fs = store.create(folder / "s")
    columns = {"path": ids, "clip_id": ids, "label": [CLASSES[c] for c in of], "split": split}
    fs.add_manifest(store.Manifest(table={k: tuple(map(str, v)) for k, v in columns.items()}))
    for modality in ("visual", "audio"):
        means = vectors @ rng.standard_normal((WIDTH, DIM)) / WIDTH**0.5
        means += 0.3 * rng.standard_normal(means.shape)
        values = means[of] + 1.2 * rng.standard_normal((len(of), DIM))
        spec = store.FeatureSpec(slug=modality, modality=modality, dim=DIM, identity={"rows": 1})
        fs.add_feature(spec).commit(
            store.UnitRows(
                clip_ids=ids, values=values.astype(np.float16),
                row_time_ms=np.zeros(len(ids), np.int32), row_count=np.ones(len(ids), np.uint16),
                status=np.zeros(len(ids), np.uint8),
                media_sha256=np.zeros((len(ids), 32), np.uint8), detail=("",) * len(ids),
            )
        )  # fmt: skip
    for name, labels in (("right", table), ("shuffled", folder / "shuffled.csv")):
        train(folder, folder / name, labels)
    return folder


def train(folder, run, labels, *settings, **changes):
    asked = (f"data.labels={labels}", *settings) if labels else settings
    return learn.train(folder / "s", "semantic_ridge", settings=asked, run_dir=run, **changes)


def answers(folder, run, **asked):
    asked = {"support": ("v",), "shots": (1,), "queries": 5, "episodes": 600} | asked
    return learn.run_episodes(folder / "s", projections=(folder / run,), **asked).results


def test_the_map_is_that_of_the_normal_equations():
    rng = torch.Generator().manual_seed(0)
    classes = torch.tensor([0] * 5 + [1] * 9 + [2] * 2)
    means, wanted = torch.randn(16, 6, generator=rng), torch.randn(3, 4, generator=rng)
    projection = SemanticRidge(Config(dim_out=4, penalty=2.0), 6)
    projection.solve(means, classes, wanted, 0.5)
    roots = means.sign() * means.abs().sqrt()
    units = F.normalize(roots - roots.mean(0), dim=-1).double()
    moment, cross = torch.zeros(6, 6).double(), torch.zeros(6, 4).double()
    for c in range(3):
        of_class = units[classes == c]
        for u in of_class:
            moment += torch.outer(u, u) / len(of_class)
            cross += torch.outer(u, wanted[c].double()) / len(of_class)
    eye = torch.eye(6).double()
    expected = torch.linalg.inv(moment + 2.0 * moment.trace() / 6 * eye) @ cross
    torch.testing.assert_close(projection.matrix.double(), expected.T, atol=1e-5, rtol=1e-5)
    mask, seconds = torch.ones(16, 1, dtype=torch.bool), torch.zeros(16, 1)
    placed = projection(means[:, None], mask, seconds)
    torch.testing.assert_close(placed.double(), units @ expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["v", "av"])
def test_names_gain_at_one_shot_and_shuffled_ones_cost_little(made, mode):
    (right,), (bare,), (wrong,), (nameless,) = (
        answers(made, run, support=(mode,), names=names)
        for run in ("right", "shuffled")
        for names in ("on", "off")
    )
    assert right.accuracy > bare.accuracy + 0.03
    assert wrong.accuracy > nameless.accuracy - 0.005
    assert NAMES not in (bare.weights or {})
    assert right.weights[NAMES]["mean"] > 2 * wrong.weights[NAMES]["mean"]
    assert "by 24 classes not seen" in right.prior["from"], "20 of the training, 4 of val"
    assert sum(w["mean"] for w in right.weights.values()) == pytest.approx(1, abs=1e-5)
    assert sum(right.prior["value"].values()) == pytest.approx(1, abs=1e-5)


def test_more_shots_need_names_less(made):
    one, five = answers(made, "right", shots=(1, 5))
    assert one.weights[NAMES]["mean"] > 2 * five.weights[NAMES]["mean"] > 0


def test_classes_of_training_tell_what_a_name_is_worth(made):
    right, wrong = (load_run(made / run).worth_of_names("v") for run in ("right", "shuffled"))
    assert right.classes == wrong.classes == TRAIN + VAL
    assert right.clips > 3 * wrong.clips
    assert Worth(0.5).beside(1) == pytest.approx(1 / 3)


def test_without_classes_to_ask_the_worth_decides(made, tmp_path):
    table = store.open(made / "s").manifest()
    split = ["train" if s == "val" else s for s in table.column("split")]
    columns = {"path": table.clip_ids, "clip_id": table.clip_ids, "split": split}
    columns["label"] = table.column("label")
    _write(tmp_path / "m.csv", list(columns), zip(*columns.values(), strict=True))
    train(made, tmp_path / "r", made / "names.csv", manifest=tmp_path / "m.csv")
    (row,) = answers(made, tmp_path / "r", manifest=tmp_path / "m.csv")
    worth = load_run(tmp_path / "r").worth_of_names("v")
    assert row.weights[NAMES] == {"mean": pytest.approx(worth.beside(1), abs=1e-5), "sd": 0.0}
    assert "by 24 classes not seen" in row.prior["from"]


@pytest.mark.parametrize("mode", ["v", "av"])
def test_predict_gives_the_same_answers(made, tmp_path, mode):
    result = learn.run_episodes(
        made / "s", ways=8, shots=(2,), queries=4, episodes=2, support=(mode,), groups="mixed",
        projections=(made / "right",), save_episodes=tmp_path / "e.safetensors", split="test",
    )  # fmt: skip
    clips, (drawn,) = episode_files.load(tmp_path / "e.safetensors", result.clips)
    (row,) = result.results
    for e in range(len(drawn)):
        of = np.array(clips.classes)[drawn.classes[e]]
        shots = [(clips.ids[i], of[n]) for n in range(8) for i in drawn.support[e][n]]
        truth = {clips.ids[i]: of[n] for i, n in zip(drawn.query[e], drawn.targets, strict=True)}
        _write(tmp_path / f"s{e}.csv", ["clip_id", "label"], shots)
        _write(tmp_path / f"q{e}.csv", ["clip_id"], [[clip] for clip in truth])
        summary = learn.predict(
            made / "s", support=tmp_path / f"s{e}.csv", query=tmp_path / f"q{e}.csv",
            output=tmp_path / f"o{e}.csv", mode=mode, projection=made / "right",
        )  # fmt: skip
        with (tmp_path / f"o{e}.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        right = np.mean([truth[r["clip_id"]] == r["label"] for r in found])
        assert right == pytest.approx(row.of_episodes[e])
        (weights,) = summary.labels[0].weights.values()
        assert weights[NAMES] == pytest.approx(row.weights[NAMES]["mean"], abs=1e-5)
        assert float(found[0][f"label_weight_{NAMES}"]) == pytest.approx(weights[NAMES], abs=1e-4)


def _write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_names_without_vectors_are_told_and_left_out(made, tmp_path):
    known = class_embeddings.read(made / "names.csv")
    few = ClassEmbeddings(names=known.names[:-1], vectors=known.vectors[:-1])
    class_embeddings.write(tmp_path / "few.csv", few)
    train(made, tmp_path / "r", tmp_path / "few.csv")
    (row,) = answers(made, tmp_path / "r", episodes=20)
    assert "class names are not used: 1 of 8 names have no vector" in row.projected["from"]
    assert repr(CLASSES[-1]) in row.projected["from"]
    assert row.weights is None


def test_answers_tell_of_names_without_a_vector(made, tmp_path, capsys):
    names, known = class_embeddings.read(made / "names.csv"), TRAIN + VAL + 2
    few = ClassEmbeddings(names=names.names[:known], vectors=names.vectors[:known])
    class_embeddings.write(tmp_path / "few.csv", few)
    train(made, tmp_path / "r", tmp_path / "few.csv")
    table = store.open(made / "s").manifest()
    asked = {label: clip for clip, label in zip(table.clip_ids, table.column("label"), strict=True)}
    shots = [(asked[name], name) for name in CLASSES[TRAIN + VAL : TRAIN + VAL + 4]]
    _write(tmp_path / "s.csv", ["clip_id", "label"], shots)
    summary = learn.predict(
        made / "s", support=tmp_path / "s.csv", output=tmp_path / "o.csv", mode="v",
        projection=tmp_path / "r",
    ).to_dict()  # fmt: skip
    (label,) = summary["labels"]
    lacking = [name for name in CLASSES[TRAIN + VAL : TRAIN + VAL + 4] if name not in few.names]
    assert label["classes_without_name"] == lacking
    prediction_lines(summary)
    assert f"class names are not used: {len(lacking)} of 4" in capsys.readouterr().out


def test_a_mode_of_one_sense_tells_what_names_count(made, tmp_path, capsys):
    table = store.open(made / "s").manifest()
    asked = {label: clip for clip, label in zip(table.clip_ids, table.column("label"), strict=True)}
    _write(tmp_path / "s.csv", ["clip_id", "label"], [(asked[x], x) for x in CLASSES[-4:]])
    summary = learn.predict(
        made / "s", support=tmp_path / "s.csv", output=tmp_path / "o.csv", mode="v",
        projection=made / "right",
    ).to_dict()  # fmt: skip
    prediction_lines(summary)
    out = capsys.readouterr().out
    assert "weights by visual: visual 0." in out
    assert "begin at class names at what" in out


def test_a_page_draws_a_line_for_each_mode_that_names_count_in(made, tmp_path):
    asked = learn.run_episodes(
        made / "s", projections=(made / "right",), shots=(1, 2), queries=5, episodes=20,
        support=("v", "a"),
    )  # fmt: skip
    asked.save(tmp_path / "r")
    learn.report((tmp_path / "r",), tmp_path / "r.html", map_by="none")
    page = Page((tmp_path / "r.html").read_text())
    cells = page.rows("Weights of senses")
    assert [(cell["mode"], cell["shots"]) for cell in cells] == [
        (row.support, str(row.shots)) for row in asked.results
    ]
    text = "".join(page.text)
    assert all(f"{NAMES}, ridge · {mode}" in text for mode in "va")


def test_what_cannot_be_regressed_is_one_line(made, tmp_path):
    with pytest.raises(ConfigError, match="learn labels"):
        train(made, tmp_path / "a", None)
    with pytest.raises(ConfigError, match="have 10 numbers; use same"):
        train(made, tmp_path / "b", made / "names.csv", "projection.dim_out=9")
    with pytest.raises(ConfigError, match="`names` 'perhaps'"):
        answers(made, "right", names="perhaps")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "says"),
    [("zeros", "'class03' is all zeros"), ("alike", "20 class names all say the same")],
)
def test_vectors_that_tell_no_class_are_refused(made, tmp_path, change, says):
    known = class_embeddings.read(made / "names.csv")
    vectors = known.vectors.copy()
    if change == "zeros":
        vectors[CLASSES.index("class03")] = 0
    else:
        vectors[:] = vectors[:1] * np.arange(1, len(vectors) + 1, dtype=np.float32)[:, None]
    table = tmp_path / "bad.csv"
    class_embeddings.write(table, ClassEmbeddings(names=known.names, vectors=vectors))
    with pytest.raises(ConfigError, match=says):
        train(made, tmp_path / "r", table)
    assert not (tmp_path / "r" / "done.json").exists()
