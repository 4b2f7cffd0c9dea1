"""The three console scripts. Parse, call, render, exit: no logic lives here.

Exit codes: 0 done · 1 done, with findings · 2 you can fix it · 101 our bug · 130 Ctrl-C.
Results go to stdout, one JSON object with `--json`; talk goes to stderr. Heavy libraries are
imported inside commands, so that `--help` is instant.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import typer

from store.errors import MicroshotError

extract_app = typer.Typer(
    no_args_is_help=True, help="Turn micro videos into features, once.", add_completion=False
)
store_app = typer.Typer(
    no_args_is_help=True, help="Look into a feature store and check it.", add_completion=False
)
weights_app = typer.Typer(no_args_is_help=True, help="Published weights: list, fetch, convert.")
extract_app.add_typer(weights_app, name="weights")
learn_app = typer.Typer(
    no_args_is_help=True, help="Train on stored features; answer few-shot questions.",
    add_completion=False,
)  # fmt: skip

DONE, FINDINGS, FIXABLE, OUR_BUG, STOPPED = 0, 1, 2, 101, 130
_ClickException = typer.BadParameter.__mro__[2]  # typer keeps its own click and exports no base

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Store = Annotated[
    str, typer.Argument(metavar="DIR", help="The feature store: a directory or s3://BUCKET/PREFIX.")
]
Deep = Annotated[bool, typer.Option("--deep", help="Check sha256 too, not only size and crc32c.")]
Manifest = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="CSV, JSONL or Parquet with one row per clip.")
]


# ── extract ──────────────────────────────────────────────────────────────────────────────────────


StoreOption = Annotated[str, typer.Option("--store", metavar="DIR", help="Where features go.")]
Visual = Annotated[list[str], typer.Option(metavar="SPEC", help="Frame encoder, NAME:key=value,…")]
Audio = Annotated[list[str], typer.Option(metavar="SPEC", help="Sound encoder, NAME:key=value,…")]
Fps = Annotated[float | None, typer.Option(help="Frames per second. (default: 1.0)")]
Frames = Annotated[int | None, typer.Option(help="Or: so many frames per clip.")]
Sample = Annotated[
    str | None, typer.Option(metavar="SPEC", help="Or: a policy, see `extract samplers`.")
]
MaxSeconds = Annotated[float, typer.Option(help="Read at most this much of a clip.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="auto (bf16 on a GPU), fp32 or bf16.")]
Workers = Annotated[int, typer.Option(help="Decode processes; 0: one per core.")]
Decoder = Annotated[str, typer.Option(help="auto, pyav or decord.")]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="Also where links leave the manifest's folder.")
]
Deadline = Annotated[float, typer.Option(help="Time one clip may take.")]
Retry = Annotated[
    str, typer.Option(metavar="KIND,…", help="Try failed clips of these kinds again.")
]
MaxFailures = Annotated[
    float, typer.Option(help="Stop at a larger share of failed clips, 500 seen or more.")
]


@extract_app.command("run")
def extract_run(
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
    insecure_tcp: Annotated[
        bool, typer.Option("--insecure-tcp", help="Let a scheduler be tcp:// on another machine.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Decode every clip once and store what the encoders make of it.

    Run it again to go on where it stopped. A clip that fails becomes a row with a reason. Ctrl-C
    finishes the units in hand; a second one stops at once.
    """
    from extract.pipeline import run
    from extract.pipeline.options import Options
    from extract.tables import run_table

    options = Options(
        device=device,
        precision=precision,
        workers=workers,
        decoder=decoder,
        follow_links=follow_links,
        deadline_seconds=deadline_seconds,
        retry=tuple(filter(None, retry.split(","))),
        max_failures=max_failures,
    )
    how = run.sampling(fps=fps, frames=frames, sample=sample, max_seconds=max_seconds)
    with _progress("clips", quiet=as_json) as progress, _interruptible() as stop:
        if scheduler is not None:
            from extract.pipeline.cluster import run_on

            result = run_on(
                scheduler, manifest, store_dir, visual=visual, audio=audio, sampling=how,
                options=options, metrics=metrics, stop=stop, progress=progress,
                insecure_tcp=insecure_tcp,
            )  # fmt: skip
        else:
            result = run.run(
                manifest, store_dir, visual=visual, audio=audio, sampling=how, options=options,
                metrics=metrics, stop=stop, progress=progress,
            )  # fmt: skip
    _give(result.to_dict(), as_json, lambda: run_table(result.to_dict()))
    if result.interrupted:
        return STOPPED
    return FINDINGS if result.failed or result.stopped else DONE


