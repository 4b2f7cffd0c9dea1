"""Whitening: solved from the classes of training, shrunk as classes it did not see say."""

import json

import numpy as np
import pytest
import torch

import learn
import store
from learn.commands import app
from learn.data.rows import choose_feature, load_rows
from learn.models.projections.whiten import Config, build
from learn.training import recipe
from learn.training.runs import load_run
from store.errors import ConfigError


def gaussian(path, labels, columns, rng, dim=16, noisy=4, noise=6.0):
    """Sound whose classes differ in all dimensions, while clips of one differ in some above all."""
    classes = sorted(set(labels))
    centres = dict(zip(classes, rng.standard_normal((len(classes), dim)), strict=True))
    spread = np.where(np.arange(dim) < noisy, noise, 0.5)
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    values = np.stack([centres[c] + spread * rng.standard_normal(dim) for c in labels]) @ turn
    ids = tuple(f"c{i:04d}.wav" for i in range(len(labels)))
    fs = store.create(path)
    table = {"path": ids, "clip_id": ids, **columns}
    fs.add_manifest(store.Manifest(table={k: tuple(map(str, v)) for k, v in table.items()}))
    spec = store.FeatureSpec(slug="audio", modality="audio", dim=dim, identity={"rows": 1})
    fs.add_feature(spec).commit(
        store.UnitRows(
            clip_ids=ids, values=values.astype(np.float16),
            row_time_ms=np.zeros(len(ids), np.int32), row_count=np.ones(len(ids), np.uint16),
            status=np.zeros(len(ids), np.uint8),
            media_sha256=np.zeros((len(ids), 32), np.uint8), detail=("",) * len(ids),
        )
    )  # fmt: skip
    return path


LABELS = [f"class{i % 18:02d}" for i in range(360)]
SPLITS = ["train" if i % 18 < 9 else "val" if i % 18 < 13 else "test" for i in range(360)]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    path = tmp_path_factory.mktemp("whiten") / "noisy"
    columns = {"label": LABELS, "split": SPLITS}
    return gaussian(path, LABELS, columns, np.random.default_rng(0))


def accuracies(path, run):
    rows = learn.run_episodes(
        path, ways=5, shots=(1, 5), queries=5, episodes=400, projections=("none", run)
    ).results
    return {(row.projection != "none", row.shots): row.accuracy for row in rows}


def solved(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["modality"]: row for row in rows if row["event"] == "solved"}


def test_whitened_clips_of_one_class_differ_alike_in_every_direction():
    torch.manual_seed(0)
    classes = torch.arange(400) % 4
    means = torch.randn(400, 6) * torch.tensor([9.0, 4, 1, 1, 1, 0.2]) + classes[:, None] * 3.0
    projection = build(Config(power=1.0), 6)
    values, vectors = projection.solve(means, classes)
    projection.place(values, vectors, 1e-6, 0)  # next to no shrinkage
    out = projection(means[:, None], torch.ones(400, 1, dtype=torch.bool), torch.zeros(400, 1))
    apart = out - torch.stack([out[classes == c].mean(0) for c in range(4)])[classes]
    within = apart.T @ apart / 396
    torch.testing.assert_close(within / within.diagonal().mean(), torch.eye(6), atol=2e-3, rtol=0)


def test_the_map_is_its_equation():
    torch.manual_seed(0)
    classes = torch.arange(60) % 3
    means = torch.randn(60, 5).double().float() * torch.arange(1, 6)
    projection = build(Config(), 5)
    projection.place(*projection.solve(means, classes), 0.3, 0)
    x = means.double().numpy()
    x = np.sign(x) * np.abs(x) ** 0.5
    x -= x.mean(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    scatter = sum(
        np.outer(row - x[classes == c].mean(0), row - x[classes == c].mean(0))
        for row, c in zip(x, classes.tolist(), strict=True)
    )
    within = scatter / (60 - 3)
    values, vectors = np.linalg.eigh(0.7 * within * 5 / np.trace(within) + 0.3 * np.eye(5))
    wanted = x @ (vectors / np.sqrt(values)) @ vectors.T
    got = projection(means[:, None], torch.ones(60, 1, dtype=torch.bool), torch.zeros(60, 1))
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-4)


