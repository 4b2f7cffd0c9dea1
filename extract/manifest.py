"""Writes the manifest of a dataset that lies on disk in a known layout."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from store import plugins
from store.errors import InputError, MissingFile

FAMILY = "extract.layouts"


def write(layout: str, source: Path, output: Path) -> Mapping[str, Any]:
    """The number of clips and values per column of the CSV written to `output`.

    Paths in a manifest are relative to the manifest, so it must lie at or above the media.

    Raises:
        UnknownPlugin: no such layout.
        MissingFile: `source` is not a folder.
        InputError: nothing found, or `output` exists or lies beside the media.
    """
    read = plugins.build(FAMILY, layout)
    if not source.is_dir():
        raise MissingFile(f"{source} is not a folder; name the one that holds the dataset")
    home, source = output.resolve().parent, source.resolve()
    if not source.is_relative_to(home):
        raise InputError(
            f"a manifest lies at or above its media, and {output} does not; "
            f"write it to {source / output.name}"
        )
    if output.exists():
        raise InputError(f"{output} exists; move it away or write another file")
    prefix = source.relative_to(home)
    rows = [{**row, "path": (prefix / row["path"]).as_posix()} for row in read(source)]
    if not rows:
        raise InputError(f"no media in {source} as the layout {layout!r} expects it")
    unfinished = output.with_name(output.name + ".unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    unfinished.replace(output)
    kinds = {key: len({row[key] for row in rows}) for key in rows[0] if key != "path"}
    return {"manifest": str(output), "clips": len(rows), "distinct": kinds}