@extract_app.command("plan")
def extract_plan(
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
    deadline_seconds: Deadline = 60.0,
    retry: Retry = "",
    max_failures: MaxFailures = 0.05,
    clips: Annotated[int, typer.Option(help="How many clips to try.")] = 32,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    as_json: Json = False,
) -> int:
    """What a run would take: hours, bytes, decoders, bottleneck. Writes nothing.

    Takes the options of `extract run`, and decodes and encodes a sample of what is left to do.
    """
    from extract.pipeline import run
    from extract.pipeline.options import Options
    from extract.pipeline.plan import plan
    from extract.tables import plan_table

    with _progress("clips", quiet=as_json) as progress:
        result = plan(
            manifest,
            store_dir,
            visual=tuple(visual),
            audio=tuple(audio),
            sampling=run.sampling(fps=fps, frames=frames, sample=sample, max_seconds=max_seconds),
            options=Options(
                device=device,
                precision=precision,
                workers=workers,
                decoder=decoder,
                follow_links=follow_links,
                deadline_seconds=deadline_seconds,
                retry=tuple(filter(None, retry.split(","))),
                max_failures=max_failures,
            ),
            sample_clips=clips,
            seed=seed,
            progress=progress,
        )
    _give(result.to_dict(), as_json, lambda: plan_table(result.to_dict()))
    return FINDINGS if result.findings else DONE


@extract_app.command("status")
def extract_status(manifest: Manifest, store_dir: StoreOption, as_json: Json = False) -> int:
    """What of a manifest is in a store: committed, failed by kind, pending. 1 if some is not."""
    from extract.pipeline.status import status
    from extract.tables import status_table

    result = status(manifest, store_dir)
    _give(result.to_dict(), as_json, lambda: status_table(result.to_dict()))
    return FINDINGS if result.findings else DONE


@extract_app.command("encoders")
def extract_encoders(as_json: Json = False) -> int:
    """List the encoders: what they take, variants with their sizes, settings, licences."""
    from dataclasses import asdict

    from extract.tables import encoder_lines
    from store import plugins

    family = "extract.encoders"
    rows = [
        row | asdict(plugins.module(family, row["name"]).DESCRIPTION)
        for row in plugins.describe(family)
    ]
    _give({"encoders": rows}, as_json, lambda: encoder_lines(rows))
    return DONE


@extract_app.command("samplers")
def extract_samplers(as_json: Json = False) -> int:
    """List the policies of `extract run --sample`, and their settings."""
    from store import plugins
    from store.tables import plugin_table

    rows = plugins.describe("extract.media.samplers")
    _give({"samplers": rows}, as_json, lambda: plugin_table(rows))
    return DONE


@extract_app.command("layouts")
def extract_layouts(as_json: Json = False) -> int:
    """List the datasets that `extract manifest` reads, and the settings of each."""
    from store.plugins import describe
    from store.tables import plugin_table

    rows = describe("extract.datasets.layouts")
    _give({"layouts": rows}, as_json, lambda: plugin_table(rows))
    return DONE


