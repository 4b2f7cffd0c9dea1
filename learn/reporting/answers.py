"""What classes were taken for, how many clips they have, and whether confidence can be believed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from learn.fewshot import episode_files
from learn.reporting import plots
from learn.reporting.inputs import Question, ReportInputs, Row, SavedEvaluation
from learn.reporting.naming import MODES, RowNames, mode_name
from learn.reporting.plots import Caption, Drawing, Line, XAxis, YAxis
from learn.reporting.sections import BARS, Figure, Table, number, percent
from store.errors import MicroshotError

MATRIX_TABLES = 12  # confusion matrices that stand on the page as tables too
FEWEST = 30  # answers in a bin that is drawn

Answers = Mapping[str, Any]  # with `matrix` and `calibration`, as answers.json has them


def question_figures(
    rows: Sequence[Row], question: Question, names: RowNames, key: str
) -> Iterator[Figure]:
    """Matrices and curves of these rows, and the clips of each class."""
    told = {
        ", ".join(filter(None, (mode_name(row.mode), names.without_head(row)))): row.tally
        for row in rows
        if row.tally
    }
    lead = f"{rows[0].shots}-shot, {names.head(rows[0])}" if rows else ""
    yield from _counts_of_question(question, key)
    yield from matrix_figures(
        told, key, f"{lead}. Of the episodes that had both classes: an episode has few of them."
    )
    yield from calibration_figures(
        told, key,
        f"{lead}. Confidence is a softmax of the head's scores at a temperature that was fitted on "
        "every second episode; these are the others.",
    )  # fmt: skip


def evaluation_figures(
    evaluation: SavedEvaluation, inputs: ReportInputs, key: str
) -> Iterator[Figure]:
    """Matrices and curves of an evaluation's findings."""
    told = {}
    for finding, answers in zip(evaluation.rows, evaluation.answers, strict=False):
        name = (
            finding["label"], MODES.get(finding["query"], finding["query"]),
            inputs.projection_name(finding["projection"]),
        )  # fmt: skip
        if finding["support"] == finding["query"]:
            told[", ".join(name)] = answers
    yield from _counts(
        [(c["name"], c["clips"]) for c in evaluation.rows[0]["classes"] if "clips" in c], key
    )
    yield from matrix_figures(told, key, "Each row is a class; cells are shares of its clips.")
    yield from calibration_figures(told, key, "The probabilities that the protocol gives.")


def matrix_figures(told: Mapping[str, Answers], key: str, lead: str) -> Iterator[Figure]:
    """A confusion matrix for each result that has one."""
    with_matrix = {name: of["matrix"] for name, of in told.items() if "matrix" in of}
    if not with_matrix:
        return
    drawings, tables = [], []
    for i, (name, matrix) in enumerate(with_matrix.items()):
        shares = _shares(matrix)
        classes = matrix["classes"]
        drawings.append(_matrix(Caption(
            key=f"{key}-confusion{i}", title=name, description=_worst(classes, shares),
        ), classes, shares))  # fmt: skip
        if i < MATRIX_TABLES:
            tables.append(Table(
                caption=f"Confusion matrix, {name}, %",
                columns=("is \\ taken for", *classes),
                rows=tuple(
                    (c, *(percent(share) for share in row))
                    for c, row in zip(classes, shares, strict=True)
                ),
            ))  # fmt: skip
    yield Figure(
        title="Confusion matrix", lead=lead, drawings=tuple(drawings), tables=tuple(tables)
    )


def _matrix(
    caption: Caption, classes: Sequence[str], shares: Sequence[Sequence[float | None]]
) -> Drawing:
    return plots.confusion(caption, classes, shares)


def _shares(matrix: Answers) -> list[list[float | None]]:
    """Each cell over the queries that it could have been."""
    return [
        [times / of if of else None for times, of in zip(*rows, strict=True)]
        for rows in zip(matrix["times"], matrix["of"], strict=True)
    ]


