"""What results of `learn episodes` on the same episodes tell.

Source: `learn/results.py`, `learn/answers.py` and `learn/missing.py` write what is drawn here.
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from learn.reporting import plots
from learn.reporting.gathered import Gathered, Question, Row
from learn.reporting.plots import SERIES, Drawing, Line
from learn.reporting.sections import (
    BARS,
    Confused,
    Example,
    Figure,
    Pair,
    Section,
    Table,
    percent,
)
from learn.tables import CLASSIC, TOLD

PAIRS = 6  # confused pairs shown of a mode
MODES = {"v": "v (sight)", "a": "a (sound)", "av": "av (both)"}


def of_question(question: Question, known: Gathered, key: str, title: str) -> Section:
    """Everything that results on the same episodes tell, but for the map."""
    told = question.sampling
    apart = told.get("groups", "within")
    sources = {
        "within": "clips of one source are kept apart within a class",
        "strict": "clips of one source are kept apart across all classes of an episode",
        "mixed": "clips of one source may meet",
    }[apart if told["group"] else "mixed"]
    asked = f"{told['ways']}-way episodes with {told['queries']} queries a class"
    if told.get("task", CLASSIC) != CLASSIC:
        settings = [f"{key} {told[key]:g}" for key in TOLD if key in told]
        asked = f"Episodes of task {told['task']} ({', '.join(settings)})"
    lead = (
        f"{asked}, {told['episodes']:,} for each number of shots, drawn once and the same "
        f"for every result; {told['clips']} clips of {told['classes']} classes, column "
        f"{told['label']}, split {told['split']}; {sources}."
    )
    section = Section(key=key, title=title, lead=lead)
    section.notes.extend(_left_out(question))
    section.figures.append(_shots(question, known, key))
    section.figures.extend(_matrices(question, known, key))
    section.figures.extend(_missing(question, known, key))
    section.figures.extend(_inflation(question, known))
    section.figures.extend(_classes(question, known, key))
    section.confused.extend(_confused(question, known))
    if any(row.answers is None for row in question.rows):
        section.notes.append(
            "Some results were written before answers were kept: they have no classes and no "
            "confused pairs. Score them again to see these."
        )
    return section


def _chance(question: Question) -> tuple[str, float] | None:
    return None if question.chance is None else ("chance", question.chance)


def _left_out(question: Question) -> Iterator[str]:
    told = question.sampling
    if gone := [f"{n} {why}" for why, n in told["dropped"].items() if n]:
        yield f"Left out, so that every mode is asked about the same clips: {', '.join(gone)}."
    for draw in told["draws"]:
        if idle := draw["classes_never_drawn"]:
            yield (
                f"{draw['shots']}-shot episodes leave out {len(idle)} classes of too few clips: "
                f"{', '.join(idle)}."
            )


# ── accuracy against shots ───────────────────────────────────────────────────────────────────────


def _shots(question: Question, known: Gathered, key: str) -> Figure:
    heads = list(dict.fromkeys(row.told["head"] for row in question.rows))
    others = list(dict.fromkeys(_apart_from_head(row, question, known) for row in question.rows))
    lows = [row.told["accuracy"] - (row.told["ci95"] or 0) for row in question.rows]
    low = max(0.0, min([question.chance or 1.0, *lows]) - 0.04)
    drawings = []
    for number, modes in enumerate(_together(question, known)):
        drawn = []
        for mode in modes:
            some = [row for row in question.rows if row.mode == mode]
            for name, rows in _series(some, question, known):
                rows = sorted(rows, key=lambda row: row.told["shots"])
                drawn.append(
                    Line(
                        name=name if len(modes) == 1 else f"{mode} · {name}",
                        x=tuple(float(row.told["shots"]) for row in rows),
                        y=tuple(row.told["accuracy"] for row in rows),
                        half=tuple(row.told["ci95"] for row in rows),
                        colour=heads.index(rows[0].told["head"]) + modes.index(mode),
                        dash=others.index(_apart_from_head(rows[0], question, known)),
                    )
                )
        mode = modes[0] if len(modes) == 1 else "support → query"
        best = max((line.y[-1], line.name) for line in drawn)
        drawings.append(
            plots.lines(
                f"{key}-shots{number}", mode_name(mode),
                f"Accuracy in percent of {len(drawn)} results in mode {mode} against the number of "
                f"shots. The highest at {question.shots[-1]} shots is {100 * best[0]:.1f} percent "
                f"({best[1]})"
                + (f"; chance is {100 * question.chance:.1f}." if question.chance else "."),
                drawn, x_label="shots a class", y_label="accuracy, %", every_x=True,
                y_range=(low, 1.01), reference=_chance(question),
            )
        )  # fmt: skip
    table = [
        (
            _name(row, question, known), row.mode, str(row.told["shots"]),
            percent(row.told["accuracy"]), percent(row.told["ci95"]),
            f"{row.told['episodes']:,}", row.told["ci_method"],
            _marks(row),
        )
        for row in question.rows
    ]  # fmt: skip
    columns = ("result", "mode", "shots", "%", "± 95 %", "episodes", "interval", "notes")
    return Figure(
        title="Accuracy against shots",
        lead="A drawing for each mode; bars are 95 % intervals over episodes of these clips, and "
        "say nothing of other clips or classes.",
        drawings=tuple(drawings),
        tables=(Table(caption="Accuracy", columns=columns, rows=tuple(table)),),
    )


def _together(question: Question, known: Gathered) -> list[list[str]]:
    """The modes of each drawing: one, or all across modalities where these are few lines."""
    across = [mode for mode in question.modes if "→" in mode]
    lines = {(row.mode, _name(row, question, known)) for row in question.rows if row.mode in across}
    apart = [[mode] for mode in question.modes if mode not in across or len(lines) > SERIES]
    return [*apart, across] if across and len(lines) <= SERIES else apart


def _series(
    rows: Sequence[Row], question: Question, known: Gathered
) -> Iterator[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_name(row, question, known), []).append(row)
    yield from found.items()


def _name(row: Row, question: Question, known: Gathered) -> str:
    """A result by what tells it from others of its mode."""
    parts = [str(row.told["head"]), _apart_from_head(row, question, known)]
    return " · ".join(filter(None, parts))


def _apart_from_head(row: Row, question: Question, known: Gathered) -> str:
    parts = []
    if len({other.told["projection"] for other in question.rows}) > 1:
        parts.append(known.projection(row.told["projection"]))
    key = _key(row)
    if any(_key(other) == key and other.run != row.run for other in question.rows):
        parts.append(known.names[str(row.run)])
    return " · ".join(parts)


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.told[k] for k in ("head", "projection", "support", "query", "shots"))


def _marks(row: Row) -> str:
    told = row.told
    marks = {
        "untrained weights": told["untrained"],
        "transductive": told["transductive"],
        f"{told['seen_in_training']} clips seen in training": told["seen_in_training"],
        f"centred by {told['centred_by']}": told["centred_by"] != "none",
    }
    return ", ".join(mark for mark, holds in marks.items() if holds)


# ── which modality ───────────────────────────────────────────────────────────────────────────────


def _matrices(question: Question, known: Gathered, key: str) -> Iterator[Figure]:
    rows = question.rows
    supports = _in_order({row.told["support"] for row in rows})
    queries = _in_order({row.told["query"] for row in rows})
    if len(question.modes) < 2:
        return
    across = any(row.told["support"] != row.told["query"] for row in rows)
    drawings: list[Drawing] = []
    for shots in question.shots:
        of_shots = [row for row in rows if row.told["shots"] == shots]
        for name, some in _series(of_shots, question, known):
            if across and all(row.told["support"] == row.told["query"] for row in some):
                continue
            cells = {
                (row.told["support"], row.told["query"]): (row.told["accuracy"], row.told["ci95"])
                for row in some
            }
            best = max(cells, key=lambda cell: cells[cell][0])
            drawings.append(
                plots.matrix(
                    f"{key}-matrix{len(drawings)}", f"{shots}-shot, {name}",
                    f"Accuracy in percent by the modes of support and query. The "
                    f"highest is support {best[0]}, query {best[1]}: {100 * cells[best][0]:.1f}.",
                    supports, queries, cells,
                    row_label="support", column_label="query", lowest=question.chance or 0.0,
                )
            )  # fmt: skip
    table = [
        (
            _name(row, question, known), row.told.get("trained", ""), str(row.told["shots"]),
            row.told["support"], row.told["query"], percent(row.told["accuracy"]),
            percent(row.told["ci95"]),
        )
        for row in rows
    ]  # fmt: skip
    yield Figure(
        title="Which modality",
        lead="What is learnt from (support) against what is asked about (query): v is sight, a is "
        "sound, av is both. The stronger the colour, the further above chance."
        + (
            " Results without an answer across modalities are in the table."
            if across
            else " To ask across modalities takes a projection into a common space."
        ),
        drawings=tuple(drawings),
        tables=(
            Table(
                caption="Support and query",
                columns=("result", "trained in", "shots", "support", "query", "%", "± 95 %"),
                rows=tuple(table),
            ),
        ),
    )


def _in_order(modes: set[str]) -> list[str]:
    return [mode for mode in MODES if mode in modes]


def mode_name(mode: str) -> str:
    one, _, other = mode.partition("→")
    if other:
        return f"support {one} → query {other}"
    return MODES[mode]


# ── a modality goes missing; sources mix ─────────────────────────────────────────────────────────


def _told(question: Question, key: str) -> list[tuple[Path, dict[str, Any]]]:
    """The rows of an extra table of results, with the directories they came from."""
    return [(one.path, row) for one in question.results for row in one.result.get(key, ())]


def _missing(question: Question, known: Gathered, key: str) -> Iterator[Figure]:
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
                y_range=(low, 1.01), reference=_chance(question),
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


def _inflation(question: Question, known: Gathered) -> Iterator[Figure]:
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


# ── classes and confusions ───────────────────────────────────────────────────────────────────────


def _shown(question: Question) -> list[list[Row]]:
    """Rows whose classes are drawn: of every projection and directory, one head and one number of
    shots, in every mode that is the same on both sides."""
    head, shots = question.rows[0].told["head"], question.shots[-1]
    found: dict[tuple[str, Path], list[Row]] = {}
    for row in question.rows:
        told = row.told
        same = (told["head"], told["shots"], told["query"]) == (head, shots, told["support"])
        if same and row.answers is not None:
            found.setdefault((told["projection"], row.run), []).append(row)
    return list(found.values())


def _classes(question: Question, known: Gathered, key: str) -> Iterator[Figure]:
    drawings: list[Drawing] = []
    shown = _shown(question)
    for rows in shown:
        of_mode = {row.mode: _recalls(row) for row in rows}
        mean = {
            name: statistics.fmean(found[name] for found in of_mode.values() if name in found)
            for name in dict.fromkeys(name for found in of_mode.values() for name in found)
        }
        ranked = sorted(mean, key=lambda name: -mean[name])
        drawn = ranked[-BARS:]
        of = _apart_from_head(rows[0], question, known)
        drawings.append(
            plots.bars(
                f"{key}-classes{len(drawings)}", of or rows[0].told["head"],
                f"Share of right answers for each of {len(drawn)} classes by mode. Best: "
                f"{ranked[0]}, {100 * mean[ranked[0]]:.1f} percent on average; worst: "
                f"{ranked[-1]}, {100 * mean[ranked[-1]]:.1f}.",
                drawn,
                {mode: [of_mode[mode].get(name) for name in drawn] for mode in of_mode},
                x_label="right answers, %", reference=_chance(question),
            )
        )  # fmt: skip
    if not drawings:
        return
    told = shown[0][0].told
    every = [row for row in question.rows if row.answers is not None]
    names = sorted({name for row in every for name in _recalls(row)})
    table = Table(
        caption="Right answers of each class, %, in every result",
        columns=(
            "class",
            *(f"{_name(r, question, known)} {r.mode} {r.told['shots']}-shot" for r in every),
        ),
        rows=tuple((name, *(percent(_recalls(row).get(name)) for row in every)) for name in names),
    )  # fmt: skip
    more = len(names) - BARS
    yield Figure(
        title="Classes",
        lead=f"{told['shots']}-shot, {told['head']}"
        + ("; the dashed line is chance" if question.chance else "")
        + ". The table has every head and number of shots."
        + (f" The {more} best classes are in the table only." if more > 0 else ""),
        drawings=tuple(drawings),
        tables=(table,),
    )


def _recalls(row: Row) -> dict[str, float]:
    assert row.answers is not None
    return {one["name"]: one["right"] / one["asked"] for one in row.answers["classes"]}


def _confused(question: Question, known: Gathered) -> Iterator[Confused]:
    for rows in _shown(question):
        for row in rows:
            assert row.answers is not None
            of = _apart_from_head(row, question, known)
            pairs = [
                Pair(
                    truth=one["truth"],
                    answer=one["answer"],
                    times=one["times"],
                    of=one["of"],
                    clips=tuple(Example(**clip) for clip in one["clips"]),
                )
                for one in row.answers["confusions"][:PAIRS]
            ]
            if pairs:
                yield Confused(
                    title=", ".join(filter(None, (mode_name(row.mode), of))),
                    lead=f"{row.told['shots']}-shot, {row.told['head']}",
                    pairs=tuple(pairs),
                )