@extract_app.command("manifest")
def extract_manifest(
    layout: Annotated[
        str, typer.Argument(metavar="LAYOUT", help="How the dataset lies: `extract layouts`.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Its lists: a folder or a file.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="CSV", help="At or above it.")],
    media: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the clips lie. (default: with the lists)"),
    ] = None,
    keep_missing: Annotated[
        bool, typer.Option("--keep-missing", help="Also write clips whose files are not there.")
    ] = False,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Read lists that are pickled; nothing is run.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Write the manifest of a dataset: labels, splits, groups and pieces as its lists say.

    Clips whose files are not there are counted and left out.
    """
    from extract.datasets import manifest
    from extract.tables import manifest_lines

    facts = manifest.write(
        layout, source, output, media=media, trust_pickle=trust_pickle, keep_missing=keep_missing
    )
    _give(facts, as_json, lambda: manifest_lines(facts))
    return DONE


@extract_app.command("synth")
def extract_synth(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new directory.")],
    classes: Annotated[int, typer.Option(help="How many classes.")] = 20,
    clips: Annotated[int, typer.Option(help="Clips per class.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides every byte.")] = 0,
    seconds: Annotated[float, typer.Option(help="Mean length of a clip.")] = 3.0,
    visual: Annotated[float, typer.Option(help="How much pictures tell of the class, 0..1.")] = 1.0,
    audio: Annotated[float, typer.Option(help="How much sound tells of the class, 0..1.")] = 1.0,
    noise: Annotated[float, typer.Option(help="Noise in picture and sound, 0..1.")] = 0.1,
    silent: Annotated[float, typer.Option(help="Share of clips without sound.")] = 0.0,
    broken: Annotated[float, typer.Option(help="Share of clips that are broken files.")] = 0.0,
    groups: Annotated[int, typer.Option(help="Groups of look-alike clips per class.")] = 5,
    as_json: Json = False,
) -> int:
    """Render labelled micro videos with sound, and their manifest."""
    from extract.datasets import synth

    with _progress("clips", quiet=as_json) as progress:
        manifest = synth.render(
            directory, classes=classes, clips=clips, seed=seed, seconds=seconds, visual=visual,
            audio=audio, noise=noise, silent=silent, broken=broken, groups=groups,
            progress=progress,
        )  # fmt: skip
    _give({"manifest": str(manifest)}, as_json, lambda: print(manifest))
    return DONE


@weights_app.command("list")
def weights_list(as_json: Json = False) -> int:
    """The published weights that encoders load, and whether they are here."""
    from extract.tables import weights_table
    from extract.weights import fetch

    rows = fetch.listing()
    _give({"directory": str(fetch.default_directory()), "weights": rows}, as_json,
          lambda: weights_table(rows))  # fmt: skip
    return DONE


@weights_app.command("fetch")
def weights_fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `extract weights list` says.")],
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX[,HEX…]", help="What each file's digest must be.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Fetch published weights; goes on where an earlier try stopped, and checks what it got."""
    from extract.tables import fetched_lines
    from extract.weights import fetch

    with _progress("bytes", quiet=as_json) as progress:
        result = fetch.fetch(name, sha256=sha256, progress=progress).to_dict()
    _give(result, as_json, lambda: fetched_lines(result))
    return DONE


@weights_app.command("convert")
def weights_convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Of TensorFlow 1.")],
    encoder: Annotated[str, typer.Option(metavar="SPEC", help="Whose weights they are.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.safetensors")],
    ema: Annotated[bool, typer.Option(help="Take the moving average of the weights.")] = False,
    as_json: Json = False,
) -> int:
    """Turn a SimCLRv2 checkpoint into safetensors, every variable used exactly once."""
    from extract.weights import convert
    from store.console import pairs

    result = convert.convert(checkpoint, encoder, output, ema=ema)
    _give(result, as_json, lambda: pairs(result))
    return DONE


# ── store ────────────────────────────────────────────────────────────────────────────────────────


@store_app.command("info")
def store_info(directory: Store, as_json: Json = False) -> int:
    """What is in a store: features, clips, rows, bytes, failures by kind, provenance."""
    import store
    from store.tables import info_table
    from store.upkeep.info import info

    facts = info(store.open(directory))
    _give(facts, as_json, lambda: info_table(facts))
    return DONE


@store_app.command("verify")
def store_verify(
    directory: Store,
    deep: Deep = False,
    as_json: Json = False,
) -> int:
    """Check every committed byte; name each damaged unit."""
    import store
    from store.tables import verify_lines
    from store.upkeep.verify import verify

    report = verify(store.open(directory), deep=deep)
    _give(report.to_dict(), as_json, lambda: verify_lines(report.to_dict()))
    return FINDINGS if report.problems else DONE


@store_app.command("gc")
def store_gc(
    directory: Store,
    older_than: Annotated[str, typer.Option(metavar="AGE", help="90s, 15m, 24h or 7d.")] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> int:
    """Remove what interrupted writes left behind; nothing committed is touched."""
    import store
    from store.tables import gc_lines
    from store.upkeep import gc

    age = gc.age_seconds(older_than)
    result = gc.gc(store.open(directory), older_than_seconds=age, dry_run=dry_run).to_dict()
    _give(result, as_json, lambda: gc_lines(result))
    return DONE


@store_app.command("repair")
def store_repair(directory: Store, deep: Deep = False, as_json: Json = False) -> int:
    """Set damaged units aside, so that the next `extract run` makes exactly them again."""
    import store
    from store.tables import repair_lines
    from store.upkeep.repair import repair

    result = repair(store.open(directory), deep=deep).to_dict()
    _give(result, as_json, lambda: repair_lines(result))
    return FINDINGS if result["units"] or result["files"] or result["left"] else DONE


@store_app.command("merge")
def store_merge(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="A store, or s3://BUCKET/PREFIX.")
    ],
    others: Annotated[list[str], typer.Argument(metavar="OTHER…", help="Stores to copy from.")],
    as_json: Json = False,
) -> int:
    """Copy the sound units and manifests of other stores into this one."""
    from store.console import pairs
    from store.upkeep.merge import merge

    result = merge(directory, others).to_dict()
    _give(result, as_json, lambda: pairs(result))
    return FINDINGS if result["damaged"] else DONE


