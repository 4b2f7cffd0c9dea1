"""The three console scripts. Parse, call, render, exit: no logic lives here.

Exit codes: 0 done · 1 done, with findings · 2 you can fix it · 101 our bug · 130 Ctrl-C.
Results go to stdout, one JSON object with `--json`; talk goes to stderr. Heavy libraries are
imported inside commands, so that `--help` is instant.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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
Store = Annotated[Path, typer.Argument(metavar="DIR", help="The feature store.")]
Deep = Annotated[bool, typer.Option("--deep", help="Check sha256 too, not only size and crc32c.")]
Manifest = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="CSV, JSONL or Parquet with one row per clip.")
]


# ── extract ──────────────────────────────────────────────────────────────────────────────────────


@extract_app.command("run")
def extract_run(
    manifest: Manifest,
    store_dir: Annotated[Path, typer.Option("--store", metavar="DIR", help="Where features go.")],
    visual: Annotated[
        list[str], typer.Option(metavar="SPEC", help="Frame encoder, NAME:key=value,…")
    ] = [],  # noqa: B006 (typer copies it)
    audio: Annotated[
        list[str], typer.Option(metavar="SPEC", help="Sound encoder, NAME:key=value,…")
    ] = [],  # noqa: B006
    fps: Annotated[float | None, typer.Option(help="Frames per second. (default: 1.0)")] = None,
    frames: Annotated[int | None, typer.Option(help="Or: so many frames per clip.")] = None,
    max_seconds: Annotated[float, typer.Option(help="Read at most this much of a clip.")] = 30.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    workers: Annotated[int, typer.Option(help="Decode processes; 0: one per core.")] = 0,
    deadline_seconds: Annotated[float, typer.Option(help="Time one clip may take.")] = 60.0,
    retry: Annotated[
        str, typer.Option(metavar="KIND,…", help="Try failed clips of these kinds again.")
    ] = "",
    max_failures: Annotated[
        float, typer.Option(help="Share of failed clips above which the run says so loudly.")
    ] = 0.05,
    as_json: Json = False,
) -> int:
    """Decode every clip once and store what the encoders make of it.

    Run it again to go on where it stopped. A clip that fails becomes a row with a reason.
    """
    from extract import run

    with _progress("clips", quiet=as_json) as progress:
        result = run.run(
            manifest,
            store_dir,
            visual=tuple(visual),
            audio=tuple(audio),
            sampling=run.sampling(fps=fps, frames=frames, max_seconds=max_seconds),
            device=device,
            precision=precision,
            workers=workers,
            deadline_seconds=deadline_seconds,
            retry=tuple(filter(None, retry.split(","))),
            max_failures=max_failures,
            progress=progress,
        )
    _give(result.as_json(), as_json, lambda: _run_table(result.as_json()))
    return FINDINGS if result.failed else DONE


@extract_app.command("encoders")
def extract_encoders(as_json: Json = False) -> int:
    """List the encoders: what they take, variants with their sizes, settings, licences."""
    from dataclasses import asdict

    from store import plugins

    family = "extract.encoders"
    rows = [
        row | asdict(plugins.module(family, row["name"]).DESCRIPTION) for row in _plugins(family)
    ]
    _give({"encoders": rows}, as_json, lambda: _encoder_lines(rows))
    return DONE


@extract_app.command("manifest")
def extract_manifest(
    layout: Annotated[str, typer.Argument(metavar="LAYOUT", help="How the dataset lies on disk.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The dataset.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="CSV", help="At or above it.")],
    as_json: Json = False,
) -> int:
    """Write the manifest of a dataset, `folder` of class folders for one."""
    from extract import manifest

    facts = manifest.write(layout, source, output)
    _give(facts, as_json, lambda: _pairs(facts))
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
    from extract import synth

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
    from extract import fetch

    rows = fetch.listing()
    _give({"directory": str(fetch.default_directory()), "weights": rows}, as_json,
          lambda: _weights_table(rows))  # fmt: skip
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
    from extract import fetch

    with _progress("bytes", quiet=as_json) as progress:
        result = fetch.fetch(name, sha256=sha256, progress=progress).as_json()
    _give(result, as_json, lambda: _fetched_lines(result))
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
    from extract import convert

    result = convert.convert(checkpoint, encoder, output, ema=ema)
    _give(result, as_json, lambda: _pairs(result))
    return DONE


# ── store ────────────────────────────────────────────────────────────────────────────────────────


@store_app.command("info")
def store_info(directory: Store, as_json: Json = False) -> int:
    """What is in a store: features, clips, rows, bytes, failures by kind, provenance."""
    import store
    from store.info import info

    facts = info(store.open(directory))
    _give(facts, as_json, lambda: _info_table(facts))
    return DONE


@store_app.command("verify")
def store_verify(
    directory: Store,
    deep: Deep = False,
    as_json: Json = False,
) -> int:
    """Check every committed byte; name each damaged unit."""
    import store
    from store.verify import verify

    report = verify(store.open(directory), deep=deep)
    _give(report.as_json(), as_json, lambda: _verify_lines(report.as_json()))
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
    from store import gc

    age = gc.age_seconds(older_than)
    result = gc.gc(store.open(directory), older_than_seconds=age, dry_run=dry_run).as_json()
    _give(result, as_json, lambda: _gc_lines(result))
    return DONE


@store_app.command("repair")
def store_repair(directory: Store, deep: Deep = False, as_json: Json = False) -> int:
    """Set damaged units aside, so that the next `extract run` makes exactly them again."""
    import store
    from store.repair import repair

    result = repair(store.open(directory), deep=deep).as_json()
    _give(result, as_json, lambda: _repair_lines(result))
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
    from store.merge import merge

    result = merge(directory, others).as_json()
    _give(result, as_json, lambda: _pairs(result))
    return FINDINGS if result["damaged"] else DONE


@store_app.command("view")
def store_view(
    directory: Store,
    feature: Annotated[str, typer.Argument(metavar="FEATURE", help="Its name or a beginning.")],
    as_json: Json = False,
) -> int:
    """One array of all rows of a feature, without copying them; opens in zarr, xarray and dask."""
    import store
    from store.view import view

    result = view(store.open(directory), feature).as_json()
    _give(result, as_json, lambda: _pairs(result))
    return DONE


@store_app.command("doctor")
def store_doctor(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where a store is or will be.")],
    as_json: Json = False,
) -> int:
    """Try whether the storage can do what many writers at once need."""
    from store.doctor import doctor

    result = doctor(directory).as_json()
    _give(result, as_json, lambda: _doctor_lines(result))
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
    from store.exchange import export

    with _progress("clips", quiet=as_json) as progress:
        facts = export(
            store.open(directory), form, output, features=feature, label=label, progress=progress
        )
    _give(facts, as_json, lambda: _pairs(facts))
    return DONE


@store_app.command("import")
def store_import(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file or directory.")],
    form: Annotated[str, typer.Option("--format", metavar="F", help="As `store formats` says.")],
    store_dir: Annotated[Path, typer.Option("--store", metavar="DIR", help="Where it goes.")],
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Read pickles, arrays and names only.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Commit the features of another tool's file to a store."""
    from store.exchange import import_

    with _progress("clips", quiet=as_json) as progress:
        facts = import_(form, source, store_dir, trust_pickle=trust_pickle, progress=progress)
    _give(facts, as_json, lambda: _pairs(facts))
    return DONE