def test_a_solved_run_is_told_without_epochs_and_losses(noisy, tmp_path, capsys):
    words = ["train", str(noisy), "--recipe", "whiten", "-o", str(tmp_path / "run")]
    assert app(words, standalone_mode=False) == 0
    lines = capsys.readouterr().out.splitlines()  # long values go on in the next, further in
    told = [line.split()[0] for line in lines if line.strip() and not line.startswith(" ")]
    assert told[:5] == ["run", "clips", "val_clips", "epochs", "seconds"]


def test_a_run_is_solved_and_read_back_like_any_other(noisy, tmp_path):
    done = learn.train(noisy, "whiten", run_dir=tmp_path / "r")
    assert (done.epochs, done.best_epoch, done.loss, done.val_clips) == (0, -1, None, 80)
    assert done.validation == "episodes of 4 val classes"
    assert done.against_stored["verdict"] == "better"
    assert solved(tmp_path / "r")["audio"]["shrinkage"] < 1
    found = accuracies(noisy, tmp_path / "r")
    assert found[True, 1] > found[False, 1] + 0.1
    assert found[True, 5] > found[False, 5] + 0.05
    again = learn.train(noisy, "whiten", run_dir=tmp_path / "again")
    assert again.against_stored == done.against_stored
    one, two = ((tmp_path / r / "weights.safetensors").read_bytes() for r in ("r", "again"))
    assert one == two
    resumed = learn.train(noisy, "whiten", run_dir=tmp_path / "r", resume=True)
    assert resumed == done
    run = load_run(tmp_path / "r")
    fs = store.open(noisy)
    ids = fs.manifest().clip_ids[:7]
    rows = {"audio": load_rows(choose_feature(fs, "audio", None), ids)}
    torch.testing.assert_close(run.embed(rows)["audio"].norm(dim=1), torch.ones(7))


@pytest.mark.parametrize("given", ["label", "group"])
def test_without_a_val_split_classes_or_groups_are_left_out_in_turn(tmp_path, given):
    path = gaussian(tmp_path / "s", LABELS, {given: LABELS}, np.random.default_rng(0))
    done = learn.train(path, "whiten", run_dir=tmp_path / "r")
    noun = {"label": "classes", "group": "groups"}[given]
    assert done.validation == f"episodes of some of 18 {noun}, solved from the others"
    assert solved(tmp_path / "r")["audio"]["shrinkage"] < 1
    assert done.clips == 360
    assert done.against_stored["verdict"] == "not measured"


def test_where_nothing_is_known_rows_stay_as_they_are(tmp_path):
    path = gaussian(tmp_path / "s", LABELS, {}, np.random.default_rng(0))
    done = learn.train(path, "whiten", run_dir=tmp_path / "r")
    assert "stored rows are left as they are" in done.validation
    assert solved(tmp_path / "r")["audio"]["shrinkage"] == 1


def test_noise_alike_in_all_directions_costs_nothing(tmp_path):
    """Nothing to gain, and nothing is lost by trying."""
    path = gaussian(
        tmp_path / "s", LABELS, {"label": LABELS, "split": SPLITS}, np.random.default_rng(1),
        noisy=0,
    )  # fmt: skip
    done = learn.train(path, "whiten", run_dir=tmp_path / "r")
    assert done.against_stored["modes"]["a"]["difference"] > -0.02


def test_what_is_solved_has_no_objective():
    solved_recipe = recipe.load("whiten", ("projection.power=1",))
    assert solved_recipe.stages == ()
    assert solved_recipe.projection["audio"].settings == {"dim_out": 0, "power": 1.0}
    assert recipe.load("whiten", ("optimiser.seed=3",)).seed == 3
    with pytest.raises(ConfigError, match=r"whiten is solved at once: leave out \[objective\]"):
        recipe.load("whiten", ("objective.name=supcon",))
    with pytest.raises(ConfigError, match="goes with no other kind"):
        recipe.load("whiten", ("projection.audio.name=linear",))