@store_app.command("view")
def store_view(
    directory: Store,
    feature: Annotated[str, typer.Argument(metavar="FEATURE", help="Its name or a beginning.")],
    as_json: Json = False,
) -> int:
    """One array of all rows of a feature, without copying them; opens in zarr, xarray and dask."""
    import store
    from store.console import pairs
    from store.upkeep.view import view

    result = view(store.open(directory), feature).to_dict()
    _give(result, as_json, lambda: pairs(result))
    return DONE


@store_app.command("doctor")
def store_doctor(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where a store is or will be.")],
    as_json: Json = False,
) -> int:
    """Try whether the storage can do what many writers at once need."""
    from store.tables import doctor_lines
    from store.upkeep.doctor import doctor

    result = doctor(directory).to_dict()
    _give(result, as_json, lambda: doctor_lines(result))
    return DONE if result["many_writers"] else FINDINGS


@store_app.command("export")
def store_export(
    directory: Store,
    form: Annotated[str, typer.Option("--format", metavar="F", help="As `store formats` says.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="A new path.")],
    feature: Annotated[
        list[str], typer.Option(metavar="NAME", help="May repeat. (default: all)")
    ] = [],  # noqa: B006
    label: Annotated[str, typer.Option(metavar="COLUMN", help="The labels.")] = "label",
    as_json: Json = False,
) -> int:
    """Write features as a file that other tools of the field read."""
    import store
    from store.console import pairs
    from store.exchange.exchange import export

    with _progress("clips", quiet=as_json) as progress:
        facts = export(
            store.open(directory), form, output, features=feature, label=label, progress=progress
        )
    _give(facts, as_json, lambda: pairs(facts))
    return DONE


@store_app.command("import")
def store_import(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file or directory.")],
    form: Annotated[str, typer.Option("--format", metavar="F", help="As `store formats` says.")],
    store_dir: Annotated[str, typer.Option("--store", metavar="DIR", help="Where it goes.")],
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Read pickles, arrays and names only.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Commit the features of another tool's file to a store."""
    from store.console import pairs
    from store.exchange.exchange import import_

    with _progress("clips", quiet=as_json) as progress:
        facts = import_(form, source, store_dir, trust_pickle=trust_pickle, progress=progress)
    _give(facts, as_json, lambda: pairs(facts))
    return DONE


@store_app.command("formats")
def store_formats(as_json: Json = False) -> int:
    """List the formats of `store export` and `store import`, and their settings."""
    from store import plugins
    from store.tables import plugin_table

    rows = plugins.describe("store.exchange.formats")
    _give({"formats": rows}, as_json, lambda: plugin_table(rows))
    return DONE


# ── learn ────────────────────────────────────────────────────────────────────────────────────────


@learn_app.command("episodes")
def learn_episodes(
    directory: Store,
    manifest: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Labels of another task for these clips.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Which split. (default: test where there are splits)")
    ] = None,
    label: Annotated[str, typer.Option(metavar="COLUMN", help="The labels.")] = "label",
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN|none", help="Kept apart. (default: group if present)"),
    ] = None,
    groups: Annotated[
        str, typer.Option(help="Apart within each class, strict (across classes), or mixed.")
    ] = "within",
    inflation: Annotated[
        bool, typer.Option("--inflation", help="What mixed groups would add, too.")
    ] = False,
    task: Annotated[
        str, typer.Option(metavar="SPEC", help="What an episode is: NAME:key=value,…; see `tasks`.")
    ] = "n_way_k_shot",
    ways: Annotated[int, typer.Option(help="Classes per episode.")] = 5,
    shots: Annotated[list[int], typer.Option(help="Support clips per class; may repeat.")] = [1],  # noqa: B006
    queries: Annotated[int, typer.Option(help="Query clips per class.")] = 15,
    episodes: Annotated[
        int | None, typer.Option(help="How many episodes. (default: 10000)", show_default=False)
    ] = None,
    until_ci: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Add blocks (1000) until ± is at most this, as 0.002."),
    ] = None,
    max_episodes: Annotated[int, typer.Option(help="Where --until-ci gives up.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Decides the episodes.")] = 0,
    visual: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Which, where there are several.")
    ] = None,
    audio: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Which, where there are several.")
    ] = None,
    head: Annotated[
        list[str],
        typer.Option(metavar="SPEC", help="Classifier, or own: the run's; may repeat."),
    ] = [],  # noqa: B006
    projection: Annotated[list[Path], typer.Option(metavar="RUN", help="Of `learn train`.")] = [],  # noqa: B006
    support: Annotated[
        list[str], typer.Option(metavar="v,a,av", help="Modes; all pairs with --query are scored.")
    ] = [],  # noqa: B006
    query: Annotated[
        list[str], typer.Option(metavar="v,a,av", help="Modes. (default: as the support)")
    ] = [],  # noqa: B006
    drop: Annotated[
        list[str], typer.Option(metavar="v,a", help="Also: what if queries lack this modality?")
    ] = [],  # noqa: B006
    drop_rates: Annotated[
        str, typer.Option(metavar="SHARE,…", help="How many of the clips lack it.")
    ] = "0,0.25,0.5,0.75,1",
    fill: Annotated[
        list[str],
        typer.Option(
            metavar="FILL,…", help="zero, mean, retrieved, token, ignored. (default: all)"
        ),
    ] = [],  # noqa: B006
    fusion: Annotated[
        list[str], typer.Option(metavar="KIND,…", help="early, late, learned. (default: all)")
    ] = [],  # noqa: B006
    query_store: Annotated[
        str | None, typer.Option(metavar="DIR", help="Queries from another store.")
    ] = None,
    query_manifest: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Queries by another manifest.")
    ] = None,
    query_split: Annotated[str | None, typer.Option(help="And their split.")] = None,
    save_episodes: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep them.")] = None,
    episodes_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score these, drawn before.")
    ] = None,
    ci: Annotated[str, typer.Option(help="t-ddof1 or normal-ddof0.")] = "t-ddof1",
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="What scoring may take beside rows and vectors.")
    ] = "1GiB",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="RUN", help="Keep all in a directory.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Accuracy of few-shot heads on stored features, with a 95 % interval over episodes."""
    import learn
    from learn.commands.tables import episodes_table
    from learn.evaluation.missing_modality import Drop
    from learn.training.runs import refuse_existing
    from store.sizes import parse_size

    if output:
        refuse_existing(output)
    missing = None
    if drop:
        missing = Drop(
            modes=_listed(drop), rates=_shares(drop_rates), fills=_listed(fill),
            fusions=_listed(fusion), seed=seed,
        )  # fmt: skip
    with _progress("episodes", quiet=as_json) as progress:
        found = learn.run_episodes(
            directory, manifest=manifest, split=split, label=label, group=group, groups=groups,
            inflation=inflation, task=task, ways=ways, shots=tuple(shots), queries=queries,
            episodes=episodes, until_ci=until_ci, max_episodes=max_episodes, seed=seed,
            visual=visual, audio=audio, heads=tuple(head), projections=tuple(projection),
            support=_listed(support), query=_listed(query),
            save_episodes=save_episodes, episodes_file=episodes_file, drop=missing,
            query_store=query_store, query_manifest=query_manifest, query_split=query_split, ci=ci,
            memory=parse_size(memory), progress=progress,
        )  # fmt: skip
    if output:
        found.save(output)
    result = found.to_dict()
    _give(result, as_json, lambda: episodes_table(result))
    return DONE


