"""Plain data drawn: lines, bars, rankings, heat maps, points.

Every drawing is a small one, made for the width of a phone; pages lay several side by side, under
one legend. Nothing depends on colour alone: lines differ in marker or dash, bars in hatching, cells
hold numbers. What has one value only is a bar, never a dot.

Shapes: N = points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from learn.reporting.canvas import HEIGHT as HEIGHT
from learn.reporting.canvas import SERIES as SERIES
from learn.reporting.canvas import WIDE, WIDTH, Canvas, Entry, draw
from learn.reporting.canvas import Caption as Caption
from learn.reporting.canvas import Drawing as Drawing

FEW = 12  # values that may all be ticks
DENSE = 30  # points of a line, of more without markers
LEGEND_CLASSES = 24  # that a legend holds
NUMBERED = 12  # classes of a matrix, of more without numbers
STROKE = 0.12  # half the length of what stands for a line of one point, in ticks
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_HATCHES = ("", "////", "....", "xxxx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot; `half` is half the width of the interval around each y."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    half: tuple[float | None, ...] = ()
    colour: int = 0
    dash: int = 0

    @property
    def entry(self) -> Entry:
        """Its line of a legend."""
        return Entry(
            name=self.name, colour=self.colour % SERIES, dash=self.dash % len(_DASHES),
            marker="" if len(self.x) > DENSE else _marker(self.colour),
        )  # fmt: skip


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
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class YAxis:
    """The axis of what was measured."""

    label: str
    percent: bool = True  # values are shares
    limits: tuple[float, float] | None = None
    reference: Reference | None = None
    diagonal: bool = False  # a dashed line where y is x

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
    """Lines with intervals; of one x only, bars."""
    values = sorted({value for line in drawn for value in line.x})
    if len(values) == 1 and not y.diagonal:
        return _ranking(caption, drawn, y, f"{y.label}, at {values[0]:g} {x.label}")

    def paint(canvas: Canvas) -> None:
        axes = canvas.axes
        for number, line in enumerate(drawn):
            at: Sequence[float] = line.x
            if x.every_value:
                shift = (number - (len(drawn) - 1) / 2) * min(0.05, 0.4 / len(drawn))
                at = [values.index(value) + shift for value in line.x]
            _draw_line(canvas, line, at, y.scale, values[-1] - values[0])
        for mark in x.marks:
            axes.axvline(mark, color=canvas.look.muted, linewidth=0.8, linestyle=":")
        if y.reference:
            _draw_reference(canvas, y.reference, y.scale)
        if y.diagonal:
            axes.plot(
                [0, 100], [0, 100], color=canvas.look.muted, linewidth=1, linestyle=(0, (2, 2))
            )
        _set_x_ticks(axes, values, every=x.every_value)
        if x.limits:
            axes.set_xlim(*x.limits)
            axes.set_xticks(np.linspace(*x.limits, 5))
        if y.limits:
            axes.set_ylim(y.scale * y.limits[0], y.scale * y.limits[1])
        axes.set_xlabel(x.label)
        axes.set_ylabel(y.label)
        axes.grid(axis="y")
        _legend(canvas, legend)

    legend = tuple(line.entry for line in drawn)
    return draw(caption, paint, legend=legend)


def _draw_line(canvas: Canvas, line: Line, at: Sequence[float], scale: int, span: float) -> None:
    style: dict[str, Any] = {
        "label": line.name,
        "color": canvas.colour(line.colour),
        "linestyle": _DASHES[line.dash % len(_DASHES)],
        "marker": line.entry.marker,
    }
    y, half = [scale * value for value in line.y], list(line.half)
    if len(at) == 1:  # a stroke, where a line would be a dot
        reach = STROKE if span < FEW else STROKE * span / 4
        at, y, half = [at[0] - reach, at[0], at[0] + reach], 3 * y, [None, *half, None][:3]
        style["marker"] = ""
    if any(h is not None for h in half):
        error = [scale * (h or 0.0) for h in half] + [0.0] * (len(y) - len(half))
        canvas.axes.errorbar(
            list(at), y, yerr=error, capsize=canvas.size(3.5), elinewidth=1.2, **style
        )
    else:
        canvas.axes.plot(list(at), y, **style)


def _draw_reference(canvas: Canvas, reference: Reference, scale: int) -> None:
    y = scale * reference.value
    canvas.axes.axhline(y, color=canvas.look.muted, linestyle=(0, (2, 2)), linewidth=1)
    canvas.axes.annotate(
        reference.name, (1, y), (-2, 3), ha="right", color=canvas.look.ink,
        xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=canvas.size(11),
    )  # fmt: skip


def _set_x_ticks(axes: Any, values: Sequence[float], *, every: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    names = [f"{x:g}" for x in values]
    if every:
        axes.set_xticks(range(len(values)), names)
        axes.set_xlim(-0.4, len(values) - 0.6)
    elif len(values) <= FEW:
        axes.set_xticks(values, names)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(x == int(x) for x in values)))


def _ranking(caption: Caption, drawn: Sequence[Line], y: YAxis, label: str) -> Drawing:
    """A bar from left to right for each line's only value, with its interval and its number."""

    def paint(canvas: Canvas) -> None:
        axes, most = canvas.axes, max(y.scale * line.y[0] for line in drawn)
        for row, line in enumerate(drawn):
            value = y.scale * line.y[0]
            half = line.half[0] if line.half else None
            axes.barh(row, value, height=0.62, color=canvas.colour(line.colour), alpha=0.85,
                      hatch=_HATCHES[line.dash % len(_HATCHES)], edgecolor=canvas.look.paper,
                      linewidth=0, xerr=None if half is None else y.scale * half,
                      error_kw={"ecolor": canvas.look.ink, "elinewidth": 1.2,
                                "capsize": canvas.size(3.5)})  # fmt: skip
            told = f"{value:.1f}" if y.percent else f"{value:.4g}"
            axes.annotate(
                told, (value + y.scale * (half or 0.0), row), (4, 0), va="center",
                textcoords="offset points", fontsize=canvas.size(11.5),
            )  # fmt: skip
        axes.set_yticks(range(len(drawn)), [_folded(line.name, 20) for line in drawn])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(0, 118 if y.percent else 1.25 * most)
        if y.percent:
            axes.set_xticks(range(0, 101, 25))
        axes.set_xlabel(label)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        if y.reference:
            axes.axvline(
                y.scale * y.reference.value,
                color=canvas.look.ink,
                linestyle=(0, (2, 2)),
                linewidth=1,
            )
            axes.annotate(
                y.reference.name, (y.scale * y.reference.value, 1), (3, 0),
                xycoords=("data", "axes fraction"), textcoords="offset points", va="bottom",
                fontsize=canvas.size(11),
            )  # fmt: skip

    return draw(caption, paint, height=90 + 38 * len(drawn))