@store_app.command("formats")
def store_formats(as_json: Json = False) -> int:
    """List the formats of `store export` and `store import`, and their settings."""
    rows = _plugins("store.formats")
    _give({"formats": rows}, as_json, lambda: _plugin_table(rows))
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
    ways: Annotated[int, typer.Option(help="Classes per episode.")] = 5,
    shots: Annotated[list[int], typer.Option(help="Support clips per class; may repeat.")] = [1],  # noqa: B006
    queries: Annotated[int, typer.Option(help="Query clips per class.")] = 15,
    episodes: Annotated[int, typer.Option(help="How many episodes.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Decides the episodes.")] = 0,
    visual: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Which, where there are several.")
    ] = None,
    audio: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Which, where there are several.")
    ] = None,
    head: Annotated[list[str], typer.Option(metavar="SPEC", help="Classifier; may repeat.")] = [],  # noqa: B006
    projection: Annotated[list[Path], typer.Option(metavar="RUN", help="Of `learn train`.")] = [],  # noqa: B006
    support: Annotated[list[str], typer.Option(metavar="v|a|av", help="May repeat.")] = [],  # noqa: B006
    query: Annotated[
        list[str], typer.Option(metavar="v|a|av", help="May repeat. (default: as the support)")
    ] = [],  # noqa: B006
    save_episodes: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep them.")] = None,
    episodes_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score these, drawn before.")
    ] = None,
    ci: Annotated[str, typer.Option(help="t-ddof1 or normal-ddof0.")] = "t-ddof1",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="RUN", help="Keep all in a directory.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Accuracy of few-shot heads on stored features, with a 95 % interval over episodes."""
    import learn
    from learn.runs import refuse_existing

    if output:
        refuse_existing(output)
    with _progress("episodes", quiet=as_json) as progress:
        found = learn.run_episodes(
            directory, manifest=manifest, split=split, label=label, group=group, ways=ways,
            shots=tuple(shots), queries=queries, episodes=episodes, seed=seed, visual=visual,
            audio=audio, heads=tuple(head), projections=tuple(projection), support=tuple(support),
            query=tuple(query), save_episodes=save_episodes, episodes_file=episodes_file, ci=ci,
            progress=progress,
        )  # fmt: skip
    if output:
        found.save(output)
    result = found.as_json()
    _give(result, as_json, lambda: _episodes_table(result))
    return DONE