@learn_app.command("tasks")
def learn_tasks(as_json: Json = False) -> int:
    """List what an episode of `learn episodes` can be."""
    from store import plugins
    from store.tables import plugin_table

    rows = plugins.describe("learn.fewshot.tasks")
    _give({"tasks": rows}, as_json, lambda: plugin_table(rows))
    return DONE


@learn_app.command("evaluate")
def learn_evaluate(
    directory: Store,
    protocol: Annotated[
        str, typer.Option(metavar="SPEC", help="NAME:key=value,…; see `learn protocols`.")
    ],
    manifest: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Labels of another task for these clips.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Scored. (default: test where there are splits)")
    ] = None,
    train_split: Annotated[str, typer.Option(help="What probes are fitted on.")] = "train",
    val_split: Annotated[str, typer.Option(help="What settings are chosen on.")] = "val",
    label: Annotated[list[str], typer.Option(metavar="COLUMN", help="May repeat.")] = ["label"],  # noqa: B006
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN|none", help="Kept apart. (default: group if present)"),
    ] = None,
    visual: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Which, where there are several.")
    ] = None,
    audio: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Which, where there are several.")
    ] = None,
    projection: Annotated[list[Path], typer.Option(metavar="RUN", help="Of `learn train`.")] = [],  # noqa: B006
    support: Annotated[
        list[str], typer.Option(metavar="v|a|av", help="Learnt from, or the gallery; may repeat.")
    ] = [],  # noqa: B006
    query: Annotated[
        list[str], typer.Option(metavar="v|a|av", help="May repeat. (default: as the support)")
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Decides folds.")] = 0,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="A table of the classes too.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="RUN", help="Keep it in a directory.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Score stored features, or a run, by a protocol: probes, retrieval, labels and others."""
    import learn
    from learn.commands.tables import evaluation_table
    from learn.training.runs import refuse_existing

    if output:
        refuse_existing(output)
    with _progress("findings", quiet=as_json) as progress:
        found = learn.run_protocol(
            directory, protocol, manifest=manifest, split=split, train_split=train_split,
            val_split=val_split, labels=tuple(label), group=group, visual=visual, audio=audio,
            projections=tuple(projection), support=tuple(support), query=tuple(query), seed=seed,
            progress=progress,
        )  # fmt: skip
    if output:
        found.save(output)
    result = found.to_dict()
    _give(result, as_json, lambda: evaluation_table(result, per_class=per_class))
    return DONE


@learn_app.command("protocols")
def learn_protocols(as_json: Json = False) -> int:
    """List what `learn evaluate` can do."""
    from store import plugins
    from store.tables import plugin_table

    rows = plugins.describe("learn.evaluation.protocols")
    _give({"protocols": rows}, as_json, lambda: plugin_table(rows))
    return DONE


@learn_app.command("compare")
def learn_compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Of `learn episodes -o`.")],
    against: Annotated[
        str, typer.Option(metavar="first|best|all", help="The reference, or every pair.")
    ] = "first",
    margin: Annotated[
        float, typer.Option(help="Accuracies closer than that are the same.")
    ] = 0.005,
    ci: Annotated[str, typer.Option(help="t-ddof1, normal-ddof0 or bootstrap.")] = "t-ddof1",
    as_json: Json = False,
) -> int:
    """Tell which result is better, from differences on the same episodes."""
    import learn
    from learn.commands.tables import comparison_table

    result = learn.compare(tuple(runs), against=against, margin=margin, ci=ci).to_dict()
    _give(result, as_json, lambda: comparison_table(result))
    return DONE


