"""The `store` command line: look into a feature store, check it, and exchange features."""

from pathlib import Path
from typing import Annotated

import typer

from store import console
from store.console import Json, Memory, StoreDir, TrustPickle

app = console.command_line("Look into a feature store and check it.")

Deep = Annotated[bool, typer.Option("--deep", help="Check sha256 too, not only size and crc32c.")]


@app.command("info")
def info_command(directory: StoreDir, memory: Memory = None, as_json: Json = False) -> int:
    """What is in a store: features, clips, rows, bytes, failures by kind, provenance."""
    import store
    from store.tables import info_table
    from store.upkeep.info import info

    with console.within(memory), console.progress("units", quiet=as_json) as progress:
        facts = info(store.open(directory), progress=progress).to_dict()
    console.give(facts, as_json, lambda: info_table(facts))
    return console.DONE


@app.command("verify")
def verify_command(
    directory: StoreDir,
    deep: Deep = False,
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Check every committed byte; name each damaged unit."""
    import store
    from store.tables import verify_lines
    from store.upkeep.verify import verify

    with console.within(memory), console.progress("units", quiet=as_json) as progress:
        report = verify(store.open(directory), deep=deep, progress=progress)
    console.give(report.to_dict(), as_json, lambda: verify_lines(report.to_dict()))
    return console.FINDINGS if report.problems else console.DONE


@app.command("gc", goes_on=True)
def gc_command(
    directory: StoreDir,
    older_than: Annotated[str, typer.Option(metavar="AGE", help="90s, 15m, 24h or 7d.")] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Remove what interrupted writes left behind; nothing committed is touched."""
    import store
    from store.tables import gc_lines
    from store.upkeep import gc

    age = gc.age_seconds(older_than)
    with console.within(memory), console.progress("parts", quiet=as_json):
        found = gc.gc(store.open(directory), older_than_seconds=age, dry_run=dry_run)
    result = found.to_dict()
    console.give(result, as_json, lambda: gc_lines(result))
    return console.DONE


@app.command("repair", goes_on=True)
def repair_command(
    directory: StoreDir, deep: Deep = False, memory: Memory = None, as_json: Json = False
) -> int:
    """Set damaged units aside, so that the next `extract run` makes exactly them again."""
    import store
    from store.tables import repair_lines
    from store.upkeep.repair import repair

    with console.within(memory), console.progress("units", quiet=as_json) as progress:
        result = repair(store.open(directory), deep=deep, progress=progress).to_dict()
    console.give(result, as_json, lambda: repair_lines(result))
    return (
        console.FINDINGS if result["units"] or result["files"] or result["left"] else console.DONE
    )


@app.command("remove", goes_on=True)
def remove_command(
    directory: StoreDir,
    feature: Annotated[str, typer.Argument(metavar="FEATURE", help="Its name or a beginning.")],
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Take a feature out of a store; `store gc` deletes it a day later."""
    import store
    from store.upkeep.remove import remove

    with console.within(memory), console.progress("units", quiet=as_json):
        result = remove(store.open(directory), feature).to_dict()
    console.give(result, as_json, lambda: console.pairs(result))
    return console.DONE


@app.command("rename", goes_on=True)
def rename_command(
    directory: StoreDir,
    old: Annotated[str, typer.Argument(metavar="OLD", help="Its name or a beginning.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="A slug: the name up to the digest.")],
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Give a feature another slug: its units are written again, and the old ones removed.

    `extract run` knows it by its old slug, and would extract it anew.
    """
    import store
    from store.upkeep.rename import rename

    with console.within(memory), console.progress("units", quiet=as_json):
        result = rename(store.open(directory), old, new).to_dict()
    console.give(result, as_json, lambda: console.pairs(result))
    return console.DONE


@app.command("merge", goes_on=True)
def merge_command(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="A store, or s3://BUCKET/PREFIX.")
    ],
    others: Annotated[list[str], typer.Argument(metavar="OTHER…", help="Stores to copy from.")],
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Copy the sound units and manifests of other stores into this one."""
    from store.upkeep.merge import merge

    with console.within(memory), console.progress("units", quiet=as_json) as progress:
        merged = merge(directory, others, progress=progress)
    result = merged.to_dict()
    console.give(result, as_json, lambda: console.pairs(result))
    return console.DONE if merged.sound else console.FINDINGS


@app.command("view")
def view_command(
    directory: StoreDir,
    feature: Annotated[str, typer.Argument(metavar="FEATURE", help="Its name or a beginning.")],
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """One array of all rows of a feature, without copying them; opens in zarr, xarray and dask."""
    import store
    from store.upkeep.view import view

    with console.within(memory), console.progress("parts", quiet=as_json):
        result = view(store.open(directory), feature).to_dict()
    console.give(result, as_json, lambda: console.pairs(result))
    return console.DONE


@app.command("doctor")
def doctor_command(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where a store is or will be.")],
    as_json: Json = False,
) -> int:
    """Try whether the storage can do what many writers at once need."""
    from store.tables import doctor_lines
    from store.upkeep.doctor import doctor

    with console.progress("tries", quiet=as_json):
        result = doctor(directory).to_dict()
    console.give(result, as_json, lambda: doctor_lines(result))
    return console.DONE if result["many_writers"] else console.FINDINGS


@app.command("export")
def export_command(
    directory: StoreDir,
    form: Annotated[str, typer.Option("--format", metavar="F", help="As `store formats` says.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="A new path.")],
    feature: Annotated[
        list[str], typer.Option(metavar="NAME", help="May repeat.", show_default="all")
    ] = [],  # noqa: B006
    label: Annotated[str, typer.Option(metavar="COLUMN", help="The labels.")] = "label",
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Write features as a file that other tools of the field read."""
    import store
    from store.exchange.exchange import export

    with console.within(memory), console.progress("clips", quiet=as_json) as progress:
        result = export(
            store.open(directory), form, output, features=feature, label=label, progress=progress
        )
    facts = result.to_dict()
    console.give(facts, as_json, lambda: console.pairs(facts))
    return console.DONE


@app.command("import", goes_on=True)
def import_command(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file or directory.")],
    form: Annotated[str, typer.Option("--format", metavar="F", help="As `store formats` says.")],
    store_dir: Annotated[str, typer.Option("--store", metavar="DIR", help="Where it goes.")],
    trust_pickle: TrustPickle = False,
    memory: Memory = None,
    as_json: Json = False,
) -> int:
    """Commit the features of another tool's file to a store."""
    from store.exchange.exchange import import_
    from store.tables import import_lines

    with console.within(memory), console.progress("clips", quiet=as_json) as progress:
        result = import_(form, source, store_dir, trust_pickle=trust_pickle, progress=progress)
    facts = result.to_dict()
    console.give(facts, as_json, lambda: import_lines(facts))
    return console.FINDINGS if result.bent or result.status.get("not-finite") else console.DONE


@app.command("formats")
def formats_command(as_json: Json = False) -> int:
    """List the formats of `store export` and `store import`, and their settings."""
    from store import plugins

    rows = plugins.describe("store.exchange.formats")
    console.give({"formats": rows}, as_json, lambda: console.plugin_table(rows))
    return console.DONE
