"""Curves over missing modalities, and what mixing and made features add."""

import learn
from store import testing
from tests.learn.reporting.pages import FEW, Page, result, shown


def test_what_is_missing_and_what_mixing_adds(paired, filled, tmp_path):
    from learn.evaluation.missing_modality import Drop

    dropped = learn.run_episodes(paired, **FEW, support=("av",), drop=Drop(modes=("a",)))
    dropped.save(tmp_path / "dropped")
    learn.run_episodes(filled, **FEW, support=("v",), inflation=True).save(tmp_path / "mixed")
    learn.report((tmp_path / "dropped", tmp_path / "mixed"), tmp_path / "r.html", map_by="none")
    page = Page((tmp_path / "r.html").read_text())
    points = result(tmp_path / "dropped")["missing"]
    for cell, point in zip(page.rows("Missing modality"), points, strict=True):
        assert cell["%"] == shown(point["accuracy"])
        assert (cell["fusion"], cell["fill"]) == (point["fusion"], point["fill"])
        assert float(cell["of queries, %"]) == 100 * point["rate"]
    (added,) = result(tmp_path / "mixed")["inflation"]
    (cell,) = page.rows("Sources apart and mixed")
    assert cell["points"] == f"{100 * added['inflation']:+.2f}"
    assert (cell["apart, %"], cell["mixed, %"]) == (shown(added["guarded"]), shown(added["mixed"]))


def test_what_made_features_give(tmp_path):
    testing.fill(tmp_path / "s", clips=240, rows=2, dim=12, classes=12)
    asked = learn.run_episodes(
        tmp_path / "s", ways=3, queries=4, episodes=30, support=("v",), shots=(1, 2),
        augments=("mixing:count=6",),
    )  # fmt: skip
    asked.save(tmp_path / "made")
    learn.report((tmp_path / "made",), tmp_path / "r.html", map_by="none")
    cells = Page((tmp_path / "r.html").read_text()).rows("With and without made features")
    for cell, row in zip(cells, asked.augmented, strict=True):
        assert (cell["augmentation"], cell["shots"]) == (row.augment, str(row.shots))
        assert (cell["none, %"], cell["with, %"]) == (shown(row.plain), shown(row.accuracy))
        assert cell["points"] == f"{100 * row.gain:+.2f}"
