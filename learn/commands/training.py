"""`learn train`, `sweep`, `labels` and `recipes`: from stored features to trained runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from learn.commands.options import (
    DATA,
    EPISODES,
    OUTPUT,
    TRAINING,
    AudioFeatures,
    Changes,
    CheckpointSeconds,
    GroupFile,
    Manifest,
    NewRun,
    Recipe,
    Resume,
    RowMemory,
    TrainedText,
    TrainOn,
    VisualFeatures,
    app,
    keep_command,
)
from store import console
from store.console import InsecureTcp, Json, Memory, StoreDir, TrustPickle

if TYPE_CHECKING:
    from learn.training.train import Training


@app.command("train")
def train_command(
    directory: StoreDir,
    recipe: Recipe,
    output: NewRun,
    setting: Changes = [],  # noqa: B006
    manifest: Manifest = None,
    group_file: GroupFile = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Vectors of class names, made by `learn labels`.",
            rich_help_panel=DATA,
        ),
    ] = None,
    visual: VisualFeatures = [],  # noqa: B006
    audio: AudioFeatures = [],  # noqa: B006
    text: TrainedText = [],  # noqa: B006
    memory: RowMemory = None,
    resume: Resume = False,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Begin where another run's projections or network ended.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    device: TrainOn = "auto",
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The same as --log tensorboard:DIR.", rich_help_panel=OUTPUT
        ),
    ] = None,
    checkpoint_seconds: CheckpointSeconds = 30.0,
    log: Annotated[
        list[str],
        typer.Option(
            metavar="SPEC",
            help="Draw its numbers there (see `learn loggers`); may repeat.",
            rich_help_panel=OUTPUT,
        ),
    ] = [],  # noqa: B006
    as_json: Json = False,
) -> int:
    """Train projections of stored features into a common space.

    Ends by saying what the run gives on val episodes against stored rows. Exit code 1 if that is
    worse.

    Example: learn train my_store --recipe infonce --set optimiser.epochs=20 -o runs/infonce
    """
    from learn.commands.checks import check_train

    features = {"visual": visual, "audio": audio, "text": text}
    aliases = {"data.labels": labels, "data.memory": memory}
    aliases |= {f"data.{modality}": ",".join(names) for modality, names in features.items()}
    changes = (*setting, *(f"{key}={value}" for key, value in aliases.items() if value))
    check_train(
        directory, recipe, changes, output, manifest=manifest, resume=resume, device=device,
        init=init, loggers=log,
    )  # fmt: skip

    import learn

    with (
        console.interruptible() as stop,
        console.progress("epochs", quiet=as_json) as progress,
    ):
        try:
            result = learn.train(
                directory, recipe, settings=changes, run_dir=output, manifest=manifest,
                group_file=group_file, resume=resume, init=init, device=device, loggers=log,
                tensorboard=tensorboard, checkpoint_seconds=checkpoint_seconds,
                stop=stop.is_set, progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            if not stop.is_set() or not (output / "checkpoint.safetensors").is_file():
                raise
            return console.Stopped(
                f"{output} has a checkpoint, go on with the same command and --resume"
            )
    keep_command(output)
    console.give(result.to_dict(), as_json, lambda: _training_table(result))
    return console.FINDINGS if result.worse else console.DONE


def _training_table(result: "Training") -> None:
    """Print how a training went, and what its run gives against stored rows."""
    from learn.training.against_stored import sentence

    facts = result.to_dict()
    against = facts.pop("against_stored")
    if not facts["epochs"]:  # solved: there is none that could be the best
        facts.pop("best_epoch")
    console.pairs({key: value for key, value in facts.items() if value is not None})
    if not against:  # a run of before this was measured
        return
    if against["results"]:
        console.write_line()
        percents = [
            {
                "mode": row["mode"], "shots": row["shots"], "ways": row["ways"],
                **{key: f"{100 * row[key]:.1f}" for key in ("run", "stored")},
                "difference": f"{100 * row['difference']:+.1f} ± {100 * (row['ci95'] or 0):.1f}",
                "": row["verdict"],
            }
            for row in against["results"]
        ]  # fmt: skip
        console.table(percents, list(percents[0]))
    console.wrapped(sentence(against))


@app.command("loggers")
def loggers_command(as_json: Json = False) -> int:
    """List where `learn train --log` can draw a training's numbers."""
    from store import plugins

    rows = plugins.describe("learn.training.loggers")
    console.give({"loggers": rows}, as_json, lambda: console.plugin_table(rows))
    return console.DONE


