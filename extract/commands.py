"""The `extract` command line: clips to features, manifests of datasets, published weights."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from store import console
from store.console import InsecureTcp, Json, Memory, TrustPickle

if TYPE_CHECKING:
    from extract.pipeline.options import Options

app = console.command_line("Turn micro videos into features, once.")
weights_app = console.app("Published weights: list, fetch, convert.")
app.add_typer(weights_app, name="weights")

Manifest = Annotated[
    Path,
    typer.Argument(
        metavar="MANIFEST|FOLDER",
        help="CSV, JSONL or Parquet with one row per clip, or a folder of clips.",
    ),
]

WHAT, FRAMES, HOW, WHERE = "What is extracted", "Which frames", "How it is done", "Where it runs"

StoreOption = Annotated[
    str, typer.Option("--store", metavar="DIR", help="Where features go.", rich_help_panel=WHAT)
]
Visual = Annotated[
    list[str],
    typer.Option(
        "--visual",
        "--visual-encoder",
        metavar="SPEC",
        help="Frame encoder NAME:key=value,…; may repeat.",
        show_default="efficientnet_lite, if no --audio either",
        rich_help_panel=WHAT,
    ),
]
Audio = Annotated[
    list[str],
    typer.Option(
        "--audio",
        "--audio-encoder",
        metavar="SPEC",
        help="Sound encoder NAME:key=value,…; may repeat.",
        show_default="logmel, if no --visual either",
        rich_help_panel=WHAT,
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(
        help="Frames per second.",
        show_default="1.0; the network's of stacks",
        rich_help_panel=FRAMES,
    ),
]
Frames = Annotated[
    int | None, typer.Option(help="Or: so many frames per clip.", rich_help_panel=FRAMES)
]
Sample = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC", help="Or: a policy, see `extract samplers`.", rich_help_panel=FRAMES
    ),
]
MaxSeconds = Annotated[
    float, typer.Option(help="Read at most this much of a clip.", rich_help_panel=FRAMES)
]
Device = Annotated[
    str,
    typer.Option(metavar="auto|cpu|cuda", help="Where networks run.", rich_help_panel=WHERE),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="auto|fp32|bf16", help="auto: bf16 on a GPU, where rows allow it.",
        rich_help_panel=WHERE,
    ),
]  # fmt: skip
Workers = Annotated[
    int, typer.Option(help="Decode processes; 0: one per core.", rich_help_panel=WHERE)
]
Decoder = Annotated[
    str,
    typer.Option(
        metavar="auto|pyav|decord|pyav-yuv|torchcodec", help="Who decodes.", rich_help_panel=HOW
    ),
]
FollowLinks = Annotated[
    bool,
    typer.Option(
        "--follow-links", help="Also where links leave the manifest's folder.", rich_help_panel=HOW
    ),
]
SandboxMode = Annotated[
    str,
    typer.Option(
        "--sandbox",
        metavar="auto|off|require",
        help="Confine decode processes: clips may be made to take a decoder over. auto: as far "
        "as the kernel can.",
        rich_help_panel=HOW,
    ),
]
Deadline = Annotated[float, typer.Option(help="Time one clip may take.", rich_help_panel=HOW)]
Retry = Annotated[
    str,
    typer.Option(
        metavar="KIND,…", help="Try failed clips of these kinds again.", rich_help_panel=HOW
    ),
]
MaxFailures = Annotated[
    float,
    typer.Option(
        help="Stop at a larger share of failed clips, 500 seen or more.", rich_help_panel=HOW
    ),
]


Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        help="Fetch nothing; also MICROSHOT_OFFLINE=1.",
        rich_help_panel=WHAT,
    ),
]
AcceptUnverified = Annotated[
    bool,
    typer.Option(
        "--accept-unverified",
        help="Fetch weights whose digest no publisher states too.",
        rich_help_panel=WHAT,
    ),
]


def _options(retry: str, **given: Any) -> "Options":
    """The settings that `extract run` and `extract plan` have in common."""
    from extract.pipeline.options import Options

    return Options(retry=tuple(filter(None, retry.split(","))), **given)


def _fetch_named(specs: list[str], options: "Options", *, quiet: bool) -> None:
    """Fetch the weights that are named and not here, before torch is imported."""
    from dataclasses import replace

    from extract.weights import by_name
    from store import plugins

    with console.progress("bytes", quiet=quiet) as progress:
        fetching = replace(options.fetching, progress=progress)
        for spec in specs:
            by_name.resolved(plugins.parse_spec(spec, by_name.FAMILY), fetching)


@app.command("run", goes_on=True)
def run_command(
    manifest: Manifest,
    store_dir: StoreOption,
    visual: Visual = [],  # noqa: B006 (typer copies it)
    audio: Audio = [],  # noqa: B006
    fps: Fps = None,
    frames: Frames = None,
    sample: Sample = None,
    max_seconds: MaxSeconds = 30.0,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = 0,
    decoder: Decoder = "auto",
    follow_links: FollowLinks = False,
    sandbox: SandboxMode = "auto",
    deadline_seconds: Deadline = 60.0,
    retry: Retry = "",
    max_failures: MaxFailures = 0.05,
    metrics: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a line of JSON for every commit.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Workers of a dask scheduler do it: docs/cluster.md."),
    ] = None,
    insecure_tcp: InsecureTcp = False,
    unit_deadline_seconds: Annotated[
        float,
        typer.Option(
            "--unit-deadline",
            metavar="SECONDS",
            help="On a cluster: a worker that finishes no clip for so long is started anew.",
        ),
    ] = 900.0,
    offline: Offline = False,
    accept_unverified: AcceptUnverified = False,
    as_json: Json = False,
) -> int:
    """Decode every clip once and store what the encoders make of it.

    Run it again to go on where it stopped. A clip that fails becomes a row with a reason. Ctrl-C
    finishes the units in hand; a second one stops at once.

    Example: extract run my_clips --store my_store

    Example: extract run clips.csv --store my_store --visual simclrv2 --audio panns --fps 2
    """
    from extract.media.sampling import sampling
    from extract.pipeline.checks import check_run
    from extract.weights.choice import frames_per_second

    options = _options(
        retry, device=device, precision=precision, workers=workers, decoder=decoder,
        follow_links=follow_links, sandbox=sandbox, deadline_seconds=deadline_seconds,
        max_failures=max_failures, offline=offline, accept_unverified=accept_unverified,
        unit_deadline_seconds=unit_deadline_seconds,
    )  # fmt: skip
    policy = sampling(
        fps=fps, frames=frames, sample=sample, max_seconds=max_seconds,
        usual=partial(frames_per_second, visual),
    )  # fmt: skip
    table = check_run(manifest, store_dir, visual, audio, options, elsewhere=scheduler is not None)
    if scheduler is not None:
        from store.cluster import check_url

        check_url(scheduler, insecure_tcp)
    else:  # elsewhere workers have caches of their own
        _fetch_named([*visual, *audio], options, quiet=as_json)

    from extract.pipeline import run
    from extract.pipeline.progress import Watch
    from extract.tables import run_table

    with console.progress("clips", quiet=as_json) as progress, console.interruptible() as stop:
        watch = Watch(metrics=metrics, stop=stop, progress=progress)
        if scheduler is not None:
            from extract.pipeline.cluster import Scheduler, run_on

            result = run_on(
                Scheduler(url=scheduler, insecure_tcp=insecure_tcp), table, store_dir,
                visual=visual, audio=audio, sampling=policy, options=options, watch=watch,
            )  # fmt: skip
        else:
            result = run.run(
                table, store_dir, visual=visual, audio=audio, sampling=policy, options=options,
                watch=watch,
            )  # fmt: skip
    console.give(result.to_dict(), as_json, lambda: run_table(result.to_dict()))
    if result.interrupted:
        return console.STOPPED
    return console.FINDINGS if result.failed or result.stopped else console.DONE


@app.command("plan")
def plan_command(
    manifest: Manifest,
    store_dir: StoreOption,
    visual: Visual = [],  # noqa: B006 (typer copies it)
    audio: Audio = [],  # noqa: B006
    fps: Fps = None,
    frames: Frames = None,
    sample: Sample = None,
    max_seconds: MaxSeconds = 30.0,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = 0,
    decoder: Decoder = "auto",
    follow_links: FollowLinks = False,
    sandbox: SandboxMode = "auto",
    deadline_seconds: Deadline = 60.0,
    retry: Retry = "",
    max_failures: MaxFailures = 0.05,
    clips: Annotated[int, typer.Option(help="How many clips to try.")] = 32,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    offline: Offline = False,
    accept_unverified: AcceptUnverified = False,
    as_json: Json = False,
) -> int:
    """What a run would take: hours, bytes, decoders, bottleneck. Writes nothing.

    Takes the options of `extract run`, and decodes and encodes a sample of what is left to do.

    Example: extract plan clips.csv --store my_store --audio yamnet:weights=yamnet.pth --clips 64
    """
    from extract.media.sampling import sampling
    from extract.pipeline.checks import Sample, check_run
    from extract.weights.choice import frames_per_second

    options = _options(
        retry, device=device, precision=precision, workers=workers, decoder=decoder,
        follow_links=follow_links, sandbox=sandbox, deadline_seconds=deadline_seconds,
        max_failures=max_failures, offline=offline, accept_unverified=accept_unverified,
    )  # fmt: skip
    policy = sampling(
        fps=fps, frames=frames, sample=sample, max_seconds=max_seconds,
        usual=partial(frames_per_second, visual),
    )  # fmt: skip
    tried = Sample(clips=clips, seed=seed)
    table = check_run(manifest, store_dir, visual, audio, options)
    _fetch_named([*visual, *audio], options, quiet=as_json)

    from extract.pipeline.plan import plan
    from extract.tables import plan_table

    with console.progress("clips", quiet=as_json) as progress:
        result = plan(
            table,
            store_dir,
            visual=tuple(visual),
            audio=tuple(audio),
            sampling=policy,
            options=options,
            sample=tried,
            progress=progress,
        )
    console.give(result.to_dict(), as_json, lambda: plan_table(result.to_dict()))
    return console.FINDINGS if result.findings else console.DONE


@app.command("status")
def status_command(
    manifest: Manifest, store_dir: StoreOption, memory: Memory = None, as_json: Json = False
) -> int:
    """What of a manifest is in a store: committed, failed by kind, pending. 1 if some is not."""
    from extract.pipeline.status import status
    from extract.tables import status_table

    with console.within(memory), console.progress("lines", quiet=as_json):
        result = status(manifest, store_dir)
    console.give(result.to_dict(), as_json, lambda: status_table(result.to_dict()))
    return console.FINDINGS if result.findings else console.DONE


@app.command("encoders")
def encoders_command(as_json: Json = False) -> int:
    """List the encoders: what they take, variants with their sizes, settings, licences."""
    from dataclasses import asdict

    from extract.tables import encoder_lines
    from store import plugins

    family = "extract.encoders"
    rows = [
        row | asdict(plugins.glance(family, row["name"], "DESCRIPTION"))
        for row in plugins.describe(family)
    ]
    console.give({"encoders": rows}, as_json, lambda: encoder_lines(rows))
    return console.DONE


@app.command("text", goes_on=True)
def text_command(
    table: Annotated[
        Path, typer.Argument(metavar="CSV", help="Columns clip_id,text: one row a clip.")
    ],
    store_dir: Annotated[str, typer.Option("--store", metavar="DIR", help="That knows the clips.")],
    encoder: Annotated[
        str, typer.Option(metavar="SPEC", help="NAME:key=value,…; see `extract texts`.")
    ] = "ngrams",
    kind: Annotated[
        str, typer.Option(metavar="WORD", help="What text it is: transcript, onscreen, title …")
    ] = "text",
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where a network runs.")] = "cpu",
    as_json: Json = False,
) -> int:
    """Store what an encoder makes of the text of clips: transcripts, words on screen.

    Text is then the third modality of `learn`: modes t, vt, at, avt. A clip with an empty cell has
    none; clips that the table does not name may come with another one.

    Example: extract text transcripts.csv --store my_store --encoder sentence --kind transcript
    """
    from extract.pipeline.text import check_kind
    from extract.tables import text_lines
    from store import plugins

    check_kind(kind)
    plugins.check("extract.texts", plugins.parse_spec(encoder, "extract.texts"))

    from extract.pipeline.text import text

    with console.progress("clips", quiet=as_json) as progress:
        result = text(
            table, store_dir, encoder=encoder, kind=kind, device=device, progress=progress
        ).to_dict()
    console.give(result, as_json, lambda: text_lines(result))
    return console.DONE


@app.command("texts")
def texts_command(as_json: Json = False) -> int:
    """List the encoders of `extract text`, and their settings."""
    from store import plugins

    rows = plugins.describe("extract.texts")
    console.give({"texts": rows}, as_json, lambda: console.plugin_table(rows))
    return console.DONE


@app.command("samplers")
def samplers_command(as_json: Json = False) -> int:
    """List the policies of `extract run --sample`, and their settings."""
    from store import plugins

    rows = plugins.describe("extract.media.samplers")
    console.give({"samplers": rows}, as_json, lambda: console.plugin_table(rows))
    return console.DONE


@app.command("layouts")
def layouts_command(as_json: Json = False) -> int:
    """List the datasets that `extract manifest` reads, and the settings of each."""
    from store.plugins import describe

    rows = describe("extract.datasets.layouts")
    console.give({"layouts": rows}, as_json, lambda: console.plugin_table(rows))
    return console.DONE


@app.command("manifest")
def manifest_command(
    layout: Annotated[
        str, typer.Argument(metavar="LAYOUT", help="How the dataset lies: `extract layouts`.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Its lists: a folder or a file.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="CSV", help="At or above it.")],
    media: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the clips lie.", show_default="with the lists"),
    ] = None,
    keep_missing: Annotated[
        bool, typer.Option("--keep-missing", help="Also write clips whose files are not there.")
    ] = False,
    trust_pickle: TrustPickle = False,
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Write the manifest of a dataset: labels, splits, groups and pieces as its lists say.

    Clips whose files are not there are counted and left out.
    """
    from extract.datasets import manifest
    from extract.tables import manifest_lines

    with console.within(memory), console.progress("files", quiet=as_json):
        facts = manifest.write(
            layout, source, output, media=media, trust_pickle=trust_pickle,
            keep_missing=keep_missing,
        )  # fmt: skip
    console.give(facts, as_json, lambda: manifest_lines(facts))
    return console.DONE


