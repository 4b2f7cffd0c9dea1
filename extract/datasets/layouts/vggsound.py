"""VGGSound: a CSV without a header, YOUTUBEID,START,LABEL,SPLIT or YOUTUBEID_SSSSSS.mp4,LABEL.

Files are YOUTUBEID_SSSSSS, or whole videos YOUTUBEID, of which the rows are pieces of 10 s.
`group` is the video. In lists of two columns the file's name tells the split.

Source: Chen et al., ICASSP 2020, "VGGSound: A large-scale audio-visual dataset".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import SPLITS, cells_of, named, number_in, split_in
from extract.datasets.media_files import MediaFiles
from store.errors import InputError
from store.settings import Settings

SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `vggsound`."""

    pattern: str = "vggsound*.csv"  # names of lists, where SOURCE is a folder


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        lists = named(source, config.pattern, "VGGSound comes as vggsound.csv")
        for path in lists:
            if path.stem.endswith("_stat") and len(lists) > 1:
                continue  # classes and counts
            for cells in cells_of(path):
                if len(cells) not in (2, 4):
                    raise InputError(f"{path} has {len(cells)} columns; VGGSound's have 2 or 4")
                yield _row(path, cells)

    return rows


def _row(path: Path, cells: list[str]) -> Row:
    if len(cells) == 4:
        video, start, label, split = cells
        seconds = number_in(path, start, "start")
        stem = f"{video}_{int(seconds):06}"
        split = SPLITS.get(split.lower(), split)
    else:
        name, label = cells
        stem, split = PurePosixPath(name).stem, split_in(path.stem)
        video, _, start = stem.rpartition("_")
        seconds = number_in(path, start, "the start in a file's name,")
    return Row(
        names=(stem,),
        columns={"clip_id": stem, "label": label, "group": video, "split": split},
        whole=video,
        start_seconds=seconds,
        end_seconds=seconds + SECONDS,
    )
