"""Confusion matrices, calibration, counts, verdicts and command lines on the page."""

import json

import learn
from learn.commands.options import keep_command
from store import open as open_store
from tests.learn.reporting.pages import FEW, Page, shown


def test_the_matrix_is_that_of_the_answers(page, runs):
    row = next(
        of
        for of, result in zip(
            json.loads((runs["heads"] / "answers.json").read_text()),
            json.loads((runs["heads"] / "result.json").read_text())["results"],
            strict=True,
        )
        if result["shots"] == 2 and result["support"] == "v"
    )
    matrix = row["matrix"]
    on_page = page[0].rows("Confusion matrix, v (sight), stored vectors, %")
    for name, times, of in zip(matrix["classes"], matrix["times"], matrix["of"], strict=True):
        (line,) = [line for line in on_page if line["is \\ taken for"] == name]
        expected = {
            c: shown(t / n if n else None)
            for c, t, n in zip(matrix["classes"], times, of, strict=True)
        }
        assert {c: line[c] for c in matrix["classes"]} == expected


def test_calibration_and_counts_are_on_the_page(page, runs, paired):
    rows = page[0].rows("Mean distance of confidence from truth")
    assert "v (sight), stored vectors" in {row["result"] for row in rows}
    assert all(0 <= float(row["points"]) <= 100 and int(row["answers"]) > 100 for row in rows)
    table = open_store(paired).manifest().select(split="test")
    counts = {row["class"]: int(row["clips"]) for row in page[0].rows("Clips of each class")}
    assert sum(counts.values()) == len(table)


def test_verdicts_are_those_of_learn_compare(page, runs):
    found = learn.compare([runs["heads"], runs["crossed"]], against="best")
    rows = page[0].rows("Verdicts")
    assert len(rows) == len(found.differences)
    for row, one in zip(rows, found.differences, strict=True):
        assert row["points"] == f"{100 * one.difference:+.2f}"
        assert (row["verdict"] == "worse") == (one.verdict == "worse")


def test_a_run_has_the_stored_vectors_beside_it_or_it_is_said_that_it_has_not(runs, page, tmp_path):
    rows = page[0].rows("Accuracy")
    assert {row["stored %"] for row in rows if row["mode"] == "v→a"} <= {"", "not scored"}
    assert "not-beside-stored" in page[1].caveats
    both = learn.run_episodes(
        json.loads((runs["heads"] / "result.json").read_text())["episodes"]["store"], **FEW,
        shots=(1,), support=("v",), projections=("none", runs["space"]), heads=("prototypes",),
    )  # fmt: skip
    both.save(tmp_path / "both")
    learn.report((tmp_path / "both",), tmp_path / "r.html", map_by="none")
    stored, run = Page((tmp_path / "r.html").read_text()).rows("Accuracy")
    assert stored["stored %"] == ""
    assert run["stored %"] == stored["%"]
    assert abs(float(run["points"]) - (float(run["%"]) - float(stored["%"]))) < 0.011


def test_command_lines_are_as_they_were_typed(runs, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    for path in runs["heads"].iterdir():
        (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("sys.argv", ["/x/learn", "episodes", "my store", "-o", "<b>run\nx"])
    keep_command(tmp_path / "run")
    learn.report((tmp_path / "run", runs["probe"]), tmp_path / "r.html", map_by="none")
    text = (tmp_path / "r.html").read_text()
    rows = Page(text).rows("Command lines")
    assert rows[0]["command line"] == "learn episodes 'my store' -o '<b>run x'"
    assert rows[1]["command line"].startswith("not kept")
    assert "<b>run" not in text
