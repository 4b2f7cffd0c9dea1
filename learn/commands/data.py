"""`learn split` and `groups`: tables of clips, before anything is trained or asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from learn.commands.options import AudioFeature, Group, GroupFile, VisualFeature, app
from store import console
from store.console import Json, Memory, StoreDir


@app.command("split")
def split_command(
    source: Annotated[
        str, typer.Argument(metavar="MANIFEST|STORE", help="Clips with labels, or their store.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="CSV", help="The same with splits: --manifest."),
    ],
    by: Annotated[
        str,
        typer.Option(
            metavar="classes|clips",
            help="No class in two splits (base, val, novel), or every class in all.",
        ),
    ] = "classes",
    label: Annotated[str, typer.Option(metavar="COLUMN", help="The column of labels.")] = "label",
    group: Group = None,
    group_file: GroupFile = None,
    stratify: Annotated[
        list[str],
        typer.Option(metavar="COLUMN", help="Its values are alike in all splits; may repeat."),
    ] = [],  # noqa: B006
    shares: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Shares of train, val, test; 0 leaves one out.",
            show_default="0.6,0.15,0.25, with 5 classes in test if there are 10",
        ),
    ] = None,
    min_clips: Annotated[
        int, typer.Option(help="Smaller classes are for training only; by clips, too small.")
    ] = 1,
    drop_small: Annotated[
        bool, typer.Option("--drop-small", help="By clips: too small classes are in no split.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides which goes where.")] = 0,
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Split clips into train, val and test, sources (column `group`) kept together.

    Example: learn split my_store -o split.csv

    Example: learn split clips.csv --by clips --stratify language -o split.csv
    """
    from learn.commands.evaluation import numbers
    from learn.data.split import split

    parts = None if shares is None else numbers(shares, "--shares")
    with console.within(memory), console.progress("lines", quiet=as_json):
        shown = split(
            source, output, by=by, label=label, group=group, group_file=group_file,
            stratify=tuple(stratify), shares=parts, min_clips=min_clips, drop_small=drop_small,
            seed=seed,
        ).to_dict()  # fmt: skip
    console.give(shown, as_json, lambda: split_lines(shown))
    return console.DONE


def split_lines(result: Mapping[str, Any]) -> None:
    """Print how many classes, clips and sources each split has, and what is in none."""
    from learn.data.split import CALLED, SPLITS

    called = dict(zip(SPLITS, CALLED, strict=True))
    by_classes = result["by"] == "classes"
    console.wrapped(
        f"{result['manifest']}: {result['clips']} clips, "
        + ("no class in two splits" if by_classes else "every class in all splits")
        + f", seed {result['seed']}"
    )
    rows = [
        {"split": f"{name} ({called[name]})" if by_classes else name, **counts}
        for name, counts in result["splits"].items()
    ]
    console.table(rows, ["split", "classes", "clips", "sources"])
    if result["without"]:
        listed = ", ".join(f"{n} with {reason}" for reason, n in result["without"].items())
        console.wrapped(f"in no split: {listed}")
    for column, worst in result["uneven"].items():
        listed = ", ".join(f"{worst[name]:.1%} of {name}" for name in result["splits"])
        console.wrapped(f"most uneven of {column}: {worst['value'] or 'empty'}, {listed}")
    for note in result["notes"]:
        console.wrapped(note, "  ")


@app.command("groups")
def groups_command(
    directory: StoreDir,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="CSV", help="A new table: --group-file.")
    ],
    by: Annotated[
        str,
        typer.Option(
            metavar="WHAT,…", help="What may connect clips: digest (of files), sight, sound."
        ),
    ] = "digest,sight,sound",
    ratio: Annotated[
        float,
        typer.Option(help="How near copies are, of the way to a clip's twelfth neighbour."),
    ] = 0.6,
    visual: VisualFeature = None,
    audio: AudioFeature = None,
    seed: Annotated[int, typer.Option(help="Decides which clips tell what is usual.")] = 0,
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Find which clips are of one source: the same file, near copies by sight, by sound.

    Example: learn groups my_store -o groups.csv

    Example: learn episodes my_store --group-file groups.csv --inflation
    """
    from learn.commands.evaluation import listed
    from learn.data.group_file import GROUP
    from learn.inference.groups import groups

    with console.within(memory), console.progress("senses", quiet=as_json) as progress:
        shown = groups(
            directory,
            output,
            by=listed([by]),
            visual=visual,
            audio=audio,
            ratio=ratio,
            seed=seed,
            progress=progress,
        ).to_dict()
    console.give(shown, as_json, lambda: groups_lines(shown, GROUP))
    return console.DONE


def groups_lines(result: Mapping[str, Any], column: str) -> None:
    """Print how many groups there are, what connects them, and what that was set against."""
    console.wrapped(
        f"{result['output']}: {result['grouped']} of {result['clips']} clips are in "
        f"{result['groups']} groups; {result['seconds']:g} s"
    )
    if result["sizes"]:
        sizes = ", ".join(f"{n} of {size}" for size, n in result["sizes"].items())
        console.wrapped(f"groups by clips: {sizes}", "  ")
        told = sorted(result["reasons"].items(), key=lambda item: -item[1])
        console.wrapped(f"clips by reason: {', '.join(f'{n} {why}' for why, n in told)}", "  ")
    for sense, own in result["compared"].items():
        plain = f", {own['plain']} more that tell nothing" if own["plain"] else ""
        console.wrapped(
            f"by {sense}: {own['clips']} clips of {own['feature']}{plain}; copies are nearer than "
            f"{own['ratio']:g} of the way to a clip's twelfth neighbour; in this collection the "
            f"nearest clip of another source is about {own['median']:.2f} alike "
            f"(± {own['deviation']:.2f})",
            "  ",
        )
    if known := result["known"]:
        console.wrapped(
            f"against the column {column}: {known['pairs_in_both']} of its {known['pairs_known']} "
            f"pairs found, {known['pairs_found'] - known['pairs_in_both']} pairs more",
            "  ",
        )
    for note in result["notes"]:
        console.wrapped(note, "  ")
    if result["groups"]:
        console.wrapped(f"next: learn episodes {result['store']} --group-file {result['output']} "
                        "--inflation", "  ")  # fmt: skip