@learn_app.command("report")
def learn_report(
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
    title: Annotated[str, typer.Option(help="(default: named by the stores)")] = "",
    as_json: Json = False,
) -> int:
    """Show what runs found in one page that opens offline: figures, tables, confused clips."""
    import learn
    from extract.media.thumbnails import Piece, thumbnails
    from learn.commands.tables import report_lines

    with _progress("pictures", quiet=as_json) as progress:
        result = learn.report(
            tuple(runs), output, title=title, map_by=map_by, media=tuple(media),
            thumbnails=lambda clips: thumbnails(
                [Piece(c.root, c.path, c.start_seconds, c.end_seconds) for c in clips], progress
            ),
        ).to_dict()  # fmt: skip
    _give(result, as_json, lambda: report_lines(result))
    return DONE


@learn_app.command("train")
def learn_train(
    directory: Store,
    recipe: Annotated[str, typer.Option(metavar="NAME|FILE", help="See `learn recipes`.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="New directory.")],
    setting: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe; may repeat.")
    ] = [],  # noqa: B006
    manifest: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Splits and labels of another task.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Vectors of class names: `learn labels`.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Stream rows beyond that. (default: 8GiB)")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in RUN, if it is there.")
    ] = False,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to train.")] = "cpu",
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write TensorBoard scalars there.")
    ] = None,
    checkpoint_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="How much a kill may cost.")
    ] = 30.0,
    as_json: Json = False,
) -> int:
    """Train projections of stored features into a common space."""
    import learn
    from store.console import pairs

    aliases = {"data.labels": labels, "data.memory": memory}
    changes = (*setting, *(f"{key}={value}" for key, value in aliases.items() if value))
    with _progress("epochs", quiet=as_json) as progress:
        result = learn.train(
            directory, recipe, settings=changes, run_dir=output, manifest=manifest, resume=resume,
            device=device, tensorboard=tensorboard, checkpoint_seconds=checkpoint_seconds,
            progress=progress,
        )  # fmt: skip
    _give(result.to_dict(), as_json, lambda: pairs(result.to_dict()))
    return DONE


