"""`learn episodes`, `evaluate` and `compare`: what a store and its runs are worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from learn.commands.incomplete import check_incomplete, give_apart, scored_apart
from learn.commands.options import (
    COMPARED,
    DATA,
    ELSEWHERE,
    EPISODES,
    MISSING,
    OUTPUT,
    AudioFeatures,
    Device,
    Group,
    GroupFile,
    Guard,
    Incomplete,
    KeepIn,
    Manifest,
    Names,
    Projections,
    TextFeatures,
    VisualFeatures,
    app,
    keep_command,
    modes_option,
)
from store import console
from store.console import Json, Memory, StoreDir
from store.grammar import split_specs

if TYPE_CHECKING:
    from learn.evaluation.evaluate import Evaluation


@app.command("episodes")
def episodes_command(
    directory: StoreDir,
    manifest: Manifest = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Which split.", show_default="test, where there are splits", rich_help_panel=DATA
        ),
    ] = None,
    label: Annotated[
        str, typer.Option(metavar="COLUMN", help="The column of labels.", rich_help_panel=DATA)
    ] = "label",
    group: Group = None,
    group_file: GroupFile = None,
    groups: Annotated[
        str,
        typer.Option(
            metavar="within|strict|mixed",
            help="Groups separated within each class, strictly across classes, or mixed.",
            rich_help_panel=DATA,
        ),
    ] = "within",
    inflation: Annotated[
        bool,
        typer.Option(
            "--inflation",
            help="Also what accuracy would gain with groups not separated.",
            rich_help_panel=DATA,
        ),
    ] = False,
    task: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="What an episode is: NAME:key=value,…; see `learn tasks`.",
            rich_help_panel=EPISODES,
        ),
    ] = "n_way_k_shot",
    ways: Annotated[int, typer.Option(help="Classes per episode.", rich_help_panel=EPISODES)] = 5,
    shots: Annotated[
        list[int],
        typer.Option(help="Support clips per class; may repeat.", rich_help_panel=EPISODES),
    ] = [1],  # noqa: B006
    queries: Annotated[
        int, typer.Option(help="Query clips per class.", rich_help_panel=EPISODES)
    ] = 15,
    episodes: Annotated[
        int | None,
        typer.Option(help="How many episodes.", show_default="10000", rich_help_panel=EPISODES),
    ] = None,
    until_ci: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Add blocks of 1000 until every ± is at most this, as 0.002.",
            rich_help_panel=EPISODES,
        ),
    ] = None,
    max_episodes: Annotated[
        int, typer.Option(help="Where --until-ci gives up.", rich_help_panel=EPISODES)
    ] = 100_000,
    seed: Annotated[int, typer.Option(help="Decides the episodes.", rich_help_panel=EPISODES)] = 0,
    visual: VisualFeatures = [],  # noqa: B006
    audio: AudioFeatures = [],  # noqa: B006
    text: TextFeatures = [],  # noqa: B006
    head: Annotated[
        list[str],
        typer.Option(
            metavar="SPEC",
            help="Classifier NAME:key=value,… (see `learn heads`), or own (the run's); may repeat.",
            show_default="default",
            rich_help_panel=COMPARED,
        ),
    ] = [],  # noqa: B006
    projection: Projections = [],  # noqa: B006 (typer copies it)
    guard: Guard = "on",
    names: Names = "on",
    support: Annotated[
        list[str],
        modes_option(
            "support",
            "MODE,…",
            "Modes to learn from (v, a, t: text; or several, as av); each pair with --query.",
            "all there are",
        ),
    ] = [],  # noqa: B006
    query: Annotated[
        list[str],
        modes_option("query", "MODE,…", "Modes to answer in.", "as the support"),
    ] = [],  # noqa: B006
    drop: Annotated[
        list[str],
        typer.Option(
            metavar="v,a,t",
            help="Also accuracy as queries lose this modality.",
            rich_help_panel=MISSING,
        ),
    ] = [],  # noqa: B006
    drop_rates: Annotated[
        str,
        typer.Option(
            metavar="SHARE,…", help="The shares of clips that lack it.", rich_help_panel=MISSING
        ),
    ] = "0,0.25,0.5,0.75,1",
    fill: Annotated[
        list[str],
        typer.Option(
            metavar="FILL,…",
            help="In its place: zero, mean, retrieved, token, ignored.",
            show_default="all",
            rich_help_panel=MISSING,
        ),
    ] = [],  # noqa: B006
    fusion: Annotated[
        list[str],
        typer.Option(
            metavar="SPEC",
            help="How av joins both: NAME:key=value,… (see `learn fusions`); may repeat.",
            show_default="weighted, or learned where a network does; all with --drop",
            rich_help_panel=COMPARED,
        ),
    ] = [],  # noqa: B006
    augment: Annotated[
        list[str],
        typer.Option(
            metavar="SPEC",
            help="Also with features made for the support, paired (see `learn augmentations`).",
            rich_help_panel=COMPARED,
        ),
    ] = [],  # noqa: B006
    query_store: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Queries from another store.", rich_help_panel=ELSEWHERE),
    ] = None,
    query_manifest: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Queries by another manifest.", rich_help_panel=ELSEWHERE),
    ] = None,
    query_split: Annotated[
        str | None, typer.Option(help="The split of these queries.", rich_help_panel=ELSEWHERE)
    ] = None,
    save_episodes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the episodes to a file.", rich_help_panel=EPISODES
        ),
    ] = None,
    episodes_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Score the episodes of a file.", rich_help_panel=EPISODES
        ),
    ] = None,
    ci: Annotated[
        str,
        typer.Option(
            metavar="t-ddof1|normal-ddof0", help="How intervals are made.", rich_help_panel=OUTPUT
        ),
    ] = "t-ddof1",
    memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="What scoring may take beside rows and vectors.",
            rich_help_panel=OUTPUT,
        ),
    ] = "1GiB",
    incomplete: Incomplete = False,
    device: Device = "auto",
    output: KeepIn = None,
    as_json: Json = False,
) -> int:
    """Accuracy of few-shot heads on stored features, with a 95 % interval over episodes.

    Example: learn episodes my_store --shots 1 --shots 5 --head prototypes --head ridge -o heads
    """
    from learn.commands.checks import check_device, check_episodes
    from learn.evaluation.config import EpisodesConfig
    from learn.evaluation.drop import Drop
    from store.sizes import parse_size

    missing, fusions = None, specs(fusion)
    if drop:
        missing = Drop(
            modes=listed(drop), rates=numbers(drop_rates), fills=listed(fill),
            fusions=fusions, seed=seed,
        )  # fmt: skip
    asked: dict[str, Any] = {
        "manifest": manifest, "split": split, "label": label, "group": group,
        "group_file": group_file, "groups": groups,
        "inflation": inflation, "task": task, "ways": ways, "shots": tuple(shots),
        "queries": queries, "episodes": episodes, "until_ci": until_ci,
        "max_episodes": max_episodes, "seed": seed, "visual": visual, "audio": audio,
        "text": text,
        "heads": tuple(head), "fusions": fusions, "projections": tuple(projection),
        "augments": specs(augment), "guard": guard, "names": names,
        "support": listed(support), "query": listed(query),
        "episodes_file": episodes_file, "drop": missing, "query_store": query_store,
        "query_manifest": query_manifest,
        "query_split": query_split, "ci": ci, "memory": parse_size(memory),
    }  # fmt: skip
    check_device(device)
    check_episodes(EpisodesConfig.of({"store_path": directory, **asked}), output)
    if incomplete:
        check_incomplete(
            {"query": query, "drop": drop, "augment": augment, "inflation": inflation,
             "episodes_file": episodes_file, "save_episodes": save_episodes}
        )  # fmt: skip

    import learn
    from learn.commands.tables import episodes_table

    if incomplete:
        with console.progress("episodes", quiet=as_json) as progress:
            of_modes = scored_apart(
                directory,
                listed(support),
                lambda mode: learn.run_episodes(
                    directory, **{**asked, "support": (mode,)}, device=device, progress=progress
                ),
                output,
            )
        if output:
            keep_command(output)
        clips = {mode: of["episodes"]["clips"] for mode, of in of_modes.results.items()}
        give_apart(of_modes, clips, as_json, episodes_table)
        return console.DONE
    with console.progress("episodes", quiet=as_json) as progress:
        result = learn.run_episodes(
            directory, **asked, device=device, save_episodes=save_episodes, progress=progress
        )
    if output:
        result.save(output)
        keep_command(output)
    shown = result.to_dict()
    console.give(shown, as_json, lambda: episodes_table(shown))
    return console.DONE


@app.command("tasks")
def tasks_command(as_json: Json = False) -> int:
    """List what an episode of `learn episodes` can be."""
    from store import plugins

    rows = plugins.describe("learn.fewshot.tasks")
    console.give({"tasks": rows}, as_json, lambda: console.plugin_table(rows))
    return console.DONE


@app.command("heads")
def heads_command(as_json: Json = False) -> int:
    """List the classifiers of `learn episodes`, and the full SPEC of the default one."""
    from learn.fewshot.default_head import LATEST, VERSIONS
    from store import plugins

    rows = plugins.describe("learn.fewshot.heads")
    shown = {"default": LATEST, "versions": VERSIONS, "heads": rows}
    console.give(shown, as_json, lambda: heads_table(shown))
    return console.DONE


def heads_table(shown: dict[str, Any]) -> None:
    """Print the default head's versions, then every head."""
    for name, spec in shown["versions"].items():
        latest = " (default)" if name == shown["default"] else ""
        console.write_line(f"{name}{latest}: {spec}")
    console.write_line()
    console.plugin_table(shown["heads"])


