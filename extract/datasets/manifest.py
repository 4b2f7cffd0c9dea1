"""Writes the manifest of a dataset that lies on disk in a known layout."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extract.datasets.layouts import Layout, Row
from extract.datasets.media_files import Ambiguous, MediaFiles
from store import plugins
from store.errors import InputError, MissingFile

FAMILY = "extract.datasets.layouts"
EXAMPLES = 3


@dataclass(slots=True)
class _Found:
    """Rows whose files are there, and names of those whose files are not."""

    rows: list[dict[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)  # what may be which
    pieces: bool = False  # some rows are pieces of longer files
    used: set[str] = field(default_factory=set)


def write(
    layout: str,
    source: Path,
    output: Path,
    *,
    media: Path | None = None,
    trust_pickle: bool = False,
    keep_missing: bool = False,
) -> Mapping[str, Any]:
    """What was written to `output`: clips, values per column, and clips without a file.

    Files are looked for in `media`, which is the source's own folder unless said otherwise. Clips
    whose files are not there are left out, or with `keep_missing` written with the name that their
    list gives. Paths in a manifest are relative to the manifest, so it must lie at or above the
    media.

    Raises:
        UnknownPlugin, UnknownSetting, ConfigError: no such layout or setting.
        MissingFile: no source, no media folder, or lists that the layout needs.
        InputError: lists of another layout, nothing found, a clip twice, or `output` exists or
            lies beside the media.
    """
    spec = plugins.parse_spec(layout)
    if trust_pickle:
        spec = plugins.Spec(spec.name, {**spec.settings, "trust_pickle": True})
    read: Layout = plugins.build(FAMILY, spec)
    if not source.exists():
        raise MissingFile(f"{source} does not exist; name the dataset's folder or list")
    media = media or (source.parent if source.is_file() else source)
    if not media.is_dir():
        raise MissingFile(f"{media} is not a folder; name the one that holds the clips")
    home, media = output.resolve().parent, media.resolve()
    if not media.is_relative_to(home):
        raise InputError(
            f"a manifest lies at or above its media, and {output} does not; "
            f"write it to {media / output.name}"
        )
    if output.exists():
        raise InputError(f"{output} exists; move it away or write another file")
    files = MediaFiles(media)
    found = _located(read(source.resolve(), files), files, media.relative_to(home), keep_missing)
    if not found.rows:
        raise InputError(_nothing(spec.name, source, media, files, found))
    _write(output, found)
    kinds = {
        key: len({row[key] for row in found.rows} - {""})
        for key in found.rows[0]
        if key not in ("path", "clip_id", "start_seconds", "end_seconds")
    }
    return {
        "manifest": str(output),
        "clips": len(found.rows),
        "distinct": kinds,
        "missing": len(found.missing),
        "missing_examples": found.missing[:EXAMPLES],
        "ambiguous": len(found.ambiguous),
        "ambiguous_examples": found.ambiguous[:EXAMPLES],
        "files_not_listed": len(files) - len(found.used),
    }


def _located(rows: Iterable[Row], files: MediaFiles, prefix: Path, keep_missing: bool) -> _Found:
    """The files of the rows."""
    found = _Found()
    seen = dict[str, str]()
    for row in rows:
        try:
            path, piece = _file_of(row, files)
        except Ambiguous as error:
            found.ambiguous.append(str(error))
            continue
        if path is None:
            found.missing.append(row.names[0])
            if not keep_missing:
                continue
            path = _safe(row.names[0])
        else:
            found.used.add(path)
        made = {"path": (prefix / path).as_posix(), **row.columns}
        made["start_seconds"] = f"{row.start_seconds:g}" if piece else ""
        made["end_seconds"] = f"{row.end_seconds:g}" if piece else ""
        found.pieces = found.pieces or piece
        clip = made.get("clip_id") or f"{made['path']}#{made['start_seconds']}"
        if clip in seen:
            raise InputError(
                f"the clip {clip!r} is listed twice ({seen[clip]} and {made['path']}); "
                "name one list instead of a folder of several"
            )
        seen[clip] = made["path"]
        found.rows.append(made)
    return found


def _file_of(row: Row, files: MediaFiles) -> tuple[str | None, bool]:
    """The row's file, and whether the row is a piece of it."""
    for name in row.names:
        if (path := files.find(name)) is not None:
            return path.as_posix(), False
    if row.whole and (path := files.find(row.whole)) is not None:
        return path.as_posix(), True
    return None, False


def _safe(name: str) -> str:
    """A name that a list gives, as a path that stays in the folder."""
    return "/".join(part for part in Path(name).parts if part not in ("/", "..", "."))


def _nothing(layout: str, source: Path, media: Path, files: MediaFiles, found: _Found) -> str:
    if not files:
        return f"no media in {media}; name the folder with the clips: --media DIR"
    if found.ambiguous:
        return f"no clip of {source} has one file only: {found.ambiguous[0]}"
    if found.missing:
        return (
            f"none of the {len(found.missing)} clips of {source} is among the {len(files)} files "
            f"in {media} (the first is {found.missing[0]!r}); name their folder: --media DIR"
        )
    return f"no media in {media} as the layout {layout!r} expects it"


def _write(output: Path, found: _Found) -> None:
    """All or nothing."""
    names = [
        name
        for name in found.rows[0]
        if found.pieces or name not in ("start_seconds", "end_seconds")
    ]
    unfinished = output.with_name(output.name + ".unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=names, extrasaction="ignore")
        table.writeheader()
        table.writerows(found.rows)
    unfinished.replace(output)
