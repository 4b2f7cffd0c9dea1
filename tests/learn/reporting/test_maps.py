"""The figure of the maps."""

import learn
from store import testing
from tests.learn.reporting.pages import FEW, result


def test_the_map_holds_every_clip(page, runs):
    places = page[0].rows("Places")
    clips = result(runs["heads"])["episodes"]["clips"]
    assert len(places) == clips * (3 + 2)  # v, a, av; and a space's two modalities
    assert {place["projection"] for place in places} == {"stored vectors", "space"}


def test_a_store_that_is_gone_costs_the_map_only(tmp_path):
    store = tmp_path / "store"
    testing.fill(store, clips=160, rows=2, dim=8, classes=8)
    learn.run_episodes(store, **{**FEW, "ways": 2}, split="all").save(tmp_path / "run")
    store.rename(tmp_path / "elsewhere")
    summary = learn.report((tmp_path / "run",), tmp_path / "r.html")
    assert any(note.startswith("No map of stored vectors") for note in summary.notes)
    (tmp_path / "run" / "answers.json").unlink()
    summary = learn.report((tmp_path / "run",), tmp_path / "s.html")
    assert any("before answers were kept" in note for note in summary.notes)
