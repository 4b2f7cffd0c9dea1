"""Plain data drawn as SVG that follows the page: its colours are the page's, its words are text.

Every drawing is a small one, made for the width of a phone; pages lay several side by side. Colours
are drawn as stand-ins and then become CSS variables (`--ink`, `--s0` …), so that one drawing serves
light and dark. Nothing depends on colour alone: lines differ in marker or dash, cells hold numbers.

Shapes: N = points.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 360, 270  # pixels at which text has its size
SERIES = 8
FEW = 12  # values that may all be ticks
DENSE = 30  # points of a line, of more without markers
LEGEND_CLASSES = 24  # that a legend holds
_INK, _MUTED, _GRID, _PAPER = "#0a0b0c", "#0a0b0d", "#0a0b0e", "#0a0b0f"
_OF_SERIES = tuple(f"#0b0c{i:02x}" for i in range(SERIES))
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid", _PAPER: "--paper"} | {
    colour: f"--s{i}" for i, colour in enumerate(_OF_SERIES)
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_HATCHES = ("", "////", "....", "xxxx")
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.parse_math": False,  # a class may be called $x$
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.markersize": 5,
    "hatch.linewidth": 0.6,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """The name and description of a drawing, for those who do not see it; `key` begins its ids."""

    key: str
    title: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """An SVG element with its caption."""

    caption: Caption
    svg: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot; `half` is half the width of the interval around each y."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    half: tuple[float | None, ...] = ()
    colour: int = 0
    dash: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A value that others are compared with: a dashed line across the plot."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class XAxis:
    """The axis of what was varied."""

    label: str
    marks: tuple[float, ...] = ()  # dotted lines
    every_value: bool = False  # exactly the values that occur are ticks, evenly apart


@dataclass(frozen=True, slots=True, kw_only=True)
class YAxis:
    """The axis of what was measured."""

    label: str
    percent: bool = True  # values are shares
    limits: tuple[float, float] | None = None
    reference: Reference | None = None

    @property
    def scale(self) -> int:
        """The factor from values to what is drawn."""
        return 100 if self.percent else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Shares, each with half the width of its interval, by row and column; pairs may be empty."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], tuple[float, float | None]]
    row_label: str
    column_label: str
    lowest: float  # where the colour begins


def lines(caption: Caption, drawn: Sequence[Line], *, x: XAxis, y: YAxis) -> Drawing:
    """Lines with intervals."""
    values = sorted({value for line in drawn for value in line.x})
    with _canvas(HEIGHT + 17 * _legend_rows(drawn)) as (figure, axes):
        for number, line in enumerate(drawn):
            at: Sequence[float] = line.x
            if x.every_value:
                shift = (number - (len(drawn) - 1) / 2) * min(0.05, 0.4 / len(drawn))
                at = [values.index(value) + shift for value in line.x]
            _draw_line(axes, line, at, y.scale)
        for mark in x.marks:
            axes.axvline(mark, color=_MUTED, linewidth=0.8, linestyle=":")
        if y.reference:
            _draw_reference(axes, y.reference, y.scale)
        _set_x_ticks(axes, values, every=x.every_value)
        if y.limits:
            axes.set_ylim(y.scale * y.limits[0], y.scale * y.limits[1])
        axes.set_xlabel(x.label)
        axes.set_ylabel(y.label)
        axes.grid(axis="y")
        _legend(figure, drawn)
        return _finished(figure, caption)


def _draw_line(axes: "Axes", line: Line, at: Sequence[float], scale: int) -> None:
    style: dict[str, Any] = {
        "label": line.name,
        "color": _OF_SERIES[line.colour % SERIES],
        "linestyle": _DASHES[line.dash % len(_DASHES)],
        "marker": "" if len(line.x) > DENSE else _marker(line.colour),
        "linewidth": 1.6,
    }
    y = [scale * value for value in line.y]
    if any(half is not None for half in line.half):
        error = [scale * (half or 0.0) for half in line.half]
        axes.errorbar(list(at), y, yerr=error, capsize=2.5, elinewidth=1.2, **style)
    else:
        axes.plot(list(at), y, **style)


def _draw_reference(axes: "Axes", reference: Reference, scale: int) -> None:
    y = scale * reference.value
    axes.axhline(y, color=_MUTED, linestyle=(0, (2, 2)), linewidth=1)
    axes.annotate(
        reference.name, (1, y), (-2, 3), ha="right", color=_INK,
        xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=9,
    )  # fmt: skip


def _set_x_ticks(axes: "Axes", values: Sequence[float], *, every: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    names = [f"{x:g}" for x in values]
    if every:
        axes.set_xticks(range(len(values)), names)
        axes.set_xlim(-0.4, len(values) - 0.6)
    elif len(values) <= FEW:
        axes.set_xticks(values, names)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=all(x == int(x) for x in values)))


def matrix(caption: Caption, content: Matrix) -> Drawing:
    """A heat map of shares with their numbers in it."""
    with _canvas(60 + 58 * len(content.rows)) as (figure, axes):
        for y, row in enumerate(content.rows):
            for x, column in enumerate(content.columns):
                if (row, column) in content.cells:
                    _draw_cell(axes, x, y, content.cells[row, column], content.lowest)
                else:
                    axes.text(x, y, "·", ha="center", va="center", color=_MUTED)
        axes.set_xticks(range(len(content.columns)), content.columns)
        short = ["\n".join(_short(part, 18) for part in row.split(" · ")) for row in content.rows]
        axes.set_yticks(range(len(content.rows)), short)
        axes.set_xlim(-0.5, len(content.columns) - 0.5)
        axes.set_ylim(len(content.rows) - 0.5, -0.5)
        axes.set_xlabel(content.column_label)
        axes.set_ylabel(content.row_label)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return _finished(figure, caption)


def _draw_cell(
    axes: "Axes", x: int, y: int, cell: tuple[float, float | None], lowest: float
) -> None:
    from matplotlib.patches import Rectangle

    value, half = cell
    strength = min(1.0, max(0.0, (value - lowest) / (1 - lowest)))
    box = Rectangle(
        (x - 0.48, y - 0.46), 0.96, 0.92, facecolor=_OF_SERIES[0],
        alpha=0.04 + 0.5 * strength, edgecolor="none",
    )  # fmt: skip
    axes.add_patch(box)
    axes.text(x, y - 0.08, f"{100 * value:.1f}", ha="center", va="center", fontsize=13)
    if half is not None:
        axes.text(x, y + 0.26, f"± {100 * half:.1f}", ha="center", va="center", fontsize=9)


def bars(
    caption: Caption,
    names: Sequence[str],
    groups: Mapping[str, Sequence[float | None]],
    *,
    label: str,
    reference: Reference | None = None,
) -> Drawing:
    """Bars from left to right, a cluster for each name, a bar in it for each group's share."""
    thick = 0.8 / len(groups)
    with _canvas(70 + len(names) * (8 + 10 * len(groups)) + 17) as (figure, axes):
        for number, (name, values) in enumerate(groups.items()):
            at = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * thick
            axes.barh(
                at, [100 * (value or 0.0) for value in values], height=0.86 * thick, label=name,
                color=_OF_SERIES[number % SERIES], hatch=_HATCHES[number % len(_HATCHES)],
                edgecolor=_PAPER, linewidth=0,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), [_short(name, 22) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        if reference:
            axes.axvline(100 * reference.value, color=_INK, linestyle=(0, (2, 2)), linewidth=1)
        if len(groups) > 1:
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=len(groups))
        return _finished(figure, caption)


