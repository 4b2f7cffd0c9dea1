"""The section of results of `learn episodes` on the same episodes.

Source: `learn/evaluation/results.py`, `learn/evaluation/confusion.py` and
`learn/evaluation/missing_modality.py` write what is drawn here.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from learn.evaluation.wording import CLASSIC, NOT_SHARES, TASK_SETTINGS, never_drawn
from learn.inference.selection import NONE
from learn.reporting import plots
from learn.reporting.answers import question_figures
from learn.reporting.confusions import class_figures, confused_pairs, drawn_rows
from learn.reporting.inputs import Question, ReportInputs, Row
from learn.reporting.missing_modality import (
    augmented_figures,
    inflation_figures,
    missing_figures,
)
from learn.reporting.naming import MODES, RowNames, chance_line, mode_name
from learn.reporting.plots import SERIES, Caption, Drawing, Line, Matrix, XAxis, YAxis
from learn.reporting.sections import Figure, Section, Table, number, percent
from learn.reporting.verdicts import verdict_figures
from learn.reporting.weights import guard_figures, stored_beside, weight_figures

SOURCES = {
    "within": "clips of one source are kept apart within a class",
    "strict": "clips of one source are kept apart across all classes of an episode",
    "mixed": "clips of one source may meet",
}


def episodes_section(question: Question, inputs: ReportInputs, key: str, title: str) -> Section:
    """The section of results on the same episodes, without the map."""
    names = RowNames(question=question, inputs=inputs)
    figures = chain(
        [_accuracy_figure(question, names, key)],
        verdict_figures(question, names),
        _modality_figures(question, names, key),
        weight_figures(question, names, key),
        guard_figures(question, names),
        missing_figures(question, inputs, key),
        inflation_figures(question, inputs),
        augmented_figures(question, inputs),
        class_figures(question, names, key),
        question_figures(drawn_rows(question), question, names, key),
    )
    return Section(
        key=key,
        title=title,
        lead=_lead(question),
        figures=tuple(figures),
        confused=tuple(confused_pairs(question, names)),
        notes=(*_notes(question), *_shortened(question, names)),
    )


def _lead(question: Question) -> str:
    sampling = question.sampling
    sources = SOURCES[sampling.get("groups", "within") if sampling["group"] else "mixed"]
    asked = f"{sampling['ways']}-way episodes with {sampling['queries']} queries a class"
    if sampling.get("task", CLASSIC) != CLASSIC:
        settings = [f"{key} {sampling[key]:g}" for key in TASK_SETTINGS if key in sampling]
        asked = f"Episodes of task {sampling['task']} ({', '.join(settings)})"
    return (
        f"{asked}, {sampling['episodes']:,} for each number of shots, drawn once and the same "
        f"for every result; {sampling['clips']} clips of {sampling['classes']} classes, column "
        f"{sampling['label']}, split {sampling['split']}; {sources}."
    )


def _notes(question: Question) -> Iterator[str]:
    sampling = question.sampling
    if dropped := [f"{n} {reason}" for reason, n in sampling["dropped"].items() if n]:
        yield f"Left out, so that every mode is asked about the same clips: {', '.join(dropped)}."
    if scarce := sampling.get("scarce_text"):
        yield f"Text was not looked at: {scarce['clips']} of {scarce['of']} clips have any."
    for draw in sampling["draws"]:
        for reason, names in never_drawn(draw):
            yield (
                f"{draw['shots']}-shot episodes leave out {len(names)} "
                f"class{'es' * (len(names) != 1)} {reason}: {', '.join(names)}."
            )
    if any(row.tally is None for row in question.rows):
        yield (
            "Some results were written before answers were kept: they have no classes and no "
            "confused pairs. Score them again to see these."
        )


def _shortened(question: Question, names: RowNames) -> Iterator[str]:
    """The heads whose settings are not in their names here."""
    heads = {row.head: names.head(row) for row in question.rows}
    if short := [head for head, name in heads.items() if head != name]:
        yield f"Settings of head{'s' * (len(short) > 1)}: {'; '.join(short)}."


# ── accuracy against shots ───────────────────────────────────────────────────────────────────────


def _accuracy_figure(question: Question, names: RowNames, key: str) -> Figure:
    low = max(0.0, min([question.chance or 1.0, *(row.low for row in question.rows)]) - 0.04)
    y = YAxis(
        label=f"{question.measure}, %", limits=(low, 1.01), reference=chance_line(question)
    )  # the same for all modes, which are compared
    return Figure(
        title=f"{_capitalised(question.measure)} against shots",
        lead="A drawing for each mode; bars are 95 % intervals over episodes of these clips, and "
        "say nothing of other clips or classes.",
        drawings=tuple(
            _accuracy_drawing(question, names, f"{key}-shots{i}", modes, y)
            for i, modes in enumerate(_modes_together(question, names))
        ),
        tables=(_accuracy_table(question, names),),
    )


def _accuracy_drawing(
    question: Question, names: RowNames, key: str, modes: Sequence[str], y: YAxis
) -> Drawing:
    drawn = _accuracy_lines(question, names, modes)
    title = mode_name(modes[0]) if len(modes) == 1 else "across modalities, support → query"
    accuracy, best = max((line.y[-1], line.name) for line in drawn)
    chance = f"; chance is {100 * question.chance:.1f}." if question.chance else "."
    caption = Caption(
        key=key,
        title=title,
        description=f"{question.measure} in percent of {len(drawn)} results, {title}, against the "
        f"number of shots. The highest at {question.shots[-1]} shots is {100 * accuracy:.1f} "
        f"percent ({best}){chance}",
    )
    return plots.lines(caption, drawn, x=XAxis(label="shots a class", every_value=True), y=y)


def _accuracy_lines(question: Question, names: RowNames, modes: Sequence[str]) -> list[Line]:
    """One line for each result; of several modes, each line has its own colour."""
    heads = list(dict.fromkeys(row.head for row in question.rows))
    dashes = list(dict.fromkeys(names.without_head(row) for row in question.rows))
    lines: list[Line] = []
    for mode in modes:
        of_mode = [row for row in question.rows if row.mode == mode]
        for name, rows in _by_name(of_mode, names).items():
            rows = sorted(rows, key=lambda row: row.shots)
            lines.append(
                Line(
                    name=name if len(modes) == 1 else f"{mode} · {name}",
                    x=tuple(float(row.shots) for row in rows),
                    y=tuple(row.accuracy for row in rows),
                    half=tuple(row.ci95 for row in rows),
                    colour=heads.index(rows[0].head) if len(modes) == 1 else len(lines),
                    dash=dashes.index(names.without_head(rows[0])),
                )
            )
    return lines


def _accuracy_table(question: Question, names: RowNames) -> Table:
    """Every number, and beside a run's that of the stored vectors it was made from."""
    runs = any(row.projection != NONE for row in question.rows)
    return Table(
        caption=_capitalised(question.measure),
        columns=(
            "result", "mode", "shots", "%", "± 95 %", *(("stored %", "points") if runs else ()),
            "episodes", "interval", "notes",
        ),
        rows=tuple(
            (
                names.full(row), row.mode, str(row.shots), percent(row.accuracy),
                percent(row.ci95), *(stored_beside(question, row) if runs else ()),
                f"{row.episodes:,}", row.ci_method, _remarks(row),
            )
            for row in question.rows
        ),
    )  # fmt: skip


