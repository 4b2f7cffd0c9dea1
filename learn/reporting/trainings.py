"""What a protocol of `learn evaluate` found, and how a training went."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from learn.evaluation.metrics import NOT_SHARES, SHORT
from learn.reporting import plots
from learn.reporting.inputs import Evaluated, Gathered, Trained
from learn.reporting.plots import Drawing, Line
from learn.reporting.sections import BARS, Figure, Section, Table, number, percent

ROWS = 200  # of a table of epochs


def of_evaluation(evaluated: Evaluated, known: Gathered, key: str) -> Section:
    """What a protocol found: its metrics, and bars of the classes where it tells of them."""
    told = evaluated.told
    data, rows = told["data"], told["results"]
    settings = ", ".join(f"{k} {v}" for k, v in told["settings"].items() if v != "")
    section = Section(
        key=key,
        title=f"{known.names[str(evaluated.path)]}: {told['protocol']}",
        lead=f"Split {data['split']}"
        + (f" of {Path(data['store']).name}" if "store" in data else "")
        + (f"; {settings}" if settings else "")
        + ".",
    )
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    table = Table(
        caption="Metrics, shares in %",
        columns=(
            "label", "projection", "support", "query", "clips", *(SHORT.get(n, n) for n in names),
            "notes",
        ),
        rows=tuple(
            (
                " ".join(filter(None, (row["label"], row.get("level", "")))),
                known.projection(row["projection"]), row["support"], row["query"],
                str(row["clips"]), *(_metric(n, row["metrics"].get(n)) for n in names),
                _evaluated_marks(row),
            )
            for row in rows
        ),
    )  # fmt: skip
    section.figures.append(Figure(title="Metrics", lead="", tables=(table,), open_tables=True))
    section.figures.extend(_evaluated_classes(rows, known, key))
    return section


def _evaluated_marks(row: Mapping[str, Any]) -> str:
    seen = row["seen_in_training"]
    marks = {"untrained weights": row["untrained"], f"{seen} clips seen in training": seen}
    return ", ".join(mark for mark, holds in marks.items() if holds)


def _evaluated_classes(
    rows: Sequence[Mapping[str, Any]], known: Gathered, key: str
) -> Iterator[Figure]:
    together: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    by = "recall"
    for row in rows:
        if not row["classes"] or row["support"] != row["query"]:
            continue
        by = "average_precision" if "average_precision" in row["classes"][0] else "recall"
        of_mode = together.setdefault((row["label"], row["projection"]), {})
        of_mode[row["query"]] = {one["name"]: one.get(by, 0.0) for one in row["classes"]}
    if not together:
        return
    drawings: list[Drawing] = []
    tables = []
    for (label, projection), of_mode in together.items():
        names = sorted(
            {name for found in of_mode.values() for name in found},
            key=lambda name: -sum(found.get(name, 0.0) for found in of_mode.values()),
        )
        title = f"{label}, {known.projection(projection)}"
        drawings.append(
            plots.bars(
                f"{key}-classes{len(drawings)}", title,
                f"{by.replace('_', ' ')} of {len(names[-BARS:])} classes by mode; best {names[0]}, "
                f"worst {names[-1]}.",
                names[-BARS:],
                {m: [found.get(name) for name in names[-BARS:]] for m, found in of_mode.items()},
                x_label=f"{by.replace('_', ' ')}, %",
            )
        )  # fmt: skip
        tables.append(
            Table(
                caption=f"{title}, %",
                columns=("class", *of_mode),
                rows=tuple(
                    (name, *(percent(found.get(name)) for found in of_mode.values()))
                    for name in names
                ),
            )
        )
    yield Figure(
        title="Classes",
        lead=f"By {by.replace('_', ' ')}.",
        drawings=tuple(drawings),
        tables=tuple(tables),
    )


def of_training(trained: Trained, known: Gathered, key: str) -> Section:
    """The curves of a training."""
    about = trained.provenance
    name = known.names[str(trained.path)]
    section = Section(
        key=key,
        title=f"{name}: training",
        lead=f"Recipe {Path(trained.recipe['from']).stem}, {len(about['clips'])} clips of split "
        f"{about['split']}"
        + (f", judged by {len(about['val_clips'])} others" if about["val_clips"] else "")
        + ".",
    )
    if not trained.finished:
        section.notes.append("This training is unfinished; what is shown is how far it came.")
    if not trained.epochs:
        section.notes.append("No epoch is over yet.")
        return section
    section.figures.append(_curves(trained, name, key))
    return section


def _curves(trained: Trained, name: str, key: str) -> Figure:
    epochs = list(enumerate(trained.epochs, start=1))
    places = [(one["stage"], one["round"]) for _, one in epochs]
    begins = [i + 0.5 for i in range(1, len(places)) if places[i] != places[i - 1]]

    def line(label: str, of: str, colour: int) -> list[Line]:
        seen = [(float(i), float(one[of])) for i, one in epochs if one[of] is not None]
        x, y = zip(*seen, strict=True) if seen else ((), ())
        return [Line(name=label, x=x, y=y, colour=colour, dash=colour)] if seen else []

    losses = [*line("training", "loss", 0), *line("validation", "val_loss", 1)]
    drawings = [
        plots.lines(
            f"{key}-loss", "Loss",
            f"Loss of {name} over {len(epochs)} epochs, from {losses[0].y[0]:.3g} to "
            f"{losses[0].y[-1]:.3g} in training.",
            losses, x_label="epoch", y_label="loss", percent=False, marks=begins,
        )
    ]  # fmt: skip
    if accuracy := line("validation", "val_accuracy", 1):
        drawings.append(
            plots.lines(
                f"{key}-accuracy", "Few-shot accuracy on validation clips",
                f"Accuracy of episodes on validation clips over {len(epochs)} epochs, at best "
                f"{100 * max(accuracy[0].y):.1f} percent.",
                accuracy, x_label="epoch", y_label="accuracy, %", marks=begins,
            )
        )  # fmt: skip
    step = -(-len(epochs) // ROWS)
    rows = tuple(
        (
            str(i), one["stage"], str(one["round"]), number(one["loss"]), number(one["val_loss"]),
            percent(one["val_accuracy"]),
        )
        for i, one in epochs
        if (len(epochs) - i) % step == 0
    )  # fmt: skip
    return Figure(
        title="Training curves",
        lead="Dotted lines are where another stage or round begins." if begins else "",
        drawings=tuple(drawings),
        tables=(
            Table(
                caption="Epochs" if step == 1 else f"Every {step}th of {len(epochs)} epochs",
                columns=("epoch", "stage", "round", "loss", "validation loss", "validation %"),
                rows=rows,
            ),
        ),
    )


def _metric(name: str, value: float | None) -> str:
    return number(value) if name in NOT_SHARES else percent(value)
