"""Accuracy as queries lose a modality; what mixing sources and made features would add."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from learn.reporting import plots
from learn.reporting.inputs import Question, ReportInputs
from learn.reporting.naming import MODES, chance_line
from learn.reporting.plots import Caption, Drawing, Line, XAxis, YAxis
from learn.reporting.sections import Figure, Table, percent

Point = Mapping[str, Any]  # as `learn.evaluation.missing_modality.Missing`
_Panel = tuple[str, str, str, str]  # dropped, projection, head, directory


def missing_figures(question: Question, inputs: ReportInputs, key: str) -> Iterator[Figure]:
    """Curves of the largest number of shots, and a table of them all."""
    points = _extra_rows(question, "missing")
    if not points:
        return
    shots = max(point["shots"] for _, point in points)
    drawn = [(path, point) for path, point in points if point["shots"] == shots]
    lows = [point["accuracy"] - (point["ci95"] or 0) for _, point in drawn]
    low = max(0.0, min([question.chance or 1.0, *lows]) - 0.04)
    y = YAxis(label="accuracy, %", limits=(low, 1.01), reference=chance_line(question))
    fills = list(dict.fromkeys(point["fill"] for _, point in points))
    fusions = list(dict.fromkeys(point["fusion"] for _, point in points))
    several = len({path for path, _ in points}) > 1
    drawings: list[Drawing] = []
    for (dropped, projection, head, run), panel in _panels(drawn, inputs, several=several).items():
        lines = [_line(curve, fills, fusions) for curve in _curves(panel)]
        title = (f"without {MODES[dropped]}", head, inputs.projection_name(projection), run)
        caption = Caption(
            key=f"{key}-missing{len(drawings)}",
            title=", ".join(filter(None, title)),
            description=_description(dropped, lines),
        )
        x = XAxis(label=f"queries without {dropped}, %")
        drawings.append(plots.lines(caption, lines, x=x, y=y))
    yield Figure(
        title="When a modality is missing",
        lead=f"{shots}-shot. The shots have both modalities; more and more queries lack one, the "
        "same ones for every curve. Colours tell what stands for it, dashes how both are fused.",
        drawings=tuple(drawings),
        tables=(_missing_table([point for _, point in points], inputs),),
    )


def inflation_figures(question: Question, inputs: ReportInputs) -> Iterator[Figure]:
    """A table of what each result would gain if sources were mixed."""
    gains = _extra_rows(question, "inflation")
    if not gains:
        return
    rows = tuple(
        (
            f"{gain['head']} · {inputs.projection_name(gain['projection'])}",
            f"{gain['support']}→{gain['query']}", str(gain["shots"]), percent(gain["guarded"]),
            percent(gain["mixed"]), f"{100 * gain['inflation']:+.2f}", percent(gain["ci95"]),
        )
        for _, gain in gains
    )  # fmt: skip
    columns = ("result", "support→query", "shots", "apart, %", "mixed, %", "points", "± 95 %")
    yield Figure(
        title="What mixing sources would add",
        lead="Accuracy if clips cut from one source were allowed on both sides, on other episodes "
        "of the same classes.",
        tables=(Table(caption="Sources apart and mixed", columns=columns, rows=rows),),
        open_tables=True,
    )


def augmented_figures(question: Question, inputs: ReportInputs) -> Iterator[Figure]:
    """A table of what features made for the support give each head."""
    gains = _extra_rows(question, "augmented")
    if not gains:
        return
    rows = tuple(
        (
            f"{gain['head']} · {inputs.projection_name(gain['projection'])}",
            f"{gain['support']}→{gain['query']}", gain["augment"], str(gain["shots"]),
            percent(gain["plain"]), percent(gain["accuracy"]), f"{100 * gain['gain']:+.2f}",
            percent(gain["ci95"]),
        )
        for _, gain in gains
    )  # fmt: skip
    columns = (
        "result", "support→query", "augmentation", "shots", "none, %", "with, %", "points",
        "± 95 %",
    )  # fmt: skip
    yield Figure(
        title="What features made for the support give",
        lead="Each against none on the same episodes. A projection's vectors are asked alone, "
        "without stored ones beside them.",
        tables=(Table(caption="With and without made features", columns=columns, rows=rows),),
        open_tables=True,
    )


def _extra_rows(question: Question, key: str) -> list[tuple[Path, Mapping[str, Any]]]:
    """The rows of an extra table of results, with the directories they came from."""
    return [(saved.path, row) for saved in question.results for row in saved.result.get(key, ())]


def _panels(
    points: Sequence[tuple[Path, Point]], inputs: ReportInputs, *, several: bool
) -> dict[_Panel, list[Point]]:
    """The points of each drawing; `several` directories are told apart."""
    panels: dict[_Panel, list[Point]] = {}
    for path, point in points:
        run = inputs.run_name(path) if several else ""
        panel = (point["dropped"], point["projection"], point["head"], run)
        panels.setdefault(panel, []).append(point)
    return panels


def _curves(points: Sequence[Point]) -> list[list[Point]]:
    """Points of one fusion and fill, by rate."""
    curves: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        curves.setdefault((point["fusion"], point["fill"]), []).append(point)
    return [sorted(curve, key=lambda point: point["rate"]) for curve in curves.values()]


def _line(curve: Sequence[Point], fills: Sequence[str], fusions: Sequence[str]) -> Line:
    fusion, fill = curve[0]["fusion"], curve[0]["fill"]
    return Line(
        name=f"{fusion} fusion, {fill}",
        x=tuple(100 * point["rate"] for point in curve),
        y=tuple(point["accuracy"] for point in curve),
        half=tuple(point["ci95"] for point in curve),
        colour=fills.index(fill),
        dash=fusions.index(fusion),
    )


def _description(dropped: str, lines: Sequence[Line]) -> str:
    best = max(lines, key=lambda line: line.y[-1])
    return (
        f"Accuracy in percent against the share of queries that lack {dropped}, for "
        f"{len(lines)} ways to go on. At the highest share the best is {best.name}, with "
        f"{100 * best.y[-1]:.1f} percent."
    )


def _missing_table(points: Sequence[Point], inputs: ReportInputs) -> Table:
    return Table(
        caption="Missing modality",
        columns=(
            "result", "fusion", "fill", "filled from", "lacking", "of queries, %", "shots", "%",
            "± 95 %",
        ),
        rows=tuple(
            (
                f"{point['head']} · {inputs.projection_name(point['projection'])}",
                point["fusion"], point["fill"], point["filled_from"], point["dropped"],
                f"{100 * point['rate']:g}", str(point["shots"]), percent(point["accuracy"]),
                percent(point["ci95"]),
            )
            for point in points
        ),
    )  # fmt: skip
