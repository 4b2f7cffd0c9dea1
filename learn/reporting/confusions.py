"""How classes fared in episodes, and which were confused."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from learn.reporting import plots
from learn.reporting.inputs import Gathered, Question, Row
from learn.reporting.naming import apart_from_head, chance_line, mode_name, named
from learn.reporting.plots import Drawing
from learn.reporting.sections import BARS, Confused, Example, Figure, Pair, Table, percent

PAIRS = 6  # confused pairs shown of a mode


def _shown(question: Question) -> list[list[Row]]:
    """Rows whose classes are drawn: of every projection and directory, one head and one number of
    shots, in every mode that is the same on both sides."""
    head, shots = question.rows[0].told["head"], question.shots[-1]
    found: dict[tuple[str, Path], list[Row]] = {}
    for row in question.rows:
        told = row.told
        same = (told["head"], told["shots"], told["query"]) == (head, shots, told["support"])
        if same and row.answers and row.answers["classes"]:
            found.setdefault((told["projection"], row.run), []).append(row)
    return list(found.values())


def classes(question: Question, known: Gathered, key: str) -> Iterator[Figure]:
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
        of = apart_from_head(rows[0], question, known)
        drawings.append(
            plots.bars(
                f"{key}-classes{len(drawings)}", of or rows[0].told["head"],
                f"Share of right answers for each of {len(drawn)} classes by mode. Best: "
                f"{ranked[0]}, {100 * mean[ranked[0]]:.1f} percent on average; worst: "
                f"{ranked[-1]}, {100 * mean[ranked[-1]]:.1f}.",
                drawn,
                {mode: [of_mode[mode].get(name) for name in drawn] for mode in of_mode},
                x_label="right answers, %", reference=chance_line(question),
            )
        )  # fmt: skip
    if not drawings:
        return
    told = shown[0][0].told
    every = [row for row in question.rows if row.answers and row.answers["classes"]]
    names = sorted({name for row in every for name in _recalls(row)})
    table = Table(
        caption="Right answers of each class, %, in every result",
        columns=(
            "class",
            *(f"{named(r, question, known)} {r.mode} {r.told['shots']}-shot" for r in every),
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


def confused(question: Question, known: Gathered) -> Iterator[Confused]:
    for rows in _shown(question):
        for row in rows:
            assert row.answers is not None
            of = apart_from_head(row, question, known)
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
