"""Curves over missing modalities, and what mixing adds."""

import learn
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