@app.command("sweep", goes_on=True)
def sweep_command(
    directory: StoreDir,
    recipe: Recipe,
    grid: Annotated[
        list[str], typer.Option(metavar="KEY=A,B,…", help="Values to combine; may repeat.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="A run for each combination.")
    ],
    setting: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the recipe of all combinations; may repeat.",
            rich_help_panel=TRAINING,
        ),
    ] = [],  # noqa: B006
    manifest: Manifest = None,
    group_file: GroupFile = None,
    ways: Annotated[
        int, typer.Option(help="Classes of the episodes that compare.", rich_help_panel=EPISODES)
    ] = 5,
    shots: Annotated[
        int, typer.Option(help="Support clips per class.", rich_help_panel=EPISODES)
    ] = 1,
    queries: Annotated[
        int, typer.Option(help="Query clips per class.", rich_help_panel=EPISODES)
    ] = 5,
    device: TrainOn = "auto",
    workers: Annotated[
        int, typer.Option(help="Trainings at a time, in processes here.", rich_help_panel=TRAINING)
    ] = 0,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Train on the workers of a dask scheduler.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    insecure_tcp: InsecureTcp = False,
    as_json: Json = False,
) -> int:
    """Train every combination of settings, and compare them on the validation split.

    Exit code 1 if a combination failed. The same command goes on where it was stopped.

    Example: learn sweep my_store --recipe infonce --grid optimiser.learning_rate=1e-3,1e-4 -o grid
    """
    from learn.commands.checks import check_sweep

    check_sweep(
        directory, recipe, setting, grid, manifest=manifest, device=device, scheduler=scheduler,
        insecure_tcp=insecure_tcp,
    )  # fmt: skip

    import learn
    from learn.commands.comparison_tables import sweep_table

    with console.progress("trainings", quiet=as_json) as progress:
        result = learn.sweep(
            directory, recipe, grid=tuple(grid), settings=tuple(setting), directory=output,
            manifest=manifest, group_file=group_file, device=device, ways=ways, shots=shots,
            queries=queries, workers=workers, scheduler=scheduler, insecure_tcp=insecure_tcp,
            progress=progress,
        )  # fmt: skip
    console.give(result.to_dict(), as_json, lambda: sweep_table(result.to_dict()))
    return console.FINDINGS if result.failed else console.DONE


@app.command("labels")
def labels_command(
    directory: StoreDir,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="CSV", help="A new file.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="A table, dictionary or word vectors."),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="DIR", help="Without --from: another sentence encoder.")
    ] = "",
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Whose classes.")] = "label",
    manifest: Manifest = None,
    names: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="What FILE calls the classes: columns original,manual."),
    ] = None,
    average_words: Annotated[
        bool, typer.Option("--average-words", help="A name FILE lacks: the mean of its words.")
    ] = False,
    trust_pickle: TrustPickle = False,
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Give every class name a vector, for recipes and protocols that compare clips with names."""
    import learn

    with console.within(memory), console.progress("lines", quiet=as_json):
        facts = learn.make_labels(
            directory, output, source=source, model=model, label=label, manifest=manifest,
            names=names, average_words=average_words, trust_pickle=trust_pickle,
        )  # fmt: skip
    console.give(facts, as_json, lambda: console.pairs(facts))
    return console.DONE


@app.command("recipes")
def recipes_command(as_json: Json = False) -> int:
    """List the recipes of `learn train` and `finetune`: command, time, the number to expect."""
    import learn
    from learn.commands.comparison_tables import recipe_lines
    from learn.finetuning.recipe import recipes as of_encoders

    rows, encoders = learn.recipes(), of_encoders()
    facts = {"recipes": rows, "encoders": encoders}
    console.give(facts, as_json, lambda: recipe_lines([*rows, *encoders]))
    return console.DONE
