"""The three console scripts, and those commands of `learn` that need both halves.

Commands stand in `extract/commands.py`, `store/commands.py` and `learn/commands/`; what all of them
share, exit codes above all, in `store/console.py`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extract.commands import SandboxMode
from extract.commands import app as extract_app
from learn.commands import app as learn_app
from learn.commands.options import (
    AudioEncoder,
    AudioFeature,
    AudioFeatures,
    Changes,
    CheckpointSeconds,
    ClipMemory,
    DecodeWorkers,
    Device,
    Group,
    GroupFile,
    NewRun,
    Projection,
    Recipe,
    Resume,
    TextFeature,
    TextFeatures,
    TrainingSeed,
    TrainOn,
    VisualEncoder,
    VisualFeature,
    VisualFeatures,
    keep_command,
)
from store import console
from store.commands import app as store_app
from store.console import Json, Memory, StoreDir

if TYPE_CHECKING:
    from learn.data.media import Media

__all__ = ["extract_app", "extract_main", "learn_app", "learn_main", "store_app", "store_main"]


@learn_app.command("report")
def report_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Of learn episodes, evaluate or train -o.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="HTML", help="The page: a new file.")
    ],
    media: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="Where clips lie, for their pictures; may repeat."),
    ] = [],  # noqa: B006
    map_by: Annotated[
        str, typer.Option("--map", metavar="tsne|pca|none", help="How clips are laid out flat.")
    ] = "tsne",
    sandbox: SandboxMode = "auto",
    title: Annotated[str, typer.Option(show_default="named by the stores")] = "",
    remote_stores: Annotated[
        bool, typer.Option("--remote-stores", help="Read stores in buckets that runs name.")
    ] = False,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A new directory: every figure as SVG, PDF and PNG for a paper's column, every "
            "table as CSV and LaTeX.",
        ),
    ] = None,
    link_media: Annotated[
        bool,
        typer.Option("--link-media", help="Let clips be played from where they lie below --media."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Show what runs found in one page that opens offline: figures, tables, confused clips."""
    from learn.commands.checks import check_page

    check_page(runs, output, media, map_by, figures)

    import learn
    from extract.media.thumbnails import Segment, thumbnails
    from learn.commands.comparison_tables import report_lines

    with console.progress("pictures", quiet=as_json) as progress:
        result = learn.report(
            tuple(runs), output, title=title, map_by=map_by, media=tuple(media),
            remote_stores=remote_stores, figures=figures, link_media=link_media,
            thumbnails=lambda clips: thumbnails(
                [Segment(c.root, c.path, c.start_seconds, c.end_seconds) for c in clips], progress,
                sandbox=sandbox,
            ),
        ).to_dict()  # fmt: skip
    console.give(result, as_json, lambda: report_lines(result))
    return console.DONE


