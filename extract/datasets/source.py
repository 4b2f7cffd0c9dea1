"""The clips that a command is given: a manifest, or a folder of media files.

A folder that holds `manifest.csv` (or .jsonl, .parquet) is that manifest. Of any other the class
folders are the labels, as the layout `folder` has them; files in no class folder have none.
"""

from pathlib import Path

from extract.datasets.media_files import MediaFiles
from store import Manifest, plugins, read_manifest
from store.errors import InputError, MissingFile
from store.manifest import from_rows
from store.manifest_rows import Row

NAMES = ("manifest.csv", "manifest.jsonl", "manifest.parquet")
UNLABELLED = (
    "no class folders, so these clips have no labels: `learn search` finds clips that are alike; "
    "few-shot questions need CLASS/clip.mp4, or a manifest with a column of labels"
)


def read_clips(source: Manifest | Path | str) -> tuple[Manifest, list[str]]:
    """The manifest of a source, and lines that say what a folder was taken for.

    Raises:
        MissingFile: there is nothing of that name.
        ManifestError: a manifest with bad rows.
        InputError: a folder without media, or with several manifests.
    """
    if isinstance(source, Manifest):
        return source, []
    folder = Path(source)
    if not folder.exists():
        raise MissingFile(f"no {folder}; name a folder of clips, or a manifest")
    if not folder.is_dir():
        return read_manifest(folder), []
    kept = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(kept) > 1:
        raise InputError(
            f"{folder} holds {' and '.join(path.name for path in kept)}; name the one that is meant"
        )
    files = MediaFiles(folder)
    if kept:
        manifest = read_manifest(kept[0])
        unlisted = len({path.as_posix() for path in files.paths} - set(manifest.paths))
        rest = f"; {unlisted} media files of the folder are not in it" if unlisted else ""
        return manifest, [f"clips and labels by {kept[0]}{rest}"]
    return _of_media(folder, files)


def _of_media(folder: Path, files: MediaFiles) -> tuple[Manifest, list[str]]:
    """The manifest of a folder's media files, labelled by their class folders."""
    odd = [*files.unread, *files.unnamed]
    if not files and odd:
        raise InputError(
            f"none of the {len(odd)} media in {folder} can be used (the first is {odd[0]}): "
            "convert them to MP4, and give them names of plain UTF-8"
        )
    if not files:
        raise InputError(f"no media in {folder}; name the folder that holds the clips, or a table")
    layout = plugins.build("extract.datasets.layouts", "folder")
    known = {row.names[0]: row.columns for row in layout(folder, files)}
    columns = ["path", *dict.fromkeys(name for cells in known.values() for name in cells)]
    rows = [
        Row(line, {"path": path.as_posix(), **known.get(path.as_posix(), {})})
        for line, path in enumerate(files.paths, 1)
    ]
    manifest = from_rows(columns, rows, name=str(folder), root=folder)
    classes = {cells["label"] for cells in known.values()}
    notes = [
        f"{folder}: {len(rows)} clips in {len(classes)} class folder{'s' * (len(classes) != 1)}"
    ]
    if not classes:
        notes = [f"{folder}: {len(rows)} clips and {UNLABELLED}"]
    elif loose := len(rows) - len(known):
        notes.append(f"{loose} clips lie in no class folder and have no label")
    if odd:
        notes.append(
            f"{len(odd)} media files are left out, of a kind that is not decoded or with names "
            f"that are not plain UTF-8 (the first is {odd[0]})"
        )
    return manifest, notes
