"""Teachers are what their own stage left when the student's stage ends."""

import pytest
from safetensors.torch import load_file

import learn
from learn.training.runs import load_run
from store import testing
from store.errors import InputError


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    path = tmp_path_factory.mktemp("teachers") / "store"
    testing.fill(path, clips=160, rows=3, dim=8, classes=8, disjoint=False)
    return path


@pytest.mark.parametrize(
    ("recipe", "changes", "frozen"),
    [
        ("ccl", ("objective.teachers=audio",), ("network.audio", "network.image")),
        ("ccl", ("objective.teachers=image",), ("network.audio", "network.image")),
        ("ccl", (), ("network.audio", "network.image")),
        ("listen_to_look", ("network.previews=2",), ("network.teacher",)),
    ],
)
def test_the_student_learns_from_teachers_that_stand_still(
    recipe, changes, frozen, filled, tmp_path
):
    short = ("optimiser.epochs=2", "optimiser.watch=none", *changes)
    once = learn.train(
        filled, recipe, settings=(*short, "stages.student.optimiser.epochs=1"),
        run_dir=tmp_path / "one",
    )  # fmt: skip
    learn.train(filled, recipe, settings=short, run_dir=tmp_path / "two")
    assert once.epochs == 3
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    still = {key for key in one if key.startswith(frozen)}
    assert still
    assert all(one[key].equal(two[key]) for key in still)
    assert any(not one[key].equal(two[key]) for key in one if "network.student" in key)
    run = load_run(tmp_path / "two")
    assert set(run.space.outputs) >= {"visual"}


def test_a_mode_that_no_projection_gives_is_named_with_those_that_it_does(filled, tmp_path):
    learn.train(
        filled, "listen_to_look", settings=("optimiser.epochs=1", "optimiser.watch=none"),
        run_dir=tmp_path / "run",
    )  # fmt: skip
    asked = {"ways": 4, "queries": 1, "episodes": 9, "guard": "off"}
    with pytest.raises(InputError, match=r"mode a needs audio .*out: `support` v,av$"):
        learn.run_episodes(filled, projections=(tmp_path / "run",), **asked)
    learn.run_episodes(filled, projections=(tmp_path / "run",), support=("v", "av"), **asked)
