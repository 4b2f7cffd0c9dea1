"""What results of `learn episodes` on the same episodes tell.

Source: `learn/evaluation/results.py`, `learn/evaluation/confusion.py` and
`learn/evaluation/missing_modality.py` write what is drawn here.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from learn.evaluation.metrics import NOT_SHARES
from learn.evaluation.results import SAMPLING_SHOWN
from learn.fewshot.tasks import CLASSIC
from learn.reporting import plots
from learn.reporting.confusions import classes, confused
from learn.reporting.inputs import Gathered, Question, Row
from learn.reporting.missing_modality import inflation, missing
from learn.reporting.naming import MODES, apart_from_head, chance_line, mode_name, named
from learn.reporting.plots import SERIES, Drawing, Line
from learn.reporting.sections import Figure, Section, Table, number, percent


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
        settings = [f"{key} {told[key]:g}" for key in SAMPLING_SHOWN if key in told]
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
    section.figures.extend(missing(question, known, key))
    section.figures.extend(inflation(question, known))
    section.figures.extend(classes(question, known, key))
    section.confused.extend(confused(question, known))
    if any(row.answers is None for row in question.rows):
        section.notes.append(
            "Some results were written before answers were kept: they have no classes and no "
            "confused pairs. Score them again to see these."
        )
    return section


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
    others = list(dict.fromkeys(apart_from_head(row, question, known) for row in question.rows))
    lows = [row.told["accuracy"] - (row.told["ci95"] or 0) for row in question.rows]
    low = max(0.0, min([question.chance or 1.0, *lows]) - 0.04)
    drawings = []
    for place, modes in enumerate(_together(question, known)):
        drawn: list[Line] = []
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
                        colour=heads.index(rows[0].told["head"]) if len(modes) == 1 else len(drawn),
                        dash=others.index(apart_from_head(rows[0], question, known)),
                    )
                )
        name = mode_name(modes[0]) if len(modes) == 1 else "across modalities, support → query"
        best = max((line.y[-1], line.name) for line in drawn)
        drawings.append(
            plots.lines(
                f"{key}-shots{place}", name,
                f"{question.measure} in percent of {len(drawn)} results, {name}, against the "
                f"number of shots. The highest at {question.shots[-1]} shots is "
                f"{100 * best[0]:.1f} percent ({best[1]})"
                + (f"; chance is {100 * question.chance:.1f}." if question.chance else "."),
                drawn, x_label="shots a class", y_label=f"{question.measure}, %", every_x=True,
                y_range=(low, 1.01), reference=chance_line(question),
            )
        )  # fmt: skip
    table = [
        (
            named(row, question, known), row.mode, str(row.told["shots"]),
            percent(row.told["accuracy"]), percent(row.told["ci95"]),
            f"{row.told['episodes']:,}", row.told["ci_method"],
            _marks(row),
        )
        for row in question.rows
    ]  # fmt: skip
    columns = ("result", "mode", "shots", "%", "± 95 %", "episodes", "interval", "notes")
    return Figure(
        title=f"{_capital(question.measure)} against shots",
        lead="A drawing for each mode; bars are 95 % intervals over episodes of these clips, and "
        "say nothing of other clips or classes.",
        drawings=tuple(drawings),
        tables=(Table(caption=_capital(question.measure), columns=columns, rows=tuple(table)),),
    )


def _capital(measure: str) -> str:
    return measure if measure == "mAP" else measure.capitalize()


def _together(question: Question, known: Gathered) -> list[list[str]]:
    """The modes of each drawing: one, or all across modalities where these are few lines."""
    across = [mode for mode in question.modes if "→" in mode]
    lines = {(row.mode, named(row, question, known)) for row in question.rows if row.mode in across}
    apart = [[mode] for mode in question.modes if mode not in across or len(lines) > SERIES]
    return [*apart, across] if across and len(lines) <= SERIES else apart


def _series(
    rows: Sequence[Row], question: Question, known: Gathered
) -> Iterator[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(named(row, question, known), []).append(row)
    yield from found.items()


def _marks(row: Row) -> str:
    told = row.told
    marks = {
        "untrained weights": told["untrained"],
        "transductive": told["transductive"],
        f"{told['seen_in_training']} clips seen in training": told["seen_in_training"],
        f"centred by {told['centred_by']}": told["centred_by"] != "none",
    }
    parts = [
        f"{part.replace('_', ' ')} {_part(part, value)}"
        for part, value in told.get("parts", {}).items()
    ]
    return ", ".join([mark for mark, holds in marks.items() if holds] + parts)


def _part(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return number(value) if name in NOT_SHARES else percent(value)


# ── which modality ───────────────────────────────────────────────────────────────────────────────


def _matrices(question: Question, known: Gathered, key: str) -> Iterator[Figure]:
    rows = question.rows
    if len(question.modes) < 2:
        return
    across = any(row.told["support"] != row.told["query"] for row in rows)
    draw = _support_and_query if across else _result_and_mode
    drawings = list(draw(question, known, key))
    table = [
        (
            named(row, question, known), row.told.get("trained", ""), str(row.told["shots"]),
            row.told["support"], row.told["query"], percent(row.told["accuracy"]),
            percent(row.told["ci95"]),
        )
        for row in rows
    ]  # fmt: skip
    yield Figure(
        title="Which modality",
        lead="v is sight, a is sound, av is both; the stronger the colour, the higher. "
        ""
        + (
            "What is learnt from (support) against what is asked about (query); results without "
            "an answer across modalities are in the table."
            if across
            else "To ask across modalities takes a projection into a common space."
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


def _support_and_query(question: Question, known: Gathered, key: str) -> Iterator[Drawing]:
    """A matrix for every result that answers across modalities."""
    supports = _in_order({row.told["support"] for row in question.rows})
    queries = _in_order({row.told["query"] for row in question.rows})
    count = 0
    for shots in question.shots:
        of_shots = [row for row in question.rows if row.told["shots"] == shots]
        for name, rows in _series(of_shots, question, known):
            if all(row.told["support"] == row.told["query"] for row in rows):
                continue
            cells = {
                (row.told["support"], row.told["query"]): (row.told["accuracy"], row.told["ci95"])
                for row in rows
            }
            best = max(cells, key=lambda cell: cells[cell][0])
            yield plots.matrix(
                f"{key}-matrix{count}", f"{shots}-shot, {name}",
                f"{question.measure} in percent by the modes of support and query. The highest is "
                f"support {best[0]}, query {best[1]}: {100 * cells[best][0]:.1f}.",
                supports, queries, cells,
                row_label="support", column_label="query", lowest=question.chance or 0.0,
            )  # fmt: skip
            count += 1


def _result_and_mode(question: Question, known: Gathered, key: str) -> Iterator[Drawing]:
    """A matrix for every number of shots, where nothing is asked across modalities."""
    names = list(dict.fromkeys(named(row, question, known) for row in question.rows))
    modes = _in_order(set(question.modes))
    for count, shots in enumerate(question.shots):
        cells = {
            (named(row, question, known), row.mode): (row.told["accuracy"], row.told["ci95"])
            for row in question.rows
            if row.told["shots"] == shots
        }
        best = max(cells, key=lambda cell: cells[cell][0])
        yield plots.matrix(
            f"{key}-matrix{count}", f"{shots}-shot",
            f"{question.measure} in percent of {len(names)} results by mode. The highest is "
            f"{best[0]} by {best[1]}: {100 * cells[best][0]:.1f}.",
            names, modes, cells,
            row_label="", column_label="mode", lowest=question.chance or 0.0,
        )  # fmt: skip


def _in_order(modes: set[str]) -> list[str]:
    return [mode for mode in MODES if mode in modes]
