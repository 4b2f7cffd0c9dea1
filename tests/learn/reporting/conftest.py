"""Runs of every kind, and a page of them."""

import pytest

import learn
from tests.learn.reporting.pages import FEW, HEADS, MATRIX, Page


@pytest.fixture(scope="session")
def runs(paired, tmp_path_factory):
    """A directory of every kind, all of one store."""
    folder = tmp_path_factory.mktemp("report")
    train = folder / "space"
    learn.train(paired, "infonce", settings=("optimiser.epochs=4",), run_dir=train)
    scored = learn.run_episodes(paired, **FEW, shots=(1, 2), heads=HEADS)
    scored.save(folder / "heads")
    kept = folder / "heads" / "episodes.safetensors"
    crossed = learn.run_episodes(
        paired, episodes_file=kept, projections=(train,), heads=("prototypes",), **MATRIX
    )
    crossed.save(folder / "crossed")
    probe = learn.run_protocol(paired, "linear:folds=2", split="test")
    probe.save(folder / "probe")
    return {name: folder / name for name in ("heads", "crossed", "probe", "space")}


@pytest.fixture(scope="session")
def page(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    summary = learn.report(tuple(runs.values()), path, map_by="pca")
    return Page(path.read_text()), summary
