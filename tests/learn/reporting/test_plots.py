"""Drawings that follow the page."""

import re

import numpy as np

from learn.reporting import plots
from learn.reporting.plots import Caption, Line, Matrix, XAxis, YAxis


def test_drawings_take_the_colours_of_the_page():
    caption = Caption(key="k", title="T", description="D")
    line = Line(name="a", x=(1.0, 5.0), y=(0.2, 0.4), half=(0.01, None))
    shares = Matrix(
        rows=("v",), columns=("v", "a"), cells={("v", "v"): (0.5, 0.1)}, row_label="r",
        column_label="c", lowest=0.2,
    )  # fmt: skip
    groups = {"v": [0.5, None], "a": [1.0, 0.0]}
    drawings = [
        plots.lines(caption, [line], x=XAxis(label="x", marks=(2.0,)), y=YAxis(label="y")),
        plots.matrix(caption, shares),
        plots.bars(caption, ["x", "y"], groups, label="x"),
        plots.scatter(caption, np.eye(2), ["x", "y"], ["v", "a"]),
    ]
    for drawing in drawings:
        assert not re.search(r"#[0-9a-fA-F]{6}\b|rgb\(", drawing.svg)
        assert "var(--ink)" in drawing.svg or "var(--s0)" in drawing.svg
        assert set(re.findall(r"--\w+", drawing.svg)) <= {
            "--ink", "--muted", "--grid", "--paper", *(f"--s{i}" for i in range(plots.SERIES)),
        }  # fmt: skip
