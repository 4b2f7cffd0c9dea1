"""Lists with a path and a label a line, as SlowFast and VTN read: train.csv, val.csv, test.csv.

A file whose name has no split in it gives rows without one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import group_in, lines_of, named, split_in
from extract.datasets.media_files import MediaFiles
from store.errors import ConfigError, InputError
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `path_label`."""

    separator: str = " "  # between path and label; the last one of a line counts. `comma`, `tab`
    pattern: str = "*.csv"  # names of lists, where SOURCE is a folder

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if not self.separator:
            raise ConfigError("a separator has at least one character")


def build(config: Config) -> Layout:
    """The layout that these settings describe."""
    separator = {"comma": ",", "tab": "\t"}.get(config.separator, config.separator)

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        lists = named(source, config.pattern, "lists of paths and labels are expected there")
        has_splits = any(split_in(path.stem) for path in lists)
        for path in lists:
            for number, line in lines_of(path):
                name, separated, label = line.rpartition(separator)
                if not separated or not name.strip() or not label.strip():
                    raise InputError(
                        f"{path}, line {number}: no path and label separated by {separator!r}; "
                        "name another, as in path_label:separator=comma"
                    )
                stem = PurePosixPath(name.strip()).stem
                columns = {"label": label.strip(), "group": group_in(stem)}
                if has_splits:
                    columns["split"] = split_in(path.stem)
                yield Row(names=(name.strip(),), columns=columns)

    return rows
