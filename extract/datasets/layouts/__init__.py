"""Layouts: how a dataset lies on disk, read into the rows of a manifest.

Each plug-in offers `Config` and `build(config)`. What it builds reads the dataset's lists at
`source` (a file or a folder) and yields a `Row` per clip, in an order that is the same on every
machine. It names files as the lists do; which file that is, `extract.datasets.media_files` finds
out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from extract.datasets.media_files import MediaFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One clip as a list names it. `columns` has the same keys in all rows of a dataset."""

    names: tuple[str, ...]  # that its file may have, with or without folders and suffix
    columns: Mapping[str, str]
    whole: str = ""  # name of the file that it is a piece of, should nobody have cut it out
    start_seconds: float = 0.0  # of that piece
    end_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not any(self.names) or "path" in self.columns:
            raise ValueError("a row names its file, and has no column path")


@runtime_checkable
class Layout(Protocol):
    """Reads lists, and where there are none, the names of the files.

    Raises:
        InputError, MissingFile: lists that are not there or are not of this layout.
    """

    def __call__(self, source: Path, media: MediaFiles) -> Iterator[Row]:
        """The clips that the lists at `source` name."""