@learn_app.command("train")
def learn_train(
    directory: Store,
    recipe: Annotated[str, typer.Option(metavar="NAME|FILE", help="See `learn recipes`.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="New directory.")],
    setting: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe; may repeat.")
    ] = [],  # noqa: B006
    as_json: Json = False,
) -> int:
    """Train projections of stored features into a common space."""
    import learn

    with _progress("steps", quiet=as_json) as progress:
        result = learn.train(
            directory, recipe, settings=tuple(setting), run_dir=output, progress=progress
        )
    _give(result.as_json(), as_json, lambda: _pairs(result.as_json()))
    return DONE


@learn_app.command("recipes")
def learn_recipes(as_json: Json = False) -> int:
    """List the recipes `learn train` knows by name."""
    import learn

    rows = learn.recipes()
    _give({"recipes": rows}, as_json, lambda: _table(rows, ["name", "summary"]))
    return DONE


# ── rendering ────────────────────────────────────────────────────────────────────────────────────


def _give(result: Mapping[str, Any], as_json: bool, render: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(result))
    else:
        render()


def _run_table(result: Mapping[str, Any]) -> None:
    """What became of the clips, and what bounded the run."""
    for one in result["features"]:
        counts = ", ".join(f"{n} {kind}" for kind, n in one["counts"].items())
        print(f"{one['feature']}  {counts}; {one['new']} new")
    evidence = result["evidence"]
    print(
        f"{result['clips']} clips in {result['seconds']:.1f} s, {result['clips_per_second']:.2f}/s"
    )
    if result["clips"]:
        fill = ", ".join(f"{share:.0%}" for share in evidence["batch_fill"].values())
        print(
            f"bounded by: {result['bottleneck']} (encoders {evidence['encoder_seconds']:.1f} s, "
            f"waiting for decode {evidence['waiting_for_decode_seconds']:.1f} s,\n"
            f"    commits {evidence['commit_seconds']:.1f} s; decode "
            f"{evidence['decode_cpu_seconds_per_clip']:.3f} CPU-s a clip on {evidence['workers']} "
            f"processes; batch fill {fill})"
        )
    for finding in result["findings"]:
        print(f"finding: {finding}")


def _info_table(facts: Mapping[str, Any]) -> None:
    kept = facts["manifests"]
    print(facts["path"])
    print(f"store {facts['store_id']}")
    _wrapped(f"{kept['clips']} clips in the manifests, columns {', '.join(kept['columns'])}")
    for one in facts["features"]:
        counts = ", ".join(f"{n} {kind}" for kind, n in one["status"].items())
        stamp = "  UNTRAINED" if one["notes"].get("untrained") else ""
        print(f"\n{one['name']}{stamp}")
        print(f"    {one['modality']}, {one['dim']} numbers a row, {one['dtype']}")
        print(f"    {one['clips']} clips: {counts}")
        print(f"    {one['rows']} rows, {_size(one['bytes'])} in {one['parts']} parts")
        writers = (f"{key} {'/'.join(seen)}" for key, seen in one["written_by"].items())
        _wrapped(f"written by {', '.join(writers)}", indent="    ")


def _verify_lines(report: Mapping[str, Any]) -> None:
    for one in report["problems"]:
        where = "/".join(filter(None, (one["feature"], one["unit"], one["file"])))
        print(f"{one['kind']}: {where}: {one['message']}")
    garbage = report["garbage_parts"] + report["garbage_staging"]
    print(
        f"{len(report['problems'])} problems; {report['units']} units of {report['features']} "
        f"features, {report['files']} files, {_size(report['bytes'])}"
    )
    if garbage:
        print(f"{garbage} leftovers of interrupted writes, which no reader sees")


def _gc_lines(result: Mapping[str, Any]) -> None:
    for path in (*result["parts"], *result["staging"]):
        print(path)
    verb = "would go" if result["dry_run"] else "gone"
    count = len(result["parts"]) + len(result["staging"])
    print(
        f"{count} leftovers {verb}, {_size(result['bytes'])}; {result['too_young']} are too young"
    )


def _repair_lines(result: Mapping[str, Any]) -> None:
    for one in result["units"]:
        clips = "?" if one["clips"] is None else len(one["clips"])
        print(
            f"{one['feature']}/{one['unit']}: {clips} clips are to be made again; {one['reason']}"
        )
    for path in result["files"]:
        print(f"set aside: {path}")
    for one in result["left"]:
        print(f"left alone: {one['kind']}: {one['message']}")
    again = "; run `extract run` again to make them" if result["units"] else ""
    print(f"{len(result['units'])} units set aside{again}")


def _doctor_lines(result: Mapping[str, Any]) -> None:
    for one in result["checks"]:
        print(f"{'ok' if one['ok'] else 'NO':<3} {one['name']}: {one['message']}")
    verdict = "may" if result["many_writers"] else "must not"
    print(f"many writers {verdict} share {result['path']}")


def _wrapped(text: str, indent: str = "") -> None:
    import textwrap

    print(textwrap.fill(text, 80, initial_indent=indent, subsequent_indent=indent + "    "))


def _episodes_table(result: Mapping[str, Any]) -> None:
    """Accuracy in percent with its 95 % interval: a row per mode, projection and head."""
    drawn, rows = result["episodes"], result["results"]
    apart = f"{drawn['group']} kept apart" if drawn["group"] else "groups may meet"
    _wrapped(
        f"{drawn['ways']}-way, {drawn['queries']} queries a class, {drawn['episodes']} episodes; "
        f"{drawn['clips']} clips of {drawn['classes']} classes, split {drawn['split']}, {apart}"
    )
    if dropped := [f"{n} with {why}" for why, n in drawn["dropped"].items() if n]:
        print(f"left out: {', '.join(dropped)}")
    for draw in drawn["draws"]:
        if idle := draw["classes_never_drawn"]:
            listed = ", ".join(idle[:8]) + (", …" if len(idle) > 8 else "")
            _wrapped(f"{draw['shots']}-shot without {len(idle)} classes of too few clips: {listed}")
    shots = list(dict.fromkeys(row["shots"] for row in rows))
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        mode = (
            row["support"] if row["support"] == row["query"] else "{support}→{query}".format(**row)
        )
        mark = "*" if row["untrained"] else "!" if row["seen_in_training"] else ""
        line = lines.setdefault((mode, row["projection"], row["head"]), {})
        margin = "" if row["ci95"] is None else f" ± {100 * row['ci95']:.1f}"
        line[f"{row['shots']}-shot"] = f"{100 * row['accuracy']:.1f}{margin}{mark}"
    runs = list(dict.fromkeys(row["projection"] for row in rows))
    for run in runs:
        if runs != ["none"]:
            print(f"\nprojection: {run}")
        table = [
            {"mode": mode, "head": head} | line
            for (mode, projection, head), line in lines.items()
            if projection == run
        ]
        _table(table, ["mode", "head", *(f"{k}-shot" for k in shots)])
    if any(row["untrained"] for row in rows):
        print("* weights are UNTRAINED (random): this shows the plumbing, not an encoder's worth")
    if any(row["seen_in_training"] for row in rows):
        print("! the projection was trained on clips scored here")


def _weights_table(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        mark = "*" if row["present"] else " "
        size = _size(row["size_bytes"]) if row["size_bytes"] else ""
        accuracy = (row["accuracy"] or "").partition(",")[0]
        line = f"{mark} {row['name']:<37} {accuracy:<21} {row['licence'] or '':<10} {size}"
        print(line.rstrip())
    print("\n* is here; sources, attributions and how accuracy was measured: --json")


def _fetched_lines(result: Mapping[str, Any]) -> None:
    for path, digest in result["files"].items():
        print(f"{path}\n    sha256 {digest}")
    print(result["next_step"])


def _size(count: float) -> str:
    """Bytes for people: 1.7 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _plugins(family: str) -> list[dict[str, Any]]:
    """Name, first docstring line and settings of every plug-in of a family."""
    from dataclasses import fields

    from store import plugins

    rows = []
    for name in plugins.names(family):
        module = plugins.module(family, name)
        summary = (module.__doc__ or "").strip().splitlines()[0]
        settings = {f.name: f.default for f in fields(module.Config)}
        rows.append({"name": name, "summary": summary, "settings": settings})
    return rows


def _encoder_lines(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        _wrapped(f"{row['name']} ({row['modality']}): {row['summary']}")
        dims = ", ".join(f"{variant} {dim}".strip() for variant, dim in row["dims"].items())
        _wrapped(f"numbers a row: {dims}", indent="    ")
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        _wrapped(f"settings: {settings}", indent="    ")
        _wrapped(f"weights: {row['licence']}", indent="    ")


def _plugin_table(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        _wrapped(f"{row['name']}: {row['summary']}")
        _wrapped(", ".join(f"{key}={value!r}" for key, value in row["settings"].items()), "    ")


def _table(rows: list[dict[str, Any]], columns: list[str], *, header: bool = True) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    Console(highlight=False).print(table)


def _pairs(facts: Mapping[str, Any]) -> None:
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in facts.items()}
    _table([{"key": k, "value": v} for k, v in shown.items()], ["key", "value"], header=False)


@contextmanager
def _progress(noun: str, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """A bar on a terminal; otherwise the lines that `message` brings, one per commit."""
    if quiet or not sys.stderr.isatty():

        def lines(done: int, total: int, message: str = "") -> None:
            if message and not quiet:
                print(message, file=sys.stderr, flush=True)

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
        BarColumn(), MofNCompleteColumn(), TextColumn(noun),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(noun, total=None)

        def draw(done: int, total: int, message: str = "") -> None:
            bar.update(task, completed=done, total=total)
            if message:
                bar.console.print(message, highlight=False)

        yield draw


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
