"""ActivityNet: JSON with database, subset and annotations; a row per annotated segment.

Files are cut segments VIDEO_K (K counts a video's segments from 0), or whole videos VIDEO or
v_VIDEO, of which the rows are pieces. Videos without annotations, as in its test set, are left out.

Source: Caba Heilbron et al., CVPR 2015, "ActivityNet".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import SPLITS, json_of, named, number_in
from extract.datasets.media_files import MediaFiles
from store.errors import InputError
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `activitynet`."""

    pattern: str = "activity_net*.json"  # names of lists, where SOURCE is a folder


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        for path in named(source, config.pattern, "ActivityNet comes as activity_net.v1-3.json"):
            document = json_of(path)
            database = document.get("database") if isinstance(document, dict) else None
            if not isinstance(database, dict):
                raise InputError(f"{path} has no database of videos")
            for video, facts in sorted(database.items()):
                if not isinstance(facts, dict) or "subset" not in facts:
                    raise InputError(f"{path}: video {video!r} has no subset")
                split = SPLITS.get(str(facts["subset"]).lower(), str(facts["subset"]))
                for number, (label, start, end) in enumerate(_segments(path, video, facts)):
                    yield Row(
                        names=(f"{video}_{number}", f"v_{video}_{number}"),
                        columns={
                            "clip_id": f"{video}_{number}",
                            "label": label,
                            "group": video,
                            "split": split,
                        },
                        whole=f"v_{video}" if not _has(media, video) else video,
                        start_seconds=start,
                        end_seconds=end,
                    )

    return rows


def _has(media: MediaFiles, name: str) -> bool:
    return media.find(name) is not None


def _segments(
    path: Path, video: str, facts: Mapping[str, Any]
) -> Iterator[tuple[str, float, float]]:
    """A list of labels with a segment each, or, as others wrote it, one label with all segments."""
    annotations = facts.get("annotations") or []
    for annotation in [annotations] if isinstance(annotations, dict) else annotations:
        if not isinstance(annotation, dict) or not {"label", "segment"} <= set(annotation):
            raise InputError(f"{path}: an annotation of {video!r} has no label and segment")
        segments = annotation["segment"]
        flat = segments and not isinstance(segments[0], list | tuple)
        for segment in [segments] if flat else segments:
            if len(segment) != 2:
                raise InputError(f"{path}: a segment of {video!r} is no start and end")
            start, end = (number_in(path, str(value), "a segment's second") for value in segment)
            if start < end:
                yield str(annotation["label"]), max(start, 0.0), end
