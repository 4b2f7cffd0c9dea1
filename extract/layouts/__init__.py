"""Layouts: how a dataset lies on disk, read into the rows of a manifest.

Each plug-in offers `Config` and `build(config)`; what it builds yields one row per clip, the
`path` relative to the source it was given.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

MEDIA_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv"}
    | {".ts", ".webm", ".wmv", ".aac", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg"}
    | {".opus", ".wav"}
)


@runtime_checkable
class Layout(Protocol):
    """Rows with the same keys each, in an order that is the same on every machine."""

    def __call__(self, source: Path) -> Iterator[Mapping[str, str]]: ...
