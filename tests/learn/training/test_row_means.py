"""Means in the place of rows: the same bytes, and only where nothing looks at rows."""

from dataclasses import replace

import pytest
import torch

import learn
from learn.data.rows import Padded
from learn.models.embedder import Embedder
from learn.models.means import Standardised
from learn.training import row_means
from learn.training.dataset import TrainingData, load_setup
from learn.training.recipe import load
from store import testing

QUICK = ("optimiser.epochs=3", "optimiser.batch_size=64")
TRAININGS = {
    "linear": ("infonce", ("data.missing=drop",)),
    "mlp": ("supcon", ("projection.name=mlp",)),
    "two copies": ("nt_xent", ("views.subclip=1", "views.feature_dropout=0", "views.noise=0")),
    "all clips before an epoch": ("prototypes", ()),
    "network": ("missing_modality", ()),
    "streamed": ("infonce", ("data.memory=40kB",)),
}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Clips of one to nine rows, in splits that share their classes."""
    path = tmp_path_factory.mktemp("means") / "s"
    testing.fill(path, clips=300, rows=9, dim=16, classes=6, disjoint=False, clips_per_unit=40)
    return path


@pytest.fixture
def taken(monkeypatch):
    """How many trainings took means."""
    seen, take = [], Embedder.means
    monkeypatch.setattr(Embedder, "means", lambda self, rows: (seen.append(1), take(self, rows))[1])
    return seen


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_on_means_is_that_on_rows(name, uneven, tmp_path, monkeypatch, taken):
    recipe, settings = TRAININGS[name]
    asked = {"settings": (*QUICK, *settings)}
    learn.train(uneven, recipe, run_dir=tmp_path / "means", **asked)
    assert taken
    monkeypatch.setattr(row_means, "suffice", lambda *_: False)
    learn.train(uneven, recipe, run_dir=tmp_path / "rows", **asked)
    for file in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "means" / file).read_bytes() == (tmp_path / "rows" / file).read_bytes()


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("vtn_small", ("projection.width=8", "projection.heads=2")),  # looks at every row
        ("nt_xent", ()),  # copies that differ
        ("infonce", ("data.memory=20kB",)),  # no room
    ],
)
def test_rows_stay_where_they_are_looked_at(recipe, settings, uneven, tmp_path, taken):
    one = ("optimiser.epochs=1", *settings)
    learn.train(uneven, recipe, settings=one, run_dir=tmp_path / "r")
    assert taken == []


def test_objectives_that_look_at_rows_are_told_apart(uneven):
    stage = load("infonce", ()).stages[0]
    space = Embedder(load("infonce", ()).projection, None, {"visual": 6, "audio": 4})
    of_rows = replace(stage, objective=replace(stage.objective, name="cjme"))
    assert row_means.suffice(space, [stage])
    assert not row_means.suffice(space, [stage, of_rows])


def test_who_asks_gets_stored_rows_all_the_same(uneven):
    """An objective from outside may not say that it looks at them."""
    recipe = load("infonce", ())
    data = load_setup(uneven, None, recipe).data
    space = Embedder(recipe.projection, None, {m: rows.dim for m, rows in data.rows.items()})
    space.measure(data.rows)
    seen, _ = row_means.with_means(space, recipe.stages, data, None)
    indices = torch.tensor([5, 3, 8])
    assert all(type(x) is Standardised for x in seen.inputs(indices).values())
    stored, expected = seen.stored(indices), data.inputs(indices)
    assert list(stored) == list(expected)
    for modality, rows in stored.items():
        assert type(rows) is Padded
        assert all(map(torch.equal, rows, expected[modality]))


def test_what_rows_leave_of_the_memory_is_what_means_may_take(uneven):
    spare = {}
    for memory in ("1MiB", "40kB"):
        data = load_setup(uneven, None, load("infonce", (f"data.memory={memory}",))).data
        assert isinstance(data, TrainingData)
        spare[memory] = data.spare_bytes
    assert 0 < spare["1MiB"] < 2**20
    assert spare["40kB"] == 40_000 * 7 // 8
