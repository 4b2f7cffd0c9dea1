"""The answers a page opens on: accuracy by sense and shots, of the first head asked for."""

from collections.abc import Iterator

from learn.inference.selection import NONE
from learn.reporting.inputs import Question, ReportInputs
from learn.reporting.naming import RowNames, question_title
from learn.reporting.sections import Table

SENSES = {
    "v": "sight", "a": "sound", "av": "both", "t": "text", "vt": "sight and text",
    "at": "sound and text", "avt": "all three",
}  # fmt: skip


def answers_in_short(inputs: ReportInputs) -> Iterator[Table]:
    """A table for each question: senses down, shots across, with chance and what was asked."""
    for question in inputs.questions:
        yield _table(question, RowNames(question=question, inputs=inputs), inputs)


def _table(question: Question, names: RowNames, inputs: ReportInputs) -> Table:
    sampling, head = question.sampling, question.rows[0].head
    cells: dict[str, dict[int, str]] = {}
    modes = {mode: i for i, mode in enumerate(question.modes)}
    stored_first = sorted(
        (row for row in question.rows if row.head == head),
        key=lambda row: (modes[row.mode], row.projection != NONE),
    )
    for row in stored_first:
        name = ", ".join(filter(None, (SENSES.get(row.mode, row.mode), names.without_head(row))))
        margin = "" if row.ci95 is None else f" ± {100 * row.ci95:.1f}"
        cells.setdefault(name, {})[row.shots] = f"{100 * row.accuracy:.1f}{margin}"
    chance = f"; chance is {100 * question.chance:.1f}" if question.chance else ""
    return Table(
        caption=f"{question_title(question, inputs)}: {question.measure} in percent ± 95 % over "
        f"episodes, {names.head(question.rows[0])}; {sampling['ways']}-way, {sampling['clips']} "
        f"clips of {sampling['classes']} classes{chance}",
        columns=("", *(f"{shots}-shot" for shots in question.shots)),
        rows=tuple(
            (name, *(of_name.get(shots, "") for shots in question.shots))
            for name, of_name in cells.items()
        ),
    )