@app.command("synth", goes_on=True)
def synth_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new directory.")],
    classes: Annotated[int, typer.Option(help="How many classes.")] = 20,
    clips: Annotated[int, typer.Option(help="Clips per class.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides every byte.")] = 0,
    seconds: Annotated[float, typer.Option(help="Mean length of a clip.")] = 3.0,
    visual: Annotated[
        float,
        typer.Option(
            "--visual", "--visual-signal", help="How much pictures tell of the class, 0..1."
        ),
    ] = 1.0,
    audio: Annotated[
        float,
        typer.Option("--audio", "--audio-signal", help="How much sound tells of the class, 0..1."),
    ] = 1.0,
    noise: Annotated[float, typer.Option(help="Noise in picture and sound, 0..1.")] = 0.1,
    silent: Annotated[float, typer.Option(help="Share of clips without sound.")] = 0.0,
    broken: Annotated[float, typer.Option(help="Share of clips that are broken files.")] = 0.0,
    groups: Annotated[int, typer.Option(help="Groups of look-alike clips per class.")] = 5,
    as_json: Json = False,
) -> int:
    """Render labelled micro videos with sound, and their manifest."""
    from extract.datasets import synth

    with console.progress("clips", quiet=as_json) as progress:
        manifest = synth.render(
            directory, classes=classes, clips=clips, seed=seed, seconds=seconds, visual=visual,
            audio=audio, noise=noise, silent=silent, broken=broken, groups=groups,
            progress=progress,
        )  # fmt: skip
    console.give({"manifest": str(manifest)}, as_json, lambda: console.write_line(manifest))
    return console.DONE