def _capitalised(measure: str) -> str:
    return measure if measure == "mAP" else measure.capitalize()


def _modes_together(question: Question, names: RowNames) -> list[list[str]]:
    """The modes of each drawing: one, or all across modalities where these are few lines."""
    across = [mode for mode in question.modes if "→" in mode]
    lines = {(row.mode, names.full(row)) for row in question.rows if row.mode in across}
    apart = [[mode] for mode in question.modes if mode not in across or len(lines) > SERIES]
    return [*apart, across] if across and len(lines) <= SERIES else apart


def _by_name(rows: Sequence[Row], names: RowNames) -> dict[str, list[Row]]:
    together: dict[str, list[Row]] = {}
    for row in rows:
        together.setdefault(names.full(row), []).append(row)
    return together


def _remarks(row: Row) -> str:
    """Facts to be known beside a row's accuracy, and the parts of its metric."""
    remarks = {
        "untrained weights": row.untrained,
        "transductive": row.transductive,
        f"{row.seen_in_training} clips seen in training": row.seen_in_training,
        f"centred by {row.centred_by}": row.centred_by != "none",
    }
    parts = [f"{name.replace('_', ' ')} {_part(name, value)}" for name, value in row.parts.items()]
    return ", ".join([remark for remark, holds in remarks.items() if holds] + parts)


