"""Tables and drawings of episodes say what the results say."""

import re

import learn
from store import testing
from tests.learn.reporting.pages import HEADS, Page, result, shown


def test_accuracies_are_those_of_the_results(page, runs):
    rows = [row for name in ("heads", "crossed") for row in result(runs[name])["results"]]
    cells = page[0].rows("Accuracy")
    assert len(cells) == len(rows) == 3 * 3 * 2 + 9 * 2
    for cell, row in zip(cells, rows, strict=True):
        assert (cell["%"], cell["± 95 %"]) == (shown(row["accuracy"]), shown(row["ci95"]))
        assert cell["result"].startswith(row["head"])
        assert int(cell["shots"]) == row["shots"]
    assert {cell["result"] for cell in cells} == {
        *(f"{head} · stored vectors" for head in HEADS), "prototypes · space",
    }  # fmt: skip


def test_the_matrix_holds_every_pair_of_modes(page, runs):
    rows = result(runs["crossed"])["results"]
    cells = {
        (c["result"], c["shots"], c["support"], c["query"]): c["%"]
        for c in page[0].rows("Support and query")
    }
    for row in rows:
        key = ("prototypes · space", str(row["shots"]), row["support"], row["query"])
        assert cells[key] == shown(row["accuracy"])
    drawings = re.findall(r"<svg(?:(?!</svg>).)*q0-matrix0-title.*?</svg>", page[0].html, re.DOTALL)
    written = re.findall(r">(\d+\.\d)</text>", drawings[0])
    assert written == [f"{100 * row['accuracy']:.1f}" for row in rows if row["shots"] == 1]


def test_episodes_of_other_shapes_are_reported_without_chance(filled, tmp_path):
    for task in ("any_way_any_shot", "imbalanced"):
        scored = learn.run_episodes(
            filled, task=task, queries=4, episodes=20, heads=("prototypes",), support=("v",)
        )
        scored.save(tmp_path / task)
    out = tmp_path / "r.html"
    learn.report((tmp_path / "any_way_any_shot", tmp_path / "imbalanced"), out, map_by="none")
    ragged, even = Page(out.read_text()).html.split("</h2>")[3:5]
    assert "task any_way_any_shot" in ragged
    assert "task imbalanced" in even
    assert "chance is" in even
    assert "chance is" not in ragged


def test_what_is_no_accuracy_is_not_called_so(tmp_path):
    import store

    testing.fill(tmp_path / "s", clips=300, rows=2, dim=8, classes=12)
    few = {"episodes": 20, "queries": 3, "support": ("v",)}
    scored = learn.run_episodes(tmp_path / "s", task="generalised", ways=2, **few)
    scored.save(tmp_path / "both")
    clips = store.open(tmp_path / "s").manifest().clip_ids
    lines = [f"{c},{c},a{i % 4};b{i % 3}" for i, c in enumerate(clips)]
    (tmp_path / "m.csv").write_text("\n".join(["path,clip_id,label", *lines]))
    several = {"task": "multi_label", "manifest": tmp_path / "m.csv", "ways": 3}
    learn.run_episodes(tmp_path / "s", **several, **few).save(tmp_path / "several")
    learn.report((tmp_path / "both", tmp_path / "several"), tmp_path / "r.html", map_by="pca")
    both, several = Page((tmp_path / "r.html").read_text()).html.split("</h2>")[3:5]
    assert "Harmonic mean against shots" in both
    assert "mAP against shots" in several
    (row,) = result(tmp_path / "both")["results"]
    (cell,) = Page(both).rows("Harmonic mean")
    assert cell["%"] == shown(row["accuracy"])
    assert f"unseen {shown(row['parts']['unseen'])}" in cell["notes"]
    assert "a1;b2" in several  # on the map
    assert "chance" not in several