@learn_app.command("sweep")
def learn_sweep(
    directory: Store,
    recipe: Annotated[str, typer.Option(metavar="NAME|FILE", help="See `learn recipes`.")],
    grid: Annotated[
        list[str], typer.Option(metavar="KEY=A,B,…", help="Values to combine; may repeat.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="A run for each combination.")
    ],
    setting: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="For all; may repeat.")
    ] = [],  # noqa: B006
    manifest: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Splits and labels of another task.")
    ] = None,
    ways: Annotated[int, typer.Option(help="Of the episodes that compare.")] = 5,
    shots: Annotated[int, typer.Option(help="Of the same.")] = 1,
    queries: Annotated[int, typer.Option(help="Of each class.")] = 5,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to train.")] = "cpu",
    workers: Annotated[int, typer.Option(help="Trainings at a time, in processes here.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option(metavar="URL", help="By the workers of a dask scheduler.")
    ] = None,
    insecure_tcp: Annotated[
        bool, typer.Option("--insecure-tcp", help="Trust the network to that scheduler.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Train every combination of settings, and compare them on the validation split.

    Exit code 1 if a combination failed. The same command goes on where it was stopped.
    """
    import learn
    from learn.commands.tables import sweep_table

    with _progress("trainings", quiet=as_json) as progress:
        found = learn.sweep(
            directory, recipe, grid=tuple(grid), settings=tuple(setting), directory=output,
            manifest=manifest, device=device, ways=ways, shots=shots, queries=queries,
            workers=workers, scheduler=scheduler, insecure_tcp=insecure_tcp, progress=progress,
        )  # fmt: skip
    _give(found.to_dict(), as_json, lambda: sweep_table(found.to_dict()))
    return FINDINGS if found.failed else DONE


@learn_app.command("predict")
def learn_predict(
    directory: Store,
    support: Annotated[
        Path, typer.Option(metavar="CSV", help="Labelled clips of the store: clip_id and labels.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="CSV", help="The answers.")],
    query: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Which clips. (default: all outside the support)"),
    ] = None,
    label: Annotated[
        list[str], typer.Option(metavar="COLUMN", help="What to answer; may repeat.")
    ] = ["label"],  # noqa: B006
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN|none", help="Kept apart to calibrate. (default: group)"),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(metavar="v|a|av", help="Judge by. (default: all there is)")
    ] = None,
    projection: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Of `learn train`.")
    ] = None,
    by: Annotated[str, typer.Option(help="prototypes or nearest.")] = "prototypes",
    index: Annotated[
        str, typer.Option(metavar="SPEC", help="exact, or ivf:probes=16 with its recall measured.")
    ] = "exact",
    top: Annotated[int, typer.Option(help="Answers a clip.")] = 5,
    abstain_below: Annotated[
        float, typer.Option(metavar="P", help="No answer where confidence is less.")
    ] = 0.0,
    visual: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Which, where there are several.")
    ] = None,
    audio: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Which, where there are several.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Label clips from a handful of examples per class."""
    import learn
    from learn.commands.tables import prediction_lines

    with _progress("clips", quiet=as_json) as progress:
        result = learn.predict(
            directory, support=support, output=output, query=query, labels=tuple(label),
            group=group, mode=mode, projection=projection, by=by, index=index, top=top,
            abstain_below=abstain_below, visual=visual, audio=audio, progress=progress,
        ).to_dict()  # fmt: skip
    _give(result, as_json, lambda: prediction_lines(result))
    return DONE


@learn_app.command("search")
def learn_search(
    directory: Store,
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="A clip_id of the store.")],
    projection: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Of `learn train`.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many clips.")] = 10,
    source: Annotated[
        str | None, typer.Option("--from", metavar="v|a|av", help="(default: all there is)")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", metavar="v|a|av", help="(default: as --from)")
    ] = None,
    visual: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Which, where there are several.")
    ] = None,
    audio: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Which, where there are several.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Find the clips nearest to one clip, across modalities too."""
    import learn
    from learn.commands.tables import neighbours_table

    result = learn.search(
        directory, clip, projection=projection, top=top, source=source, target=target,
        visual=visual, audio=audio,
    ).to_dict()  # fmt: skip
    _give(result, as_json, lambda: neighbours_table(result))
    return DONE


@learn_app.command("labels")
def learn_labels(
    directory: Store,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="CSV", help="A new file.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="A table, dictionary or word vectors."),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="DIR", help="Without --from: another sentence encoder.")
    ] = "",
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Whose classes.")] = "label",
    manifest: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Classes of another task.")
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="What FILE calls the classes: columns original,manual."),
    ] = None,
    average_words: Annotated[
        bool, typer.Option("--average-words", help="A name FILE lacks: the mean of its words.")
    ] = False,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Read a pickled dictionary; nothing is run.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Give every class name a vector, for recipes and protocols that compare clips with names."""
    import learn
    from store.console import pairs

    facts = learn.make_labels(
        directory, output, source=source, model=model, label=label, manifest=manifest,
        names=names, average_words=average_words, trust_pickle=trust_pickle,
    )  # fmt: skip
    _give(facts, as_json, lambda: pairs(facts))
    return DONE


@learn_app.command("recipes")
def learn_recipes(as_json: Json = False) -> int:
    """List the recipes `learn train` knows by name."""
    import learn
    from store.console import table

    rows = learn.recipes()
    _give({"recipes": rows}, as_json, lambda: table(rows, ["name", "summary"]))
    return DONE


# ── the rest ────────────────────────────────────────────────────────────────────────────────────


def _listed(values: list[str]) -> tuple[str, ...]:
    """Options that may repeat or hold several values with commas between."""
    return tuple(part.strip() for value in values for part in value.split(","))


def _shares(text: str) -> tuple[float, ...]:
    """Numbers with commas between."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--drop-rates {text!r}: name shares as 0,0.5,1") from None


def _give(result: Mapping[str, Any], as_json: bool, render: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(result))
    else:
        render()


@contextmanager
def _progress(noun: str, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """A bar on a terminal; otherwise the lines that `message` brings, one per commit."""
    if quiet or not sys.stderr.isatty():

        def lines(done: int, total: int, message: str = "", told: str = "") -> None:
            if message and not quiet:
                print(f"{message}; {told}" if told else message, file=sys.stderr, flush=True)

        yield lines
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(20), MofNCompleteColumn(), TextColumn(noun), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[told]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(noun, total=None, told="")

        def draw(done: int, total: int, message: str = "", told: str = "") -> None:
            bar.update(task, completed=done, total=total, told=told)
            if message:
                bar.console.print(message, highlight=False)

        yield draw


@contextmanager
def _interruptible() -> Iterator[Event]:
    """The first Ctrl-C sets the event, the next one interrupts."""
    stop = Event()

    def ask(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("finishing what is in hand; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _start(app: typer.Typer) -> None:
    """Run one console script and turn every outcome into its exit code."""
    # Threads of a matrix product that spin while they wait for each other stall as soon as anything
    # else wants the cores, as decode processes do: 2.7 times slower with 2 threads on 2 busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = app(standalone_mode=False)
    except MicroshotError as error:
        _complain(error.kind, str(error))
    except _ClickException as error:
        # No arguments at all: the help has been printed already, and the message is empty.
        text = error.format_message()  # type: ignore[attr-defined]
        if not text:
            sys.exit(FIXABLE)
        command = [name for name in sys.argv[1:2] if name in _commands(app)]
        manual = " ".join([Path(sys.argv[0]).name, *command, "--help"])
        _complain("usage", f"{text if text.endswith(('.', '?')) else text + '.'} Try `{manual}`.")
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except Exception:
        traceback.print_exc()
        print("error[bug]: this is ours, not yours; please report the lines above", file=sys.stderr)
        sys.exit(OUR_BUG)
    if code == STOPPED:  # typer turns Ctrl-C into this code by itself
        print("stopped; what is committed stays, run the same command to go on", file=sys.stderr)
    sys.exit(code or DONE)


def _commands(app: typer.Typer) -> set[str | None]:
    groups = {group.name for group in app.registered_groups}
    return groups | {command.name for command in app.registered_commands}


def _complain(kind: str, message: str) -> None:
    print(f"error[{kind}]: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(FIXABLE)


def extract_main() -> None:
    _start(extract_app)


def store_main() -> None:
    _start(store_app)


def learn_main() -> None:
    _start(learn_app)
