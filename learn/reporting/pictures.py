"""Pictures of the clips that a report names, where their media files are still there."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from learn.data.media import Media, Pictures
from learn.reporting.sections import Section
from learn.reporting.stores import Stores

if TYPE_CHECKING:
    from store import Manifest

MISSING = (
    "Some clips have no picture: their media files were not found (learn report --media DIR says "
    "where they lie) or show nothing."
)


def shown_media(
    sections: Iterable[Section], stores: Stores, roots: Sequence[Path]
) -> dict[str, Media]:
    """The media of the clips of the confused pairs, where they are found."""
    shown = dict.fromkeys(clip for section in sections for clip in section.shown_clips)
    return _find_media(shown, stores, roots) if shown else {}


def clip_links(media: Mapping[str, Media]) -> dict[str, str]:
    """The address of each clip's file on this machine, its piece as a fragment."""
    links = {}
    for clip, found in media.items():
        address = found.file.resolve().as_uri()
        start, end = found.piece
        if start or end is not None:
            address += f"#t={start:g}" + ("" if end is None else f",{end:g}")
        links[clip] = address
    return links


def clip_pictures(media: Mapping[str, Media], thumbnails: Pictures) -> dict[str, str]:
    """The picture of each clip as a data URL, where there is one."""
    if not media:
        return {}
    pictures = zip(media, thumbnails(list(media.values())), strict=True)
    return {clip: _data_url(jpeg) for clip, jpeg in pictures if jpeg is not None}


def note_missing(section: Section, pictures: Mapping[str, str]) -> Section:
    """The section, with a note if one of its clips has no picture."""
    if all(clip in pictures for clip in section.shown_clips):
        return section
    return section.add(notes=[MISSING])


def _find_media(clips: Iterable[str], stores: Stores, roots: Sequence[Path]) -> dict[str, Media]:
    """The media files of clips by the manifests of the stores: under a root, or where they were."""
    by_clip: dict[str, Media] = {}
    for source in stores.sources():
        table = stores.manifest(source)
        if table is None:
            continue
        lines = {clip: i for i, clip in enumerate(table.clip_ids)}
        for clip in clips:
            if clip in by_clip or clip not in lines:
                continue
            if (media := _media(table, lines[clip], roots)) is not None:
                by_clip[clip] = media
    return by_clip


def _media(table: "Manifest", line: int, roots: Sequence[Path]) -> Media | None:
    path = table.paths[line]
    for root in (*roots, *([table.root] if table.root else [])):
        if (root / path).is_file():
            return Media(
                root=root,
                path=path,
                start_seconds=float(table.start_seconds[line]),
                end_seconds=float(table.end_seconds[line]),
            )
    return None


def _data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
