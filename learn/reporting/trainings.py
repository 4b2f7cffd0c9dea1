"""The section of a training: its curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from learn.reporting import plots
from learn.reporting.inputs import ReportInputs, SavedTraining
from learn.reporting.plots import Caption, Drawing, Line, XAxis, YAxis
from learn.reporting.sections import Figure, Section, Table, number, percent

ROWS = 200  # of a table of epochs

Epoch = Mapping[str, Any]  # an event of metrics.jsonl


def training_section(training: SavedTraining, inputs: ReportInputs, key: str) -> Section:
    """The curves of a training, as far as it came."""
    about = training.provenance
    name = inputs.run_name(training.path)
    notes = []
    if not training.finished:
        notes.append("This training is unfinished; what is shown is how far it came.")
    if not training.epochs:
        solved = f"{name} was solved, not learnt: there are no epochs."
        notes.append(solved if training.finished else "No epoch is over yet.")
    return Section(
        key=key,
        title=f"{name}: training",
        lead=f"Recipe {Path(training.recipe['from']).stem}, {len(about['clips'])} clips of split "
        f"{about['split']}"
        + (f", judged by {len(about['val_clips'])} others" if about["val_clips"] else "")
        + ".",
        figures=(_curves(training.epochs, name, key),) if training.epochs else (),
        notes=tuple(notes),
    )


def _curves(epochs: Sequence[Epoch], name: str, key: str) -> Figure:
    rounds = [(epoch["stage"], epoch["round"]) for epoch in epochs]
    begins = [i + 0.5 for i in range(1, len(rounds)) if rounds[i] != rounds[i - 1]]
    x = XAxis(label="epoch", marks=tuple(begins))
    drawings = [_loss(epochs, name, f"{key}-loss", x)]
    if accuracy := _line(epochs, "validation", "val_accuracy", 1):
        drawings.append(_accuracy(accuracy, len(epochs), f"{key}-accuracy", x))
    return Figure(
        title="Training curves",
        lead="Dotted lines are where another stage or round begins." if begins else "",
        drawings=tuple(drawings),
        tables=(_table(epochs),),
    )


def _line(epochs: Sequence[Epoch], name: str, key: str, colour: int) -> list[Line]:
    """The numbers of that key by epoch; no line where there are none."""
    points = [
        (float(i), float(epoch[key]))
        for i, epoch in enumerate(epochs, start=1)
        if epoch[key] is not None
    ]
    if not points:
        return []
    x, y = zip(*points, strict=True)
    return [Line(name=name, x=x, y=y, colour=colour, dash=colour)]


def _loss(epochs: Sequence[Epoch], name: str, key: str, x: XAxis) -> Drawing:
    losses = [
        *_line(epochs, "training", "loss", 0),
        *_line(epochs, "validation", "val_loss", 1),
    ]
    caption = Caption(
        key=key,
        title="Loss",
        description=f"Loss of {name} over {len(epochs)} epochs, from {losses[0].y[0]:.3g} to "
        f"{losses[0].y[-1]:.3g} in training.",
    )
    return plots.lines(caption, losses, x=x, y=YAxis(label="loss", percent=False))


def _accuracy(accuracy: Sequence[Line], epochs: int, key: str, x: XAxis) -> Drawing:
    caption = Caption(
        key=key,
        title="Few-shot accuracy on validation clips",
        description=f"Accuracy of episodes on validation clips over {epochs} epochs, at best "
        f"{100 * max(accuracy[0].y):.1f} percent.",
    )
    return plots.lines(caption, accuracy, x=x, y=YAxis(label="accuracy, %"))


def _table(epochs: Sequence[Epoch]) -> Table:
    step = -(-len(epochs) // ROWS)
    return Table(
        caption="Epochs" if step == 1 else f"Every {step}th of {len(epochs)} epochs",
        columns=("epoch", "stage", "round", "loss", "validation loss", "validation %"),
        rows=tuple(
            (
                str(i), epoch["stage"], str(epoch["round"]), number(epoch["loss"]),
                number(epoch["val_loss"]), percent(epoch["val_accuracy"]),
            )
            for i, epoch in enumerate(epochs, start=1)
            if (len(epochs) - i) % step == 0
        ),
    )  # fmt: skip
