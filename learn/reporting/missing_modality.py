"""What is left as queries lose a modality, and what mixing sources would add."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learn.reporting import plots
from learn.reporting.inputs import Gathered, Question
from learn.reporting.naming import MODES, chance_line
from learn.reporting.plots import Drawing, Line
from learn.reporting.sections import Figure, Table, percent


def _told(question: Question, key: str) -> list[tuple[Path, dict[str, Any]]]:
    """The rows of an extra table of results, with the directories they came from."""
    return [(one.path, row) for one in question.results for row in one.result.get(key, ())]


def missing(question: Question, known: Gathered, key: str) -> Iterator[Figure]:
    rows = _told(question, "missing")
    if not rows:
        return
    several = len({path for path, _ in rows}) > 1
    fills = list(dict.fromkeys(row["fill"] for _, row in rows))
    fusions = list(dict.fromkeys(row["fusion"] for _, row in rows))
    shots = max(row["shots"] for _, row in rows)
    drawn: dict[tuple[str, str, str, str], dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for path, row in rows:
        if row["shots"] == shots:
            of = known.names[str(path)] if several else ""
            panel = drawn.setdefault((row["dropped"], row["projection"], row["head"], of), {})
            panel.setdefault((row["fusion"], row["fill"]), []).append(row)
    lows = [row["accuracy"] - (row["ci95"] or 0) for _, row in rows if row["shots"] == shots]
    low = max(0.0, min([question.chance or 1.0, *lows]) - 0.04)
    drawings: list[Drawing] = []
    for (dropped, projection, head, of), curves in drawn.items():
        lines = []
        for (fusion, fill), points in curves.items():
            points = sorted(points, key=lambda row: row["rate"])
            lines.append(
                Line(
                    name=f"{fusion} fusion, {fill}",
                    x=tuple(100 * row["rate"] for row in points),
                    y=tuple(row["accuracy"] for row in points),
                    half=tuple(row["ci95"] for row in points),
                    colour=fills.index(fill),
                    dash=fusions.index(fusion),
                )
            )
        parts = (f"without {MODES[dropped]}", head, known.projection(projection), of)
        best = max(lines, key=lambda line: line.y[-1])
        drawings.append(
            plots.lines(
                f"{key}-missing{len(drawings)}", ", ".join(filter(None, parts)),
                f"Accuracy in percent against the share of queries that lack {dropped}, for "
                f"{len(lines)} ways to go on. At the highest share the best is {best.name}, with "
                f"{100 * best.y[-1]:.1f} percent.",
                lines, x_label=f"queries without {dropped}, %", y_label="accuracy, %",
                y_range=(low, 1.01), reference=chance_line(question),
            )
        )  # fmt: skip
    table = [
        (
            f"{row['head']} · {known.projection(row['projection'])}", row["fusion"], row["fill"],
            row["filled_from"], row["dropped"], f"{100 * row['rate']:g}", str(row["shots"]),
            percent(row["accuracy"]), percent(row["ci95"]),
        )
        for _, row in rows
    ]  # fmt: skip
    columns = (
        "result", "fusion", "fill", "filled from", "lacking", "of queries, %", "shots", "%",
        "± 95 %",
    )  # fmt: skip
    yield Figure(
        title="When a modality is missing",
        lead=f"{shots}-shot. The shots have both modalities; more and more queries lack one, the "
        "same ones for every curve. Colours tell what stands for it, dashes how both are fused.",
        drawings=tuple(drawings),
        tables=(Table(caption="Missing modality", columns=columns, rows=tuple(table)),),
    )


def inflation(question: Question, known: Gathered) -> Iterator[Figure]:
    rows = _told(question, "inflation")
    if not rows:
        return
    table = [
        (
            f"{row['head']} · {known.projection(row['projection'])}",
            f"{row['support']}→{row['query']}", str(row["shots"]), percent(row["guarded"]),
            percent(row["mixed"]), f"{100 * row['inflation']:+.2f}", percent(row["ci95"]),
        )
        for _, row in rows
    ]  # fmt: skip
    columns = ("result", "support→query", "shots", "apart, %", "mixed, %", "points", "± 95 %")
    yield Figure(
        title="What mixing sources would add",
        lead="Accuracy if clips cut from one source were allowed on both sides, on other episodes "
        "of the same classes.",
        tables=(Table(caption="Sources apart and mixed", columns=columns, rows=tuple(table)),),
        open_tables=True,
    )