def _worst(classes: Sequence[str], shares: Sequence[Sequence[float | None]]) -> str:
    off = [
        (share, truth, answer)
        for truth, row in zip(classes, shares, strict=True)
        for answer, share in zip(classes, row, strict=True)
        if share is not None and truth != answer
    ]
    told = f"What each of {len(classes)} classes was taken for, in percent."
    if off and max(off)[0] > 0:
        share, truth, answer = max(off)
        told += f" Most often wrong: {truth} for {answer}, {100 * share:.1f}."
    return told


def calibration_figures(told: Mapping[str, Answers], key: str, lead: str) -> Iterator[Figure]:
    """Confidence against truth, a line for each result that tells."""
    curves = {name: c for name, of in told.items() if (c := of.get("calibration"))}
    if not curves:
        return
    lines, rows = [], []
    for i, (name, curve) in enumerate(curves.items()):
        bins = [b for b in curve["bins"] if b["answers"] >= FEWEST]
        if bins:
            lines.append(Line(
                name=name, x=tuple(100 * b["confidence"] for b in bins),
                y=tuple(b["right"] for b in bins), colour=i, dash=i,
            ))  # fmt: skip
        rows += [
            (name, percent(b["confidence"]), percent(b["right"]), str(b["answers"]))
            for b in curve["bins"]
        ]
    errors = tuple(
        (name, percent(c["error"]), str(c["answers"]), number(c["temperature"]))
        for name, c in curves.items()
    )
    off = "; ".join(f"{name}: {100 * c['error']:.1f} points" for name, c in curves.items())
    caption = Caption(
        key=f"{key}-calibration", title="Confidence against truth",
        description=f"The share of right answers by their confidence. Mean distance, {off}.",
    )  # fmt: skip
    drawing = plots.lines(
        caption, lines, x=XAxis(label="confidence, %", limits=(0.0, 100.0)),
        y=YAxis(label="right answers, %", limits=(0.0, 1.02), diagonal=True),
    )  # fmt: skip
    yield Figure(
        title="Can confidence be believed?",
        lead=f"{lead} On the dashed line it can; below it, answers are too confident. Points of "
        f"fewer than {FEWEST} answers are in the table only.",
        drawings=(drawing,) if lines else (),
        tables=(
            Table(
                caption="Mean distance of confidence from truth",
                columns=("result", "points", "answers", "temperature"), rows=errors,
            ),
            Table(
                caption="Right answers by confidence",
                columns=("result", "mean confidence, %", "right, %", "answers"), rows=tuple(rows),
            ),
        ),
    )  # fmt: skip


def _counts_of_question(question: Question, key: str) -> Iterator[Figure]:
    try:
        _, classes = episode_files.labelled(question.results[0].path / "episodes.safetensors")
    except (MicroshotError, OSError):
        return
    yield from _counts(sorted(Counter(classes).items()), key)


def _counts(counts: Sequence[tuple[str, int]], key: str) -> Iterator[Figure]:
    """How many clips each class has."""
    if not counts:
        return
    ranked = sorted(counts, key=lambda of: (-of[1], of[0]))
    drawn = [*ranked[:BARS]]
    fewest, most = ranked[-1], ranked[0]
    caption = Caption(
        key=f"{key}-counts", title="Clips of each class",
        description=f"{sum(n for _, n in counts)} clips of {len(counts)} classes, from {fewest[1]} "
        f"({fewest[0]}) to {most[1]} ({most[0]}).",
    )  # fmt: skip
    sizes = [float(n) for _, n in drawn]
    bars = plots.bars(
        caption, [name for name, _ in drawn], {"clips": sizes}, label="clips", percent=False
    )
    yield Figure(
        title="How many clips",
        lead="Classes of few clips are asked about less, and their numbers are the less sure."
        + (f" The {len(ranked) - BARS} smallest are in the table only."
           if len(ranked) > BARS else ""),
        drawings=(bars,),
        tables=(
            Table(
                caption="Clips of each class", columns=("class", "clips"),
                rows=tuple((name, str(n)) for name, n in ranked),
            ),
        ),
    )  # fmt: skip