@app.command("fusions")
def fusions_command(as_json: Json = False) -> int:
    """List how `learn episodes` can join sight and sound."""
    from store import plugins

    rows = plugins.describe("learn.fewshot.fusions")
    console.give({"fusions": rows}, as_json, lambda: console.plugin_table(rows))
    return console.DONE


@app.command("augmentations")
def augmentations_command(as_json: Json = False) -> int:
    """List how `learn episodes --augment` makes features for the support."""
    from store import plugins

    rows = plugins.describe("learn.fewshot.augmentations")
    console.give({"augmentations": rows}, as_json, lambda: console.plugin_table(rows))
    return console.DONE


@app.command("evaluate")
def evaluate_command(
    directory: StoreDir,
    protocol: Annotated[
        str, typer.Option(metavar="SPEC", help="NAME:key=value,…; see `learn protocols`.")
    ],
    manifest: Manifest = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="The split that is scored.",
            show_default="test, where there are splits",
            rich_help_panel=DATA,
        ),
    ] = None,
    train_split: Annotated[
        str, typer.Option(help="What probes are fitted on.", rich_help_panel=DATA)
    ] = "train",
    val_split: Annotated[
        str, typer.Option(help="What settings are chosen on.", rich_help_panel=DATA)
    ] = "val",
    label: Annotated[
        list[str],
        typer.Option(
            metavar="COLUMN", help="A column of labels; may repeat.", rich_help_panel=DATA
        ),
    ] = ["label"],  # noqa: B006
    group: Group = None,
    group_file: GroupFile = None,
    visual: VisualFeatures = [],  # noqa: B006
    audio: AudioFeatures = [],  # noqa: B006
    text: TextFeatures = [],  # noqa: B006
    projection: Projections = [],  # noqa: B006 (typer copies it)
    support: Annotated[
        list[str],
        modes_option(
            "support",
            "MODE",
            "Modes to learn from, or of the gallery (v, a, t, av …); may repeat.",
            "all there are",
        ),
    ] = [],  # noqa: B006
    query: Annotated[
        list[str],
        modes_option("query", "MODE", "Modes to answer in; may repeat.", "as the support"),
    ] = [],  # noqa: B006
    fusion: Annotated[
        list[str],
        typer.Option(
            metavar="early|late|weighted",
            help="How probes join several senses; may repeat.",
            show_default="weighted",
            rich_help_panel=COMPARED,
        ),
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Decides folds.", rich_help_panel=COMPARED)] = 0,
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="A table of the classes too.", rich_help_panel=OUTPUT),
    ] = False,
    incomplete: Incomplete = False,
    device: Device = "auto",
    output: KeepIn = None,
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Score stored features, or a run, by a protocol: probes, retrieval, labels and others.

    Example: learn evaluate my_store --protocol linear --label topic --per-class
    """
    from learn.commands.checks import Asked, check_device, check_protocol

    asked = Asked(
        store=directory, manifest=manifest, split=split, labels=label, group=group, visual=visual,
        audio=audio, text=text, projections=list(map(str, projection)), support=support,
        query=query,
    )  # fmt: skip
    check_device(device)
    check_protocol(asked, protocol, output, specs(fusion))
    if incomplete:
        check_incomplete({"query": query})

    import learn
    from learn.commands.comparison_tables import evaluation_table

    def score(modes: Sequence[str]) -> "Evaluation":
        return learn.run_protocol(
            directory, protocol, manifest=manifest, split=split, train_split=train_split,
            val_split=val_split, labels=tuple(label), group=group, group_file=group_file,
            visual=visual, audio=audio, text=text, projections=tuple(projection),
            support=tuple(modes), query=tuple(query), seed=seed, fusions=specs(fusion),
            device=device, progress=progress,
        )  # fmt: skip

    with console.within(memory), console.progress("findings", quiet=as_json) as progress:
        if incomplete:
            of_modes = scored_apart(directory, support, lambda mode: score([mode]), output)
        else:
            result = score(support)
    if incomplete:
        if output:
            keep_command(output)
        clips = {
            mode: max((row["clips"] for row in of["results"]), default=0)
            for mode, of in of_modes.results.items()
        }
        give_apart(
            of_modes, clips, as_json, lambda shown: evaluation_table(shown, per_class=per_class)
        )
        return console.DONE
    if output:
        result.save(output)
        keep_command(output)
    shown = result.to_dict()
    console.give(shown, as_json, lambda: evaluation_table(shown, per_class=per_class))
    return console.DONE


@app.command("protocols")
def protocols_command(as_json: Json = False) -> int:
    """List what `learn evaluate` can do."""
    from store import plugins

    rows = plugins.describe("learn.evaluation.protocols")
    console.give({"protocols": rows}, as_json, lambda: console.plugin_table(rows))
    return console.DONE


@app.command("compare")
def compare_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Of `learn episodes -o`.")],
    against: Annotated[
        str, typer.Option(metavar="first|best|all", help="The reference, or every pair.")
    ] = "first",
    margin: Annotated[
        float, typer.Option(help="Accuracies closer than that are the same.")
    ] = 0.005,
    ci: Annotated[str, typer.Option(help="t-ddof1, normal-ddof0 or bootstrap.")] = "t-ddof1",
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Tell which result is better, from differences on the same episodes."""
    from learn.commands.checks import check_compare

    check_compare(runs, against=against, margin=margin, ci=ci)

    import learn
    from learn.commands.comparison_tables import comparison_table

    with console.within(memory), console.progress("pairs", quiet=as_json):
        result = learn.compare(tuple(runs), against=against, margin=margin, ci=ci).to_dict()
    console.give(result, as_json, lambda: comparison_table(result))
    return console.DONE


def listed(values: list[str]) -> tuple[str, ...]:
    """The values of an option that may repeat or hold several with commas between."""
    return tuple(part.strip() for value in values for part in value.split(","))


def specs(values: list[str]) -> tuple[str, ...]:
    """SPECs of an option that may repeat or hold several with commas between."""
    return tuple(split_specs(",".join(values))) if values else ()


def numbers(text: str, option: str = "--drop-rates") -> tuple[float, ...]:
    """Numbers with commas between, of an option of shares.

    Raises:
        BadParameter: there is something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r}: name shares as 0,0.5,1") from None
