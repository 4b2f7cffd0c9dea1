"""`learn predict`: answers about single clips; `learn search` stands in `cli.py`."""

from pathlib import Path
from typing import Annotated

import typer

from learn.commands.options import (
    COMPARED,
    DATA,
    OUTPUT,
    AudioFeatures,
    Device,
    Group,
    GroupFile,
    Guard,
    Names,
    Projection,
    TextFeatures,
    VisualFeatures,
    app,
)
from store import console
from store.console import Json, Memory, StoreDir


@app.command("predict")
def predict_command(
    directory: StoreDir,
    support: Annotated[
        Path,
        typer.Option(
            "--support",
            "--support-csv",
            metavar="CSV",
            help="Labelled clips of the store: clip_id and labels.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="CSV", help="The answers.")],
    query: Annotated[
        Path | None,
        typer.Option(
            "--query",
            "--query-csv",
            metavar="CSV",
            help="The clips to label.",
            show_default="all outside the support",
            rich_help_panel=DATA,
        ),
    ] = None,
    label: Annotated[
        list[str],
        typer.Option(
            metavar="COLUMN", help="A column of labels to answer; may repeat.", rich_help_panel=DATA
        ),
    ] = ["label"],  # noqa: B006
    group: Group = None,
    group_file: GroupFile = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Other classes, in splits train and val, that tell how much senses count.",
            show_default="the store's",
            rich_help_panel=DATA,
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="v|a|t|av|…",
            help="What clips are judged by.",
            show_default="all there is",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    projection: Projection = None,
    guard: Guard = "on",
    names: Names = "on",
    head: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="A classifier of `learn episodes` that judges each clip by itself.",
            show_default="default",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="How it joins both senses (see `learn fusions`).",
            show_default="weighted",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="prototypes|nearest",
            help="Look for the nearest in a gallery instead: of class means, or of clips.",
            show_default="prototypes with an approximate --index",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    index: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Of the gallery: exact, or ivf:probes=16 with its recall measured.",
            rich_help_panel=COMPARED,
        ),
    ] = "exact",
    top: Annotated[int, typer.Option(help="Answers for each clip.", rich_help_panel=OUTPUT)] = 5,
    abstain_below: Annotated[
        float,
        typer.Option(
            metavar="P", help="No answer where confidence is less.", rich_help_panel=OUTPUT
        ),
    ] = 0.0,
    visual: VisualFeatures = [],  # noqa: B006
    audio: AudioFeatures = [],  # noqa: B006
    text: TextFeatures = [],  # noqa: B006
    device: Device = "auto",
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Label clips from a handful of examples per class.

    Example: learn predict my_store --support support.csv --top 2 -o answers.csv
    """
    from learn.commands.checks import check_device, check_predict
    from learn.inference.settings import PredictSettings

    settings = PredictSettings(
        support=support, query=query, output=output, labels=tuple(label), group=group,
        group_file=group_file, manifest=manifest, by=by, head=head, fusion=fusion, guard=guard,
        names=names, index=index, top=top, abstain_below=abstain_below, memory_bytes=0,
    )  # fmt: skip
    check_device(device)
    check_predict(
        directory, settings, mode=mode, projection=projection, visual=visual, audio=audio,
        text=text,
    )  # fmt: skip

    import learn
    from learn.commands.answer_tables import prediction_lines

    with console.within(memory), console.progress("clips", quiet=as_json) as progress:
        result = learn.predict(
            directory, support=support, output=output, query=query, labels=tuple(label),
            group=group, group_file=group_file, manifest=manifest, mode=mode, projection=projection,
            head=head, fusion=fusion, guard=guard, names=names,
            by=by, index=index, top=top, abstain_below=abstain_below, visual=visual, audio=audio,
            text=text, device=device, progress=progress,
        ).to_dict()  # fmt: skip
    console.give(result, as_json, lambda: prediction_lines(result))
    return console.DONE


@app.command("strategies")
def strategies_command(as_json: Json = False) -> int:
    """List how `learn annotate` can choose the clip that comes next."""
    from store import plugins

    rows = plugins.describe("learn.annotation.strategies")
    console.give({"strategies": rows}, as_json, lambda: console.plugin_table(rows))
    return console.DONE