def scatter(
    caption: Caption,
    points: Float[np.ndarray, "N 2"],
    classes: Sequence[str],
    kinds: Sequence[str] = (),
) -> Drawing:
    """Points of classes, each with its own colour and marker; of two kinds, the second is hollow.

    The legend leaves classes out where there are more than it can hold.
    """
    names = sorted(set(classes))
    listed = names if len(names) <= LEGEND_CLASSES else []
    hollow = [kind == max(kinds) for kind in kinds] or [False] * len(classes)
    with _canvas(290 + 16 * math.ceil(len(listed) / 2)) as (figure, axes):
        for number, name in enumerate(names):
            members = [i for i, c in enumerate(classes) if c == name]
            for drawn_hollow in (False, True):
                chosen = [i for i in members if hollow[i] == drawn_hollow]
                label = _short(name, 20) if name in listed and not drawn_hollow else None
                if chosen:
                    _draw_points(axes, points[chosen], number, label, hollow=drawn_hollow)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(_GRID)
        if listed:
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return _finished(figure, caption)


def _draw_points(
    axes: "Axes", points: Float[np.ndarray, "_ 2"], number: int, label: str | None, *, hollow: bool
) -> None:
    """The points of the class of that number."""
    colour = _OF_SERIES[number % SERIES]
    axes.plot(
        points[:, 0], points[:, 1], linestyle="", marker=_marker(number),
        markerfacecolor="none" if hollow else colour, markeredgecolor=colour, label=label,
    )  # fmt: skip


@contextmanager
def _canvas(height: int) -> Iterator[tuple["Figure", "Axes"]]:
    """A figure of that height in pixels with one plot; no pyplot, so nothing is global."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The page's fonts have letters that matplotlib's own lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        yield figure, figure.add_subplot()


def _legend_rows(drawn: Sequence[Line]) -> int:
    return len(drawn) if len(drawn) > 1 else 0


def _legend(figure: "Figure", drawn: Sequence[Line]) -> None:
    if _legend_rows(drawn):
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles,
            [_short(label, 56) for label in labels],
            loc="outside lower left",
            handlelength=3.2,
            numpoints=1,
        )


def _marker(number: int) -> str:
    """The marker of that series: it meets the same colour again after 64 of them only."""
    return _MARKERS[(number + number // SERIES) % len(_MARKERS)]


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _finished(figure: "Figure", caption: Caption) -> Drawing:
    import matplotlib as mpl

    out = StringIO()
    with mpl.rc_context({"svg.hashsalt": caption.key}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return Drawing(caption=caption, svg=_as_page_element(out.getvalue(), caption))


def _as_page_element(svg: str, caption: Caption) -> str:
    """The drawing as an element of a page: ids of its own, the page's colours, a name."""
    key = caption.key
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box is not None, "matplotlib gives a viewBox"
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", body).replace("xlink:href", "href")
    body = re.sub(r"#0[ab]0[bc][0-9a-f]{2}", lambda m: f"var({_VARIABLES[m[0]]})", body)
    body = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*\n\s*", "\n", body)
    _, _, width, height = (float(x) for x in box[1].split())
    return (
        f'<svg viewBox="{box[1]}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(caption.title)}</title>'
        f'<desc id="{key}-desc">{escape(caption.description)}</desc>{body}'
    )