@weights_app.command("list")
def weights_list_command(as_json: Json = False) -> int:
    """The published weights that encoders load, and whether they are here."""
    from extract.tables import weights_table
    from extract.weights import fetch

    rows = fetch.listing()
    console.give({"directory": str(fetch.default_directory()), "weights": rows}, as_json,
          lambda: weights_table(rows))  # fmt: skip
    return console.DONE


@weights_app.command("fetch", goes_on=True)
def weights_fetch_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `extract weights list` says.")],
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX[,HEX…]", help="What each file's digest must be.")
    ] = None,
    accept_unverified: AcceptUnverified = False,
    offline: Offline = False,
    as_json: Json = False,
) -> int:
    """Fetch published weights; goes on where an earlier try stopped, and checks what it got."""
    from extract.tables import fetched_lines
    from extract.weights import fetch

    with console.progress("bytes", quiet=as_json) as progress:
        result = fetch.fetch(
            name, sha256=sha256, accept_unverified=accept_unverified, offline=offline,
            progress=progress,
        ).to_dict()  # fmt: skip
    console.give(result, as_json, lambda: fetched_lines(result))
    return console.DONE


@weights_app.command("convert")
def weights_convert_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Of TensorFlow 1.")],
    encoder: Annotated[str, typer.Option(metavar="SPEC", help="Whose weights they are.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.safetensors")],
    ema: Annotated[bool, typer.Option(help="Take the moving average of the weights.")] = False,
    as_json: Json = False,
) -> int:
    """Turn a SimCLRv2 checkpoint into safetensors, every variable used exactly once."""
    from extract.weights import convert

    with console.progress("variables", quiet=as_json):
        result = convert.convert(checkpoint, encoder, output, ema=ema)
    console.give(result, as_json, lambda: console.pairs(result))
    return console.DONE