def matrix(caption: Caption, content: Matrix) -> Drawing:
    """A heat map of shares with their numbers in it."""

    def paint(canvas: Canvas) -> None:
        axes = canvas.axes
        for y, row in enumerate(content.rows):
            for x, column in enumerate(content.columns):
                if (row, column) in content.cells:
                    _draw_cell(canvas, x, y, content.cells[row, column], content.lowest)
        axes.set_xticks(range(len(content.columns)), content.columns)
        short = ["\n".join(_short(part, 18) for part in row.split(" · ")) for row in content.rows]
        axes.set_yticks(range(len(content.rows)), short)
        axes.set_xlim(-0.5, len(content.columns) - 0.5)
        axes.set_ylim(len(content.rows) - 0.5, -0.5)
        axes.set_xlabel(content.column_label)
        axes.set_ylabel(content.row_label)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    return draw(caption, paint, height=64 + 60 * len(content.rows))


def _draw_cell(
    canvas: Canvas, x: int, y: int, cell: tuple[float, float | None], lowest: float
) -> None:
    value, half = cell
    strength = min(1.0, max(0.0, (value - lowest) / (1 - lowest)))
    _box(canvas, x, y, 0.04 + 0.5 * strength, gap=0.04)
    text: dict[str, Any] = {"ha": "center", "va": "center"}
    canvas.axes.text(x, y - 0.08, f"{100 * value:.1f}", fontsize=canvas.size(14), **text)
    if half is not None:
        told = f"± {100 * half:.1f}"
        canvas.axes.text(x, y + 0.27, told, fontsize=canvas.size(11), **text)


def _box(canvas: Canvas, x: int, y: int, strength: float, *, gap: float) -> None:
    from matplotlib.patches import Rectangle

    half = 0.5 - gap / 2
    box = Rectangle(
        (x - half, y - half), 2 * half, 2 * half, facecolor=canvas.colour(0), alpha=strength,
        edgecolor="none",
    )  # fmt: skip
    canvas.axes.add_patch(box)