def _part(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return number(value) if name in NOT_SHARES else percent(value)


# ── which modality ───────────────────────────────────────────────────────────────────────────────


def _modality_figures(question: Question, names: RowNames, key: str) -> Iterator[Figure]:
    if len(question.modes) < 2:
        return
    across = any(row.support != row.query for row in question.rows)
    draw = _support_and_query if across else _result_and_mode
    yield Figure(
        title="Which modality",
        lead="v is sight, a is sound, av is both; the stronger the colour, the higher. "
        + (
            "What is learnt from (support) against what is asked about (query); results without "
            "an answer across modalities are in the table."
            if across
            else "To ask across modalities takes a projection into a common space."
        ),
        drawings=tuple(draw(question, names, key)),
        tables=(_modality_table(question, names),),
    )


def _modality_table(question: Question, names: RowNames) -> Table:
    return Table(
        caption="Support and query",
        columns=("result", "trained in", "shots", "support", "query", "%", "± 95 %"),
        rows=tuple(
            (
                names.full(row), row.trained, str(row.shots), row.support, row.query,
                percent(row.accuracy), percent(row.ci95),
            )
            for row in question.rows
        ),
    )  # fmt: skip


def _support_and_query(question: Question, names: RowNames, key: str) -> Iterator[Drawing]:
    """A matrix for every result that answers across modalities."""
    supports = _in_order({row.support for row in question.rows})
    queries = _in_order({row.query for row in question.rows})
    drawn = [
        (shots, name, rows)
        for shots in question.shots
        for name, rows in _by_name([r for r in question.rows if r.shots == shots], names).items()
        if any(row.support != row.query for row in rows)
    ]
    for i, (shots, name, rows) in enumerate(drawn):
        cells = {(row.support, row.query): (row.accuracy, row.ci95) for row in rows}
        support, query = best = max(cells, key=lambda cell: cells[cell][0])
        caption = Caption(
            key=f"{key}-matrix{i}",
            title=f"{shots}-shot, {name}",
            description=f"{question.measure} in percent by the modes of support and query. The "
            f"highest is support {support}, query {query}: {100 * cells[best][0]:.1f}.",
        )
        heat = Matrix(
            rows=supports, columns=queries, cells=cells, row_label="support", column_label="query",
            lowest=question.chance or 0.0,
        )  # fmt: skip
        yield plots.matrix(caption, heat)


def _result_and_mode(question: Question, names: RowNames, key: str) -> Iterator[Drawing]:
    """A matrix of results by mode for every number of shots."""
    results = tuple(dict.fromkeys(names.full(row) for row in question.rows))
    for i, shots in enumerate(question.shots):
        cells = {
            (names.full(row), row.mode): (row.accuracy, row.ci95)
            for row in question.rows
            if row.shots == shots
        }
        result, mode = best = max(cells, key=lambda cell: cells[cell][0])
        caption = Caption(
            key=f"{key}-matrix{i}",
            title=f"{shots}-shot",
            description=f"{question.measure} in percent of {len(results)} results by mode. The "
            f"highest is {result} by {mode}: {100 * cells[best][0]:.1f}.",
        )
        heat = Matrix(
            rows=results, columns=_in_order(set(question.modes)), cells=cells, row_label="",
            column_label="mode", lowest=question.chance or 0.0,
        )  # fmt: skip
        yield plots.matrix(caption, heat)


def _in_order(modes: set[str]) -> tuple[str, ...]:
    return tuple(mode for mode in MODES if mode in modes)
