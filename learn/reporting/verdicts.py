"""Which results are better than others: the verdicts of `learn compare` on one question."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from learn.evaluation.compare import Comparison, Difference, compare
from learn.reporting.inputs import Question
from learn.reporting.naming import RowNames
from learn.reporting.sections import Figure, Table
from store.errors import MicroshotError

VERDICTS = {
    "better": "better than the best", "worse": "worse", "same": "the same", "undecided": "undecided"
}  # fmt: skip


def verdict_figures(question: Question, names: RowNames) -> Iterator[Figure]:
    """Every result against the best one of its number of shots, paired."""
    found = _comparison(question)
    if found is None:
        return
    title = _titles(question, names)
    rows = tuple(_row(one, title) for one in found.differences)
    yield Figure(
        title="Which is better",
        lead="As learn compare says: every result against the best one, on the same episodes. The "
        f"same is what differs by {100 * found.margin:g} points at most, for sure; p is adjusted "
        "by Holm's method. It holds for these clips and says nothing of others.",
        tables=(
            Table(
                caption="Verdicts",
                columns=(
                    "shots", "result", "%", "best", "%", "points", "95 %", "p, adjusted", "verdict"
                ),
                rows=rows,
            ),
        ),
        open_tables=True,
    )  # fmt: skip


def _comparison(question: Question) -> Comparison | None:
    """The comparison of all runs, or of the first that can be compared at all; None: of none."""
    runs = [saved.path for saved in question.results]
    for tried in (runs, *([run] for run in runs)):
        try:
            return compare(tried, against="best")
        except MicroshotError:
            continue
    return None


def _titles(question: Question, names: RowNames) -> Mapping[tuple[str, ...], str]:
    return {
        (str(row.run), row.support, row.query, row.projection, row.guard, row.head, row.fusion): (
            f"{row.mode}, {names.full(row)}"
        )
        for row in question.rows
    }


def _row(one: Difference, title: Mapping[tuple[str, ...], str]) -> tuple[str, ...]:
    low, high = one.low, one.high
    spread = "" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"
    return (
        str(one.shots), _name(one.b, title), f"{100 * one.accuracy_b:.2f}", _name(one.a, title),
        f"{100 * one.accuracy_a:.2f}", f"{100 * one.difference:+.2f}", spread,
        "< 1e-300" if one.p_adjusted < 1e-300 else f"{one.p_adjusted:.2g}", VERDICTS[one.verdict],
    )  # fmt: skip


def _name(key: Mapping[str, str], title: Mapping[tuple[str, ...], str]) -> str:
    known = title.get(tuple(key.values()))
    if known is not None:
        return known
    head = key["head"].partition(":")[0]
    return f"{key['query']}, {head}, {Path(key['run']).name}"
