"""UCF101: classInd.txt, trainlist0K.txt and testlist0K.txt; videos v_CLASS_gGG_cCC.avi.

The 25 groups of a class are source videos, so `group` is CLASS_gGG. Where there are no lists, all
videos come without splits.

Source: Soomro et al., 2012, "UCF101: A dataset of 101 human action classes".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._ucf import ucf_rows
from extract.datasets.media_files import MediaFiles
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `ucf101`."""

    fold: int = setting(1, among=(1, 2, 3), main=True)  # of the three published ones


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        return ucf_rows(config.fold, source, media)

    return rows
