"""One call over support x query x projection, on the same clips."""

import pytest

import learn
from learn.commands.tables import episodes_table
from store.errors import InputError

MODES = ("v", "a", "av")
ASKED = {"ways": 4, "queries": 3, "episodes": 40, "support": MODES, "query": MODES}


@pytest.fixture(scope="module")
def run(paired, tmp_path_factory):
    path = tmp_path_factory.mktemp("matrix") / "infonce"
    settings = ("optimiser.epochs=3", "projection.hidden=32", "projection.dim_out=16")
    learn.train(paired, "infonce", settings=settings, run_dir=path)
    return path


def test_one_call_gives_nine_cells_on_the_same_clips_and_episodes(paired, run):
    result = learn.run_episodes(paired, **ASKED, projections=(run,))
    cells = [(row.support, row.query) for row in result.results]
    assert cells == [(s, q) for s in MODES for q in MODES]
    assert len({row.clips for row in result.results}) == 1
    single = learn.run_episodes(
        paired, **ASKED | {"support": ("a",), "query": ("v",)}, projections=(run,)
    ).results[0]
    (same,) = (row for row in result.results if (row.support, row.query) == ("a", "v"))
    assert (same.accuracy, same.trained) == (single.accuracy, "av")


def test_each_projection_gives_the_cells_that_it_can(paired, run):
    seen = []
    result = learn.run_episodes(
        paired, **ASKED, projections=("none", run), progress=lambda *update: seen.append(update[:2])
    )
    stored = [(r.support, r.query) for r in result.results if r.projection == "none"]
    assert stored == [(mode, mode) for mode in MODES]
    assert [r.trained for r in result.results] == ["none"] * 3 + ["av"] * 9
    assert seen == [(i, 12) for i in range(1, 13)]


def test_the_mode_of_training_is_told(paired, run, tmp_path):
    """Training x support x query: a projection of one modality fills its one cell."""
    settings = ("optimiser.epochs=1", "projection.hidden=8", "data.audio=none")
    learn.train(paired, "cross_entropy", settings=settings, run_dir=tmp_path / "v")
    result = learn.run_episodes(paired, **ASKED, projections=(tmp_path / "v", run))
    assert [r.trained for r in result.results] == ["v"] + ["av"] * 9
    assert (result.results[0].support, result.results[0].query) == ("v", "v")


def test_cells_that_no_projection_gives_are_refused(paired):
    with pytest.raises(InputError, match="support v against query a needs a common space"):
        learn.run_episodes(paired, **ASKED)


def test_the_table_is_a_matrix(paired, run, capsys):
    result = learn.run_episodes(paired, **ASKED, projections=(run,)).to_dict()
    episodes_table(result)
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if "support down, query across" in line)
    assert lines[start + 1].split() == list(MODES)
    assert [line.split()[0] for line in lines[start + 2 : start + 5]] == list(MODES)
    shown = {(r["support"], r["query"]): f"{100 * r['accuracy']:.1f}" for r in result["results"]}
    assert lines[start + 3].split()[4] == shown["a", "a"]
