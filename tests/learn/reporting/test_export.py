"""Figures and tables for a paper: all of them, in every form, with nothing that LaTeX would run."""

import csv
import io
import json

import numpy as np
import pytest

import learn
from learn.reporting import plots
from learn.reporting.canvas import COLUMN_INCHES, DOTS_AN_INCH
from learn.reporting.export import as_csv, as_latex, latex
from learn.reporting.plots import Caption, Line, XAxis, YAxis
from learn.reporting.sections import Table
from store.errors import InputError, MissingFile

CAPTION = Caption(key="k", title="T", description="D")


def test_every_figure_and_table_of_the_page_is_written(runs, tmp_path):
    summary = learn.report(
        (runs["heads"], runs["probe"], runs["space"]), tmp_path / "r.html", map_by="none",
        figures=tmp_path / "paper",
    )  # fmt: skip
    names = {
        p.relative_to(tmp_path / "paper").as_posix() for p in (tmp_path / "paper").rglob("*.*")
    }
    assert len(names) == summary.files
    stems = {name.rpartition(".")[0] for name in names}
    figures = {s for s in stems if s.startswith("figures/")}
    assert len(figures) == summary.figures
    assert {f"{s}.{kind}" for s in figures for kind in ("svg", "pdf", "png")} <= names
    tables = stems - figures
    assert {f"{s}.{kind}" for s in tables for kind in ("csv", "tex")} <= names
    assert {"tables/in-short", "tables/q0-which-is-better", "tables/q0-how-many-clips"} <= tables
    assert len(list(tables)) == (tmp_path / "r.html").read_text().count("<table>")
    with (tmp_path / "paper/tables/q0-accuracy-against-shots.csv").open() as file:
        rows = list(csv.DictReader(file))
    results = json.loads((runs["heads"] / "result.json").read_text())["results"]
    assert [row["%"] for row in rows] == [f"{100 * r['accuracy']:.2f}" for r in results]


def test_what_is_there_is_left_alone(runs, tmp_path):
    (tmp_path / "paper").mkdir()
    with pytest.raises(InputError, match="`figures`"):
        learn.report((runs["heads"],), tmp_path / "r.html", figures=tmp_path / "paper")
    with pytest.raises(MissingFile, match="make it first"):
        learn.report((runs["heads"],), tmp_path / "r.html", figures=tmp_path / "no" / "paper")
    assert not (tmp_path / "r.html").exists()


def test_a_figure_is_as_wide_as_a_column_and_the_same_each_time():
    line = Line(name="a", x=(1.0, 2.0), y=(0.2, 0.4), half=(0.1, 0.1))
    drawn = plots.lines(CAPTION, [line, line], x=XAxis(label="x"), y=YAxis(label="y"))
    wide = int.from_bytes(drawn.as_file("png")[16:20])  # of the header of a PNG
    assert wide == round(COLUMN_INCHES * DOTS_AN_INCH)
    for form in ("svg", "pdf", "png"):
        assert drawn.as_file(form) == drawn.as_file(form)
    assert b"--ink" not in drawn.as_file("svg")
    assert drawn.as_file("pdf").startswith(b"%PDF")


def test_what_has_one_value_is_a_bar_and_no_dot():
    one = Line(name="a", x=(5.0,), y=(0.2,), half=(0.1,))
    drawn = plots.lines(CAPTION, [one, one], x=XAxis(label="shots"), y=YAxis(label="y, %"))
    assert ">20.0<" in drawn.svg
    assert "at 5 shots" in drawn.svg
    other = Line(name="b", x=(1.0, 5.0), y=(0.2, 0.4), colour=1)
    mixed = plots.lines(
        CAPTION, [one, other], x=XAxis(label="x", every_value=True), y=YAxis(label="y")
    )
    alone = plots.lines(CAPTION, [other], x=XAxis(label="x", every_value=True), y=YAxis(label="y"))
    markers = [drawing.svg.count("<use") for drawing in (mixed, alone)]
    assert markers[0] - markers[1] <= 6  # the caps of an interval, and no marker in three places


def test_a_matrix_of_many_classes_takes_the_whole_width():
    shares = np.eye(26).tolist()
    names = [f"class {i}" for i in range(26)]
    assert plots.confusion(CAPTION, names, shares).wide
    assert not plots.confusion(CAPTION, names[:5], np.eye(5).tolist()).wide


def test_latex_takes_no_text_for_a_command():
    assert latex(r"a_b & 50 % of \x{y} $x$ #1 ~ ^") == (
        r"a\_b \& 50 \% of \textbackslash{}x\{y\} \$x\$ \#1 \textasciitilde{} \textasciicircum{}"
    )
    assert latex("a\n\\input{/etc/passwd}") == r"a \textbackslash{}input\{/etc/passwd\}"
    assert latex("[x] ± →") == r"{[x] $\pm$ $\rightarrow$}"
    table = Table(
        caption="a\n\\x", columns=("n_1", "%"), rows=(("a&b", "1.50"), ("c", "12.25 ± 0.10"))
    )
    text = as_latex(table)
    assert text.splitlines()[0] == "% a \\x"
    assert "\\begin{tabular}{lr}" in text
    assert r"a\&b & 1.50 \\" in text
    assert list(csv.reader(io.StringIO(as_csv(table)))) == [
        list(table.columns),
        *map(list, table.rows),
    ]
    long = Table(caption="c", columns=("a",), rows=(("x",),) * 60)
    assert "\\begin{longtable}{l}" in as_latex(long)
