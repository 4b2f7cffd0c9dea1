"""The section of a result of `learn evaluate`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from learn.evaluation.wording import NOT_SHARES, SHORT
from learn.reporting import plots
from learn.reporting.answers import evaluation_figures
from learn.reporting.inputs import ReportInputs, SavedEvaluation
from learn.reporting.naming import MODES
from learn.reporting.plots import Caption, Drawing
from learn.reporting.sections import BARS, Figure, Section, Table, number, percent

Finding = Mapping[str, Any]  # as a row of `learn.evaluation.evaluate.Evaluation`


def evaluation_section(evaluation: SavedEvaluation, inputs: ReportInputs, key: str) -> Section:
    """The protocol's metrics, and bars of the classes where it tells of them."""
    record = evaluation.record
    data = record["data"]
    settings = ", ".join(f"{k} {v}" for k, v in record["settings"].items() if v != "")
    metrics = Figure(
        title="Metrics",
        lead="",
        tables=(_metrics_table(evaluation.rows, inputs),),
        open_tables=True,
    )
    return Section(
        key=key,
        title=f"{inputs.run_name(evaluation.path)}: {record['protocol']}",
        lead=f"Split {data['split']}"
        + (f" of {Path(data['store']).name}" if "store" in data else "")
        + (f"; {settings}" if settings else "")
        + ".",
        figures=(
            metrics,
            *_class_figures(evaluation.rows, inputs, key),
            *evaluation_figures(evaluation, inputs, key),
        ),
    )


def _metrics_table(findings: Sequence[Finding], inputs: ReportInputs) -> Table:
    names = list(dict.fromkeys(name for finding in findings for name in finding["metrics"]))
    return Table(
        caption="Metrics, shares in %",
        columns=(
            "label", "projection", "support", "query", "clips", *(SHORT.get(n, n) for n in names),
            "notes",
        ),
        rows=tuple(
            (
                " ".join(filter(None, (finding["label"], finding.get("level", "")))),
                inputs.projection_name(finding["projection"]), finding["support"],
                finding["query"], str(finding["clips"]),
                *(_metric(name, finding["metrics"].get(name)) for name in names),
                _remarks(finding),
            )
            for finding in findings
        ),
    )  # fmt: skip


def _metric(name: str, value: float | int | None) -> str:
    return number(value) if name in NOT_SHARES else percent(value)


def _remarks(finding: Finding) -> str:
    seen = finding["seen_in_training"]
    remarks = {"untrained weights": finding["untrained"], f"{seen} clips seen in training": seen}
    return ", ".join(remark for remark, holds in remarks.items() if holds)


def _class_figures(findings: Sequence[Finding], inputs: ReportInputs, key: str) -> Iterator[Figure]:
    """Bars by mode for each label and projection, of findings that tell of classes."""
    with_classes = [f for f in findings if f["classes"] and f["support"] == f["query"]]
    if not with_classes:
        return
    together: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for finding in with_classes:
        by_mode = together.setdefault((finding["label"], finding["projection"]), {})
        measure = _measure(finding)
        by_mode[finding["query"]] = {c["name"]: c.get(measure, 0.0) for c in finding["classes"]}
    measure = _measure(with_classes[-1]).replace("_", " ")
    drawings: list[Drawing] = []
    tables: list[Table] = []
    for (label, projection), by_mode in together.items():
        title = f"{label}, {inputs.projection_name(projection)}"
        names = _best_first(by_mode)
        drawings.append(_bars(f"{key}-classes{len(drawings)}", title, measure, names, by_mode))
        tables.append(_class_table(title, names, by_mode))
    yield Figure(
        title="Classes", lead=f"By {measure}.", drawings=tuple(drawings), tables=tuple(tables)
    )


def _measure(finding: Finding) -> str:
    """The key of the number by which its classes are drawn."""
    return "average_precision" if "average_precision" in finding["classes"][0] else "recall"


def _best_first(by_mode: Mapping[str, Mapping[str, float]]) -> list[str]:
    return sorted(
        dict.fromkeys(name for values in by_mode.values() for name in values),
        key=lambda name: -sum(values.get(name, 0.0) for values in by_mode.values()),
    )


def _bars(
    key: str,
    title: str,
    measure: str,
    names: Sequence[str],
    by_mode: Mapping[str, Mapping[str, float]],
) -> Drawing:
    drawn = names[-BARS:]
    caption = Caption(
        key=key,
        title=title,
        description=f"{measure} of {len(drawn)} classes by mode; best {names[0]}, worst "
        f"{names[-1]}.",
    )
    values = {
        MODES.get(mode, mode): [recalls.get(name) for name in drawn]
        for mode, recalls in by_mode.items()
    }
    return plots.bars(caption, drawn, values, label=f"{measure}, %")


def _class_table(
    title: str, names: Sequence[str], by_mode: Mapping[str, Mapping[str, float]]
) -> Table:
    return Table(
        caption=f"{title}, %",
        columns=("class", *by_mode),
        rows=tuple(
            (name, *(percent(values.get(name)) for values in by_mode.values())) for name in names
        ),
    )