def confusion(
    caption: Caption, classes: Sequence[str], shares: Sequence[Sequence[float | None]]
) -> Drawing:
    """Rows are what clips are, columns what they were taken for; cells are shares of the row."""
    many = len(classes) > NUMBERED

    def paint(canvas: Canvas) -> None:
        axes = canvas.axes
        for y, row in enumerate(shares):
            for x, share in enumerate(row):
                if not share:
                    continue
                _box(canvas, x, y, 0.08 + 0.57 * share, gap=0.02)
                told = f"{100 * share:.0f}"
                if told != "0" and (not many or (share >= 0.05 and len(classes) <= 2 * NUMBERED)):
                    size = canvas.size(10.5 if many else 12)
                    axes.text(x, y, told, ha="center", va="center", fontsize=size)
        size = canvas.size(8.5 if len(classes) > 30 else 11)
        short = [_short(name, 16) for name in classes]
        axes.set_xticks(range(len(classes)), short, rotation=90, fontsize=size)
        axes.set_yticks(range(len(classes)), short, fontsize=size)
        axes.set_xlim(-0.5, len(classes) - 0.5)
        axes.set_ylim(len(classes) - 0.5, -0.5)
        axes.set_xlabel("taken for")
        axes.set_ylabel("the clip is")
        axes.tick_params(length=0)
        axes.spines[:].set_color(canvas.look.grid)
        axes.spines[:].set_visible(True)

    return draw(caption, paint, height=WIDE if many else WIDTH, wide=many)


def bars(
    caption: Caption,
    names: Sequence[str],
    groups: Mapping[str, Sequence[float | None]],
    *,
    label: str,
    reference: Reference | None = None,
    percent: bool = True,
) -> Drawing:
    """Bars from left to right, a cluster for each name, a bar in it for each group's value."""
    from matplotlib.ticker import MaxNLocator

    thick, scale = 0.8 / len(groups), 100 if percent else 1

    def paint(canvas: Canvas) -> None:
        axes = canvas.axes
        for number, values in enumerate(groups.values()):
            at = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * thick
            axes.barh(
                at, [scale * (value or 0.0) for value in values], height=0.86 * thick,
                label=legend[number].name, color=canvas.colour(number),
                hatch=_HATCHES[number % len(_HATCHES)], edgecolor=canvas.look.paper, linewidth=0,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), [_short(name, 20) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        if percent:
            axes.set_xlim(0, 100)
            axes.set_xticks(range(0, 101, 25))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel(label)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        if reference:
            axes.axvline(
                100 * reference.value, color=canvas.look.ink, linestyle=(0, (2, 2)), linewidth=1
            )
        _legend(canvas, legend)

    legend = tuple(
        Entry(name=name, colour=i % SERIES, hatch=i % len(_HATCHES), kind="bar")
        for i, name in enumerate(groups)
    )
    height = 76 + len(names) * (10 + 11 * len(groups))
    return draw(caption, paint, height=height, legend=legend)


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
    hollow = [kind == max(kinds) for kind in kinds] or [False] * len(classes)

    def paint(canvas: Canvas) -> None:
        axes = canvas.axes
        for number, name in enumerate(names):
            members = [i for i, c in enumerate(classes) if c == name]
            for drawn_hollow in (False, True):
                chosen = [i for i in members if hollow[i] == drawn_hollow]
                if chosen:
                    colour = canvas.colour(number)
                    axes.plot(
                        points[chosen, 0], points[chosen, 1], linestyle="", markeredgecolor=colour,
                        marker=_marker(number), markerfacecolor="none" if drawn_hollow else colour,
                        label=name if not drawn_hollow else None,
                    )  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(canvas.look.grid)
        _legend(canvas, legend)

    legend = tuple(
        Entry(name=name, colour=i % SERIES, marker=_marker(i), kind="point")
        for i, name in enumerate(names)
    )
    if len(names) > LEGEND_CLASSES:
        legend = ()
    return draw(caption, paint, height=300, legend=legend)


def _legend(canvas: Canvas, entries: Sequence[Entry]) -> None:
    """A legend below the plot, where the drawing stands by itself."""
    if not canvas.look.legends or len(entries) < 2:
        return
    handles, labels = canvas.axes.get_legend_handles_labels()
    letters = min(56, max(map(len, labels)))
    fits = canvas.figure.get_figwidth() / (0.6 + 0.075 * letters)  # inches of a handle and letters
    columns = max(1, min(len(entries), int(fits)))
    canvas.figure.legend(
        handles, [_short(label, 56) for label in labels], loc="outside lower left",
        ncols=columns, handlelength=3.2, numpoints=1,
    )  # fmt: skip


def _marker(number: int) -> str:
    """The marker of that series: it meets the same colour again after 64 of them only."""
    return _MARKERS[(number + number // SERIES) % len(_MARKERS)]


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _folded(name: str, most: int) -> str:
    """A name of several parts, one below the other where that is needed."""
    if len(name) <= most:
        return name
    return "\n".join(_short(part, most) for part in name.split(" · "))
