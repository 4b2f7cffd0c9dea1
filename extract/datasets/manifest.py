"""Writes the manifest of a dataset that lies on disk in a known layout."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extract.datasets.layouts import Layout
from extract.datasets.layouts import Row as Listed
from extract.datasets.media_files import Ambiguous, MediaFiles
from store import atomic, plugins
from store.errors import InputError, MissingFile
from store.manifest import from_rows
from store.manifest_rows import Row
from store.progress import in_steps

FAMILY = "extract.datasets.layouts"
EXAMPLES = 3


@dataclass(slots=True)
class _LocatedRows:
    """Rows of the manifest, and names of clips without a file of their own."""

    rows: list[dict[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)  # each with the files it may be
    has_segments: bool = False  # some rows are segments of longer files
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
    """Write the manifest of a dataset; returns counts of clips, values and missing files.

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
    spec = plugins.parse_spec(layout, FAMILY)
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
    located = _located(read(source.resolve(), files), files, media.relative_to(home), keep_missing)
    if not located.rows:
        raise InputError(_why_empty(spec.name, source, media, files, located))
    _write(output, located)
    distinct = {
        key: len({row[key] for row in located.rows} - {""})
        for key in located.rows[0]
        if key not in ("path", "clip_id", "start_seconds", "end_seconds")
    }
    return {
        "manifest": str(output),
        "clips": len(located.rows),
        "distinct": distinct,
        "missing": len(located.missing),
        "missing_examples": located.missing[:EXAMPLES],
        "ambiguous": len(located.ambiguous),
        "ambiguous_examples": located.ambiguous[:EXAMPLES],
        "files_not_listed": len(files) - len(located.used),
        "unread": len(files.unread),
        "unread_examples": files.unread[:EXAMPLES],
        "unnamed": len(files.unnamed),
        "unnamed_examples": files.unnamed[:EXAMPLES],
    }


def _located(
    rows: Iterable[Listed], files: MediaFiles, prefix: Path, keep_missing: bool
) -> _LocatedRows:
    """The rows with their files looked up."""
    located = _LocatedRows()
    seen = dict[str, str]()
    for row in in_steps("clips", rows, None):
        try:
            path, is_segment = _file_of(row, files)
        except Ambiguous as error:
            located.ambiguous.append(str(error))
            continue
        if path is None:
            located.missing.append(row.names[0])
            if not keep_missing:
                continue
            path = _safe(row.names[0])
        else:
            located.used.add(path)
        made = {"path": (prefix / path).as_posix(), **row.columns}
        made["start_seconds"] = f"{row.start_seconds:g}" if is_segment else ""
        made["end_seconds"] = f"{row.end_seconds:g}" if is_segment else ""
        located.has_segments = located.has_segments or is_segment
        clip = made.get("clip_id") or f"{made['path']}#{made['start_seconds']}"
        if clip in seen:
            raise InputError(
                f"the clip {clip!r} is listed twice ({seen[clip]} and {made['path']}); "
                "name one list instead of a folder of several"
            )
        seen[clip] = made["path"]
        located.rows.append(made)
    return located


def _file_of(row: Listed, files: MediaFiles) -> tuple[str | None, bool]:
    """The row's file, and whether the row is a segment of it."""
    for name in row.names:
        if (path := files.find(name)) is not None:
            return path.as_posix(), False
    if row.whole and (path := files.find(row.whole)) is not None:
        return path.as_posix(), True
    return None, False


def _safe(name: str) -> str:
    """A name that a list gives, as a path that stays in the folder."""
    return "/".join(part for part in Path(name).parts if part not in ("/", "..", "."))


def _why_empty(
    layout: str, source: Path, media: Path, files: MediaFiles, located: _LocatedRows
) -> str:
    if not files and (files.unread or files.unnamed):
        odd = [*files.unread, *files.unnamed]
        return (
            f"none of the {len(odd)} media in {media} can be used (the first is {odd[0]}): convert "
            "them to MP4, and give them names of plain UTF-8"
        )
    if not files:
        return f"no media in {media}; name the folder with the clips by `media`"
    if located.ambiguous:
        return f"no clip of {source} has one file only: {located.ambiguous[0]}"
    if located.missing:
        return (
            f"none of the {len(located.missing)} clips of {source} is among the {len(files)} files "
            f"in {media} (the first is {located.missing[0]!r}); name their folder by `media`"
        )
    return f"no media in {media} as the layout {layout!r} expects it"


def _write(output: Path, located: _LocatedRows) -> None:
    """Write the CSV whole or not at all."""
    names = [
        name
        for name in located.rows[0]
        if located.has_segments or name not in ("start_seconds", "end_seconds")
    ]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, fieldnames=names, extrasaction="ignore")
    table.writeheader()
    table.writerows(located.rows)
    read = [Row(line, {name: row.get(name, "") for name in names}) for line, row in
            enumerate(located.rows, start=2)]  # fmt: skip
    from_rows(names, read, name=str(output), root=None)  # refuses what no manifest may say
    try:
        atomic.write_text(output, text.getvalue(), replace=False)
    except OSError as error:
        raise InputError(
            f"cannot write {output}: {error.strerror or error}; make room, or name another place"
        ) from None
