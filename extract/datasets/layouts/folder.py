"""A folder of class folders: CLASS/clip.mp4, or SPLIT/CLASS/clip.mp4.

The first level is taken for splits where every folder in it is called train, val, valid,
validation, dev, test or eval. Deeper folders below a class belong to that class. A folder that
holds all others, and no clip itself, is no class: VIDEOS/CLASS/clip.mp4.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import SPLITS
from extract.datasets.media_files import MediaFiles
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `folder`."""

    label: str = setting("label", main=True)  # name of the label column


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        above = _folders_around_all(media.paths)
        firsts = {path.parts[above] for path in media.paths if len(path.parts) > above + 1}
        has_splits = bool(firsts) and all(name.lower() in SPLITS for name in firsts)
        of_label = above + 1 if has_splits else above
        for path in media.paths:
            if len(path.parts) >= of_label + 2:
                columns = {config.label: path.parts[of_label]}
                if has_splits:
                    columns["split"] = SPLITS[path.parts[above].lower()]
                yield Row(names=(path.as_posix(),), columns=columns)

    return rows


def _folders_around_all(paths: Sequence[PurePosixPath]) -> int:
    """The number of leading folders that hold every clip in folders of their own."""
    count = 0
    while paths and all(len(path.parts) >= count + 3 for path in paths):
        names = {path.parts[count] for path in paths}
        if len(names) > 1 or names.pop().lower() in SPLITS:
            break
        count += 1
    return count