@learn_app.command("search")
def search_command(
    directory: StoreDir,
    clip: Annotated[
        str, typer.Argument(metavar="CLIP", help="A clip_id of the store.", show_default=False)
    ] = "",
    words: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Search by a text instead of a clip.", show_default=False
        ),
    ] = "",
    projection: Projection = None,
    top: Annotated[int, typer.Option(help="How many clips.")] = 10,
    source: Annotated[
        str | None, typer.Option("--from", metavar="v|a|t|av|…", show_default="all there is")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", metavar="v|a|t|av|…", show_default="as --from")
    ] = None,
    fusion: Annotated[
        str, typer.Option(metavar="weighted|early", help="How av joins both similarities.")
    ] = "weighted",
    encoder: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Of --words, where the clips' text was encoded by a model of a folder.",
            show_default="that of the clips' text",
        ),
    ] = "",
    visual: VisualFeatures = [],  # noqa: B006
    audio: AudioFeatures = [],  # noqa: B006
    text: TextFeatures = [],  # noqa: B006
    device: Device = "auto",
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Find the clips nearest to one clip, or to a text, across modalities too.

    Example: learn search my_store --words "a church bell" --to a --projection runs/spoken
    """
    from learn.commands.checks import check_device, check_search

    check_device(device)
    check_search(
        directory, clip=clip, words=words, top=top, modes=(source, target), projection=projection,
        visual=visual, audio=audio, text=text,
    )  # fmt: skip

    from functools import partial

    import learn
    from extract.pipeline.text import rows_of
    from learn.commands.answer_tables import neighbours_table

    with console.within(memory), console.progress("clips", quiet=as_json) as progress:
        result = learn.search(
            directory, clip, words=words, encode=partial(rows_of, encoder=encoder),
            projection=projection, top=top, source=source, target=target, fusion=fusion,
            visual=visual, audio=audio, text=text, device=device, progress=progress,
        ).to_dict()  # fmt: skip
    console.give(result, as_json, lambda: neighbours_table(result))
    return console.DONE


@learn_app.command("annotate", goes_on=True)
def annotate_command(
    directory: StoreDir,
    media: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Where the clips lie; may repeat.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="CSV",
            help="The labels: a new file, or one to go on with. A line is appended for every key.",
        ),
    ],
    label: Annotated[
        list[str], typer.Option(metavar="COLUMN", help="A column of labels to fill; may repeat.")
    ] = ["label"],  # noqa: B006
    classes: Annotated[
        list[str],
        typer.Option("--class", metavar="NAME", help="Offered from the beginning; may repeat."),
    ] = [],  # noqa: B006
    strategy: Annotated[
        str, typer.Option(metavar="SPEC", help="What comes next (see `learn strategies`).")
    ] = "uncertain_diverse",
    group: Group = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="v|a|t|av|…", help="What clips are judged by.", show_default="all there is"
        ),
    ] = None,
    projection: Projection = None,
    head: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="The classifier that proposes.", show_default="default"),
    ] = None,
    visual: VisualFeature = None,
    audio: AudioFeature = None,
    text: TextFeature = None,
    pool: Annotated[
        int, typer.Option(metavar="N", help="Clips that are candidates at once, drawn of more.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(help="What is drawn, and in which order.")] = 0,
    port: Annotated[
        int, typer.Option(metavar="N", help="Of this machine.", show_default="any that is free")
    ] = 0,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """Label clips by keyboard on a page of this machine, the most useful first.

    The classes that the labels so far suggest are proposed with their confidence. The address is
    printed; nobody else can reach it. Ctrl-C ends; the same command goes on where it stopped.

    Example: learn annotate my_store --media clips -o labels.csv
    """
    from learn.annotation.asked import AnnotateSettings
    from learn.commands.checks import check_annotate

    settings = AnnotateSettings(
        store=directory, media=tuple(media), output=output, labels=tuple(label),
        classes=tuple(classes), strategy=strategy, group=group, mode=mode, projection=projection,
        head=head, visual=visual, audio=audio, text=text, pool=pool, port=port, seed=seed,
    )  # fmt: skip
    check_annotate(settings)

    from extract.media.thumbnails import Segment, thumbnails
    from learn.annotation.annotate import annotate
    from learn.commands.answer_tables import annotation_lines

    def say(text: str) -> None:
        print(console.visible(text), file=sys.stderr, flush=True)

    result = annotate(
        settings,
        pictures=lambda clips: thumbnails(
            [Segment(c.root, c.path, c.start_seconds, c.end_seconds) for c in clips],
            sandbox=sandbox,
            workers=1,
        ),
        ready=lambda address: say(f"open {address}\nCtrl-C ends; every answer is kept"),
        say=say,
    ).to_dict()
    console.give(result, as_json, lambda: annotation_lines(result))
    return console.DONE


@learn_app.command("finetune")
def finetune_command(
    clips: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST|FOLDER", help="One row per clip, or a folder of clips."),
    ],
    recipe: Recipe,
    output: NewRun,
    visual: VisualEncoder = None,
    audio: AudioEncoder = None,
    setting: Changes = [],  # noqa: B006
    seed: TrainingSeed = None,
    memory: ClipMemory = None,
    resume: Resume = False,
    device: TrainOn = "auto",
    workers: DecodeWorkers = 0,
    checkpoint_seconds: CheckpointSeconds = 30.0,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """Train encoders on clips: frames and sound in, weights for `extract run` out.

    Ends by saying what the training did to few-shot answers about classes that it did not see.

    Example: learn finetune my_clips --recipe supervised --visual efficientnet_lite -o runs/sight
    """
    from extract.pipeline.options import Options
    from extract.weights.choice import check_encoder
    from learn.commands.checks import check_finetune
    from learn.data.device_names import check_device

    changes = [*setting, *([f"optimiser.seed={seed}"] if seed is not None else [])]
    changes += [f"data.memory={memory}"] if memory else []
    specs = {m: s for m, s in (("visual", visual), ("audio", audio)) if s is not None}
    check_device(device)
    options = Options(workers=workers, sandbox=sandbox, device="cpu")
    for modality, spec in specs.items():
        check_encoder(spec, modality)
    check_finetune(recipe, changes, output, list(specs), resume=resume)

    from extract.datasets.source import read_clips
    from extract.pipeline.options import readable
    from extract.processes.heap import kept
    from extract.trainable import clips as trainable
    from extract.trainable.network import load
    from learn.commands.comparison_tables import finetuned_lines
    from learn.data import devices
    from learn.finetuning.finetune import finetune

    manifest, notes = read_clips(clips)
    manifest, torch_device = readable(manifest), devices.chosen(device)
    learners = {
        modality: load(spec, modality, str(torch_device), seed=seed)
        for modality, spec in specs.items()
    }

    def source(*, looks: tuple[float, ...], memory_bytes: int) -> trainable.ClipStream:
        return trainable.ClipStream(
            manifest=manifest,
            looks=looks,
            memory_bytes=memory_bytes,
            options=options.resolved(),
            short_side=max(learner.short_side for learner in learners.values()),
            sample_rate=max(learner.sample_rate for learner in learners.values()),
        )

    with (
        kept(torch_device.type),
        console.progress("steps", quiet=as_json) as progress,
        console.interruptible() as stop,
    ):
        for note in notes:
            progress(0, None, note)
        try:
            result = finetune(
                manifest, recipe, learners=learners, source=source, run_dir=output,
                settings=changes, resume=resume, device=torch_device,
                checkpoint_seconds=checkpoint_seconds, stop=stop.is_set, progress=progress,
            ).to_dict()  # fmt: skip
        except KeyboardInterrupt:
            if not stop.is_set() or not (output / "checkpoint.safetensors").is_file():
                raise
            return console.Stopped(
                f"{output} has a checkpoint, go on with the same command and --resume"
            )
    keep_command(output)
    console.give(result, as_json, lambda: finetuned_lines(result))
    return console.FINDINGS if result["failed"] else console.DONE


@learn_app.command("try", goes_on=True)
def try_command(
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER|MANIFEST", help="Clips in class folders, or their table."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The page, and all it is from.")
    ],
    label: Annotated[str, typer.Option(metavar="COLUMN", help="The column of labels.")] = "label",
    group: Group = None,
    group_file: GroupFile = None,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """From clips to a page of answers: encodes them, asks what can be asked, writes a report.

    With the encoders of the install, and as many ways, shots and queries as the clips allow. Run it
    again to go on where it stopped.

    Example: learn try my_clips -o my_answers
    """
    from extract.datasets.source import read_clips
    from learn.trial import try_clips
    from store import Manifest

    with console.progress("clips", quiet=as_json) as progress, console.interruptible() as stop:

        def extract(manifest: Manifest, store_dir: Path) -> list[str]:
            from extract.pipeline.options import Options
            from extract.pipeline.progress import Watch
            from extract.pipeline.run import run

            watch = Watch(stop=stop, progress=progress)
            result = run(
                manifest, store_dir, options=Options(sandbox=sandbox, max_failures=1.0), watch=watch
            )
            if result.interrupted:
                raise KeyboardInterrupt
            return list(result.notes)

        def pictures(clips: Sequence["Media"]) -> list[bytes | None]:
            from extract.media.thumbnails import Segment, thumbnails

            segments = [Segment(c.root, c.path, c.start_seconds, c.end_seconds) for c in clips]
            return thumbnails(segments, progress, sandbox=sandbox)

        result = try_clips(
            source, output, read=read_clips, extract=extract, label=label, group=group,
            group_file=group_file, thumbnails=pictures, progress=progress,
        ).to_dict()  # fmt: skip
    from learn.commands.comparison_tables import trial_lines

    console.give(result, as_json, lambda: trial_lines(result))
    return console.FINDINGS if result["findings"] else console.DONE


def extract_main() -> None:
    """The console script `extract`."""
    console.run(extract_app)


def store_main() -> None:
    """The console script `store`."""
    console.run(store_app)


def learn_main() -> None:
    """The console script `learn`."""
    console.run(learn_app)
