"""The classes of episodes: their recalls, and which were confused."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from learn.reporting import plots
from learn.reporting.inputs import Question, Row
from learn.reporting.naming import RowNames, chance_line, mode_name
from learn.reporting.plots import Caption, Drawing
from learn.reporting.sections import BARS, Confused, Example, Figure, Pair, Table, percent

PAIRS = 6  # confused pairs shown of a mode


def class_figures(question: Question, names: RowNames, key: str) -> Iterator[Figure]:
    """Recalls of the classes: the worst as bars, all of them in a table."""
    drawn = _drawn_rows(question)
    if not drawn:
        return
    first = drawn[0][0]
    table = _recall_table(question, names)
    only_in_table = len(table.rows) - BARS
    yield Figure(
        title="Classes",
        lead=f"{first.shots}-shot, {names.head(first)}"
        + ("; the dashed line is chance" if question.chance else "")
        + ". The table has every head and number of shots."
        + (
            f" The {only_in_table} best classes are in the table only." if only_in_table > 0 else ""
        ),
        drawings=tuple(
            _recall_bars(rows, names, f"{key}-classes{i}") for i, rows in enumerate(drawn)
        ),
        tables=(table,),
    )


def confused_pairs(question: Question, names: RowNames) -> Iterator[Confused]:
    """The pairs of classes that each drawn row confused most."""
    for row in drawn_rows(question):
        if pairs := _pairs(row):
            yield Confused(
                title=", ".join(filter(None, (mode_name(row.mode), names.without_head(row)))),
                lead=f"{row.shots}-shot, {names.head(row)}",
                pairs=pairs,
            )


def drawn_rows(question: Question) -> list[Row]:
    """The rows of which classes are drawn, side by side."""
    return [row for rows in _drawn_rows(question) for row in rows]


def _drawn_rows(question: Question) -> list[list[Row]]:
    """Rows whose classes are drawn: of every projection and directory, one head, one fusion and one
    number of shots, in every mode that is the same on both sides."""
    head, shots = question.rows[0].head, question.shots[-1]
    fusion = next((row.fusion for row in question.rows if row.fusion), "")
    together: dict[tuple[str, Path], list[Row]] = {}
    for row in question.rows:
        same = (row.head, row.shots, row.query) == (head, shots, row.support)
        if same and row.recalls and row.fusion in ("", fusion):
            together.setdefault((row.projection, row.run), []).append(row)
    return list(together.values())


def _recall_bars(rows: Sequence[Row], names: RowNames, key: str) -> Drawing:
    by_mode = {row.mode: row.recalls for row in rows}
    mean = {
        name: statistics.fmean(recalls[name] for recalls in by_mode.values() if name in recalls)
        for name in dict.fromkeys(name for recalls in by_mode.values() for name in recalls)
    }
    ranked = sorted(mean, key=lambda name: -mean[name])
    drawn = ranked[-BARS:]
    caption = Caption(
        key=key,
        title=names.without_head(rows[0]) or names.head(rows[0]),
        description=f"Share of right answers for each of {len(drawn)} classes by mode. Best: "
        f"{ranked[0]}, {100 * mean[ranked[0]]:.1f} percent on average; worst: {ranked[-1]}, "
        f"{100 * mean[ranked[-1]]:.1f}.",
    )
    return plots.bars(
        caption,
        drawn,
        {
            mode_name(mode): [recalls.get(name) for name in drawn]
            for mode, recalls in by_mode.items()
        },
        label="right answers, %",
        reference=chance_line(names.question),
    )


def _recall_table(question: Question, names: RowNames) -> Table:
    recalls = [(row, row.recalls) for row in question.rows if row.recalls]
    classes = sorted({name for _, recall in recalls for name in recall})
    titles = (f"{names.full(row)} {row.mode} {row.shots}-shot" for row, _ in recalls)
    return Table(
        caption="Right answers of each class, %, in every result",
        columns=("class", *titles),
        rows=tuple(
            (name, *(percent(recall.get(name)) for _, recall in recalls)) for name in classes
        ),
    )


def _pairs(row: Row) -> tuple[Pair, ...]:
    confusions = row.tally["confusions"] if row.tally else ()
    return tuple(
        Pair(
            truth=confusion["truth"],
            answer=confusion["answer"],
            times=confusion["times"],
            of=confusion["of"],
            clips=tuple(Example(**clip) for clip in confusion["clips"]),
        )
        for confusion in confusions[:PAIRS]
    )
