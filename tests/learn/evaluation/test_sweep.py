"""A grid of trainings: each combination once, compared on the same episodes."""

import json
from pathlib import Path

import pytest

import learn
from learn.evaluation import sweep as sweeps
from learn.training.runs import load_run
from store import testing
from store.errors import ClusterError, ConfigError, InputError, UnknownSetting

QUICK = ("optimiser.epochs=2", "projection.hidden=16", "projection.dim_out=8")
GRID = ("optimiser.learning_rate=1e-3,1e-2", "objective.temperature=0.07,0.5")


@pytest.fixture(scope="module", autouse=True)
def few_episodes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "EPISODES", 200)
        yield


@pytest.fixture(scope="module")
def swept(paired, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "s"
    updates = []
    result = learn.sweep(
        paired, "infonce", grid=GRID, settings=QUICK, directory=folder,
        progress=lambda *update: updates.append(update),
    )  # fmt: skip
    return folder, result, updates


def test_every_combination_is_trained_as_told(swept):
    folder, result, updates = swept
    wanted = [
        {"optimiser.learning_rate": rate, "objective.temperature": t}
        for rate in ("1e-3", "1e-2")
        for t in ("0.07", "0.5")
    ]
    assert [cell["settings"] for cell in result.cells] == wanted
    for cell in result.cells:
        config = json.loads((Path(cell["run"]) / "config.json").read_text())
        stage = config["recipe"]["stages"][0]
        rate, warmth = map(float, cell["settings"].values())
        assert stage["optimiser"]["learning_rate"] == rate
        assert stage["objective"]["temperature"] == warmth
        assert stage["optimiser"]["epochs"] == 2
        assert Path(cell["run"]).parent == folder
    assert [done for done, *_ in updates] == [1, 2, 3, 4]
    assert json.loads((folder / "sweep.json").read_text()) == result.to_dict()


def test_scores_are_those_of_the_validation_split(swept, paired):
    _, result, _ = swept
    assert result.facts["scored_on"] == "val"
    for cell in result.cells:
        alone = learn.run_episodes(
            paired, split="val", ways=5, shots=(1,), queries=5, episodes=sweeps.EPISODES,
            projections=(cell["run"],), support=("v", "a", "av"),
        )  # fmt: skip
        assert [row["accuracy"] for row in cell["scores"]] == [r.accuracy for r in alone.results]
    means = [sum(s["accuracy"] for s in cell["scores"]) for cell in result.cells]
    assert means[result.best] == max(means)


def test_the_same_again_trains_nothing_and_more_keeps_the_old(swept, paired, monkeypatch):
    folder, result, _ = swept
    trained = []
    plain = sweeps.train

    def counted(*args, **how):
        done = (Path(how["run_dir"]) / "done.json").is_file()
        trained.extend([] if done else [how["run_dir"]])
        return plain(*args, **how)

    monkeypatch.setattr(sweeps, "train", counted)
    again = learn.sweep(paired, "infonce", grid=GRID, settings=QUICK, directory=folder)
    assert trained == []
    assert again.to_dict() == result.to_dict()
    more = (GRID[0], "objective.temperature=0.07,0.5,1.0")
    wider = learn.sweep(paired, "infonce", grid=more, settings=QUICK, directory=folder)
    assert len(trained) == 2
    assert len(wider.cells) == 6


def test_workers_give_the_same_weights(swept, paired, tmp_path):
    _, result, _ = swept
    by_workers = learn.sweep(
        paired, "infonce", grid=GRID[:1], settings=(*QUICK, "objective.temperature=0.07"),
        directory=tmp_path / "s", workers=2,
    )  # fmt: skip
    alone = [cell for cell in result.cells if cell["settings"]["objective.temperature"] == "0.07"]
    for ours, theirs in zip(by_workers.cells, alone, strict=True):
        state, expected = (
            load_run(Path(cell["run"])).space.state_dict() for cell in (ours, theirs)
        )
        assert all(state[key].allclose(expected[key], atol=1e-5) for key in expected)
        assert ours["training"]["loss"] == pytest.approx(theirs["training"]["loss"], rel=1e-4)


def test_a_cell_that_fails_is_told_and_the_others_go_on(paired, tmp_path):
    result = learn.sweep(
        paired, "infonce", grid=("optimiser.learning_rate=1e-3,1e30",), settings=QUICK,
        directory=tmp_path / "s",
    )  # fmt: skip
    good, bad = result.cells
    assert good["error"] is None
    assert "not finite" in bad["error"]
    assert bad["scores"] == []
    assert (result.failed, result.best) == (1, 0)


def test_without_a_validation_split_nothing_is_trained(tmp_path):
    testing.fill(tmp_path / "f", clips=60, rows=2, dim=8, classes=4)
    manifest = tmp_path / "all.csv"
    manifest.write_text(
        "path,clip_id,label\n"
        + "".join(f"class00{c}/clip{i:06d}.mp4,class00{c}/clip{i:06d}.mp4,c{c}\n" for i, c in NAMES)
    )
    with pytest.raises(InputError, match=r"no split 'val' to tell .* data\.val_split=NAME"):
        learn.sweep(
            tmp_path / "f", "infonce", grid=("optimiser.seed=0,1",), settings=QUICK,
            directory=tmp_path / "s", manifest=manifest,
        )  # fmt: skip
    assert not (tmp_path / "s").exists()


NAMES = [(i, i % 4) for i in range(40)]


@pytest.mark.parametrize(
    ("grid", "error", "words"),
    [
        ((), ConfigError, "no `grid`"),
        (("optimiser.epochs",), ConfigError, "SECTION.KEY=A,B"),
        (("epochs=1,2",), ConfigError, "SECTION.KEY=A,B"),
        (("optimiser.epochs=1,,2",), ConfigError, "SECTION.KEY=A,B"),
        (("optimiser.epochs=1,1",), ConfigError, "twice"),
        (("optimiser.epochs=1", "optimiser.epochs=2"), ConfigError, "twice"),
        (("optimiser.learning_rate=0.1,1e-1",), ConfigError, "same training"),
        (("optimiser.epoch=1,2",), UnknownSetting, "epochs"),
    ],
)
def test_grids_that_are_none_are_refused_before_anything_is_done(
    paired, tmp_path, grid, error, words
):
    with pytest.raises(error, match=words):
        learn.sweep(paired, "infonce", grid=grid, settings=QUICK, directory=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_other_peoples_directories_and_lines_are_left_alone(paired, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").touch()
    how = {"grid": ("optimiser.seed=0,1",), "settings": QUICK}
    with pytest.raises(InputError, match="something else"):
        learn.sweep(paired, "infonce", directory=tmp_path / "theirs", **how)
    with pytest.raises(ClusterError, match="insecure_tcp"):
        learn.sweep(
            paired, "infonce", directory=tmp_path / "s", scheduler="tcp://10.0.0.1:8786", **how
        )
    assert not (tmp_path / "s").exists()
