"""How much each sense, and each projection, counted; and what stored vectors give beside a run."""

from collections.abc import Iterator, Sequence

from learn.evaluation.wording import feature_name, weight_text
from learn.inference.selection import NONE
from learn.reporting import plots
from learn.reporting.inputs import Question, Row
from learn.reporting.naming import RowNames
from learn.reporting.plots import Caption, Drawing, Line, XAxis, YAxis
from learn.reporting.sections import Figure, Table, percent


def weight_figures(question: Question, names: RowNames, key: str) -> Iterator[Figure]:
    """How much each sense counted where a fusion weighs them."""
    weighed = [row for row in question.rows if row.weights]
    if not weighed:
        return
    features = list(dict.fromkeys(feature for row in weighed for feature in row.weights))
    origins = list(dict.fromkeys(str(row.prior["from"]) for row in weighed))
    several = len({row.mode for row in weighed}) > 1  # names of classes are a sense in every mode
    rows = tuple(
        (
            names.full(row), *((row.mode,) if several else ()), row.fusion, str(row.shots),
            *(weight_text(row.weights[f]) if f in row.weights else "" for f in features),
            *((str(row.prior["from"]),) if len(origins) > 1 else ()),
        )
        for row in weighed
    )  # fmt: skip
    modes = ("mode",) if several else ()
    columns = ("result", *modes, "fusion", "shots", *map(feature_name, features))
    began = f" They begin at: {origins[0]}." if len(origins) == 1 else ""
    yield Figure(
        title="Which sense decided",
        lead=f"{_both_against_one(question, names, weighed[0])} Weights are means over episodes ± "
        f"their deviation; they sum to 1.{began}",
        drawings=(_weights(weighed, features, names, key),),
        tables=(
            Table(
                caption="Weights of senses",
                columns=columns if len(origins) == 1 else (*columns, "begins at"), rows=rows,
            ),
        ),
        open_tables=True,
    )  # fmt: skip


def _weights(weighed: Sequence[Row], features: Sequence[str], names: RowNames, key: str) -> Drawing:
    """A line for each result: of two features the share of the first, else of each."""
    drawn = features[:1] if len(features) == 2 else features
    together: dict[tuple[str, str], list[Row]] = {}
    for row in weighed:
        for feature in drawn:
            if feature in row.weights:
                name = names.full(row)
                if len({peer.fusion for peer in weighed}) > 1 and row.fusion not in name:
                    name = " · ".join(filter(None, (name, row.fusion)))
                if len({peer.mode for peer in weighed}) > 1:
                    name = f"{name} · {row.mode}"
                together.setdefault((feature, name), []).append(row)
    lines = []
    for i, ((feature, name), rows) in enumerate(together.items()):
        rows = sorted(rows, key=lambda row: row.shots)
        lines.append(
            Line(
                name=name if len(drawn) == 1 else f"{feature_name(feature)}, {name}",
                x=tuple(float(row.shots) for row in rows),
                y=tuple(row.weights[feature]["mean"] for row in rows),
                half=tuple(row.weights[feature]["sd"] for row in rows), colour=i, dash=i,
            )
        )  # fmt: skip
    first = feature_name(features[0])
    rest = f"; the rest is {feature_name(features[1])}" if len(features) == 2 else ""
    caption = Caption(
        key=f"{key}-weights",
        title=f"{first if len(drawn) == 1 else 'Each feature'} counts{rest}",
        description=f"Weights of senses in percent against the number of shots, {len(lines)} "
        f"lines; at most {100 * max(max(line.y) for line in lines):.0f}.",
    )
    return plots.lines(
        caption, lines, x=XAxis(label="shots a class", every_value=True),
        y=YAxis(label="weight, %", limits=(0.0, 1.02)),
    )  # fmt: skip


def stored_beside(question: Question, row: Row) -> tuple[str, str]:
    """What stored vectors give in the place of a row's projection, and the row's gain in points."""
    if row.projection == NONE:
        return "", ""
    for peer in question.rows:
        same = (peer.shots, peer.head, peer.fusion, peer.support, peer.query)
        if peer.projection == NONE and same == (
            row.shots, row.head, row.fusion, row.support, row.query
        ):  # fmt: skip
            return percent(peer.accuracy), f"{100 * (row.accuracy - peer.accuracy):+.2f}"
    return "not scored", ""


def guard_figures(question: Question, names: RowNames) -> Iterator[Figure]:
    """A table of how much projections counted beside the stored vectors they were made from."""
    guarded = [row for row in question.rows if row.guard == "on" and row.projected]
    if not guarded:
        return
    rows = tuple(
        (
            names.full(row), row.mode, str(row.shots), weight_text(row.projected),
            percent(row.accuracy), _beside(question, row), row.projected["from"],
        )
        for row in guarded
    )  # fmt: skip
    columns = ("result", "mode", "shots", "projection counts", "%", "stored %", "begins at")
    yield Figure(
        title="Projections beside stored vectors",
        lead="Guarded: stored and projected vectors are mixed in every episode, so that a "
        "projection can lose little. 0 is stored vectors alone, 1 the projection alone; means over "
        "episodes ± their deviation.",
        tables=(Table(caption="How much projections count", columns=columns, rows=rows),),
    )


def _beside(question: Question, row: Row) -> str:
    """The accuracy of stored vectors beside a projection's, in percent; "" if it is unknown."""
    wanted = row.shots, row.head, row.fusion, row.support, row.query
    for peer in question.rows:
        found = peer.shots, peer.head, peer.fusion, peer.support, peer.query
        if not peer.guard and found == wanted:
            return percent(peer.accuracy)
    return ""


def _both_against_one(question: Question, names: RowNames, of: Row) -> str:
    """A sentence on what both senses are worth beside each alone, at the most shots."""
    shots = question.shots[-1]
    same = [
        row
        for row in question.rows
        if (row.shots, row.head, row.projection, row.run) == (shots, of.head, of.projection, of.run)
        and row.support == row.query
        and row.fusion in ("", of.fusion)
    ]
    told = ", ".join(f"{row.mode} {100 * row.accuracy:.1f}" for row in same)
    return f"At {shots} shots {names.head(of)} has {told} % {question.measure}."
