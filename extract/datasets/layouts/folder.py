"""A folder of class folders: CLASS/clip.mp4, or SPLIT/CLASS/clip.mp4.

The first level is taken for splits where every folder in it is called train, val, valid,
validation, dev, test or eval. Deeper folders below a class belong to that class.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import SPLITS
from extract.datasets.media_files import MediaFiles
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `folder`."""

    label: str = "label"  # name of the label column


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        folders = [f.name for f in source.iterdir() if f.is_dir() and not f.name.startswith(".")]
        has_splits = bool(folders) and all(name.lower() in SPLITS for name in folders)
        depth = 3 if has_splits else 2
        for path in media.paths:
            if len(path.parts) >= depth:
                columns = {config.label: path.parts[depth - 2]}
                if has_splits:
                    columns["split"] = SPLITS[path.parts[0].lower()]
                yield Row(names=(path.as_posix(),), columns=columns)

    return rows
