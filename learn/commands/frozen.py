"""`learn benchmark`: the same clips, splits and episodes for everybody."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from learn.commands.options import (
    COMPARED,
    EPISODES,
    AudioFeature,
    Device,
    GroupFile,
    Manifest,
    VisualFeature,
    app,
)
from store import console
from store.console import Json, Memory, StoreDir


@app.command("benchmark")
def benchmark_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="3massiv-5k.")],
    directory: StoreDir,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Clips, episodes, ids and scores.")
    ],
    manifest: Manifest = None,
    group_file: GroupFile = None,
    visual: VisualFeature = None,
    audio: AudioFeature = None,
    head: Annotated[
        list[str],
        typer.Option(
            metavar="SPEC",
            help="As `learn episodes` has it; may repeat.",
            show_default="default",
            rich_help_panel=COMPARED,
        ),
    ] = [],  # noqa: B006
    episodes: Annotated[
        int | None,
        typer.Option(
            help="Fewer, for a try.", show_default="the benchmark's", rich_help_panel=EPISODES
        ),
    ] = None,
    device: Device = "auto",
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Make a benchmark of a store: splits and frozen episodes by ids, scores, control tasks.

    Example: learn benchmark 3massiv-5k my_store --group-file groups.csv -o 3massiv-5k
    """
    from learn.commands.checks import check_benchmark

    check_benchmark(name, output, device)

    from learn.evaluation.frozen import benchmark

    with console.within(memory), console.progress("episodes", quiet=as_json) as progress:
        shown = benchmark(
            name, directory, output, manifest=manifest, group_file=group_file, visual=visual,
            audio=audio, heads=tuple(head), episodes=episodes, device=device, progress=progress,
        ).to_dict()  # fmt: skip
    console.give(shown, as_json, lambda: benchmark_lines(shown))
    return console.DONE


def benchmark_lines(result: Mapping[str, Any]) -> None:
    """Print the splits, the digests, the scores, and where the weight of control tasks went."""
    from learn.commands.tables import episodes_table
    from learn.evaluation.wording import feature_name, weight_text

    splits = ", ".join(
        f"{name} {counts['classes']} classes, {counts['clips']} clips"
        for name, counts in result["splits"].items()
    )
    console.wrapped(f"{result['benchmark']} in {result['output']}: {splits}")
    console.wrapped(f"ids {result['ids_sha256'][:16]}, episodes " + ", ".join(
        f"{shots}-shot {digest[:16]}" for shots, digest in result["episodes_sha256"].items()
    ), "  ")  # fmt: skip
    for note in result["notes"]:
        console.wrapped(note, "  ")
    console.write_line()
    episodes_table(result)
    console.write_line("\ncontrol tasks: the weight must go to the sense that carries the label")
    for row in result["controls"]:
        if "why_not" in row:
            console.wrapped(f"{row['label']}: not asked, {row['why_not']}", "  ")
            continue
        scores = ", ".join(f"{mode} {100 * x:.1f}" for mode, x in row["accuracy"].items())
        weights = ", ".join(
            f"{feature_name(f)} {weight_text(w)}" for f, w in row.get("weights", {}).items()
        )
        console.wrapped(
            f"{row['label']} ({row['weight_should_go_to']}), {row['ways']}-way: {scores}"
            + (f"; weights: {weights}" if weights else ""),
            "  ",
        )
