"""AVCA's GZSL splits of UCF, ActivityNet and VGGSound: class-split/{main,cls}_split/stage_*.csv.

`split` is train (stage_1_train), val (stage_1_val_*) and test (stage_2_test_*), which share no
clip; `stage=2` takes stage_2_train instead of train and val, as the last training of the protocol
does. The column `seen` says whether a clip's class is one of those that are trained on. Columns
of the lists differ by dataset and are read by their names; lists that are not there are left out.

Source: Mercea et al., CVPR 2022, "Audio-visual generalised zero-shot learning with cross-modal
attention and language".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import group_in, named, table_of
from extract.datasets.media_files import MediaFiles
from store.errors import MissingFile
from store.settings import Settings, setting

LISTS = {
    1: {
        "stage_1_train": ("train", "seen"),
        "stage_1_val_seen": ("val", "seen"),
        "stage_1_val_unseen": ("val", "unseen"),
        "stage_2_test_seen": ("test", "seen"),
        "stage_2_test_unseen": ("test", "unseen"),
    },
    2: {
        "stage_2_train": ("train", "seen"),
        "stage_2_test_seen": ("test", "seen"),
        "stage_2_test_unseen": ("test", "unseen"),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `avca`."""

    stage: int = setting(1, among=tuple(LISTS), main=True)  # whose training clips
    split: str = "main_split"  # or cls_split


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        lists = {
            path.stem.rpartition("__")[2]: path
            for path in named(source, "*stage_*.csv", "AVCA's lists of clips are expected there")
            if config.split in path.as_posix() or not _has_variants(source)
        }
        wanted = LISTS[config.stage]
        if not set(lists) & set(wanted):
            raise MissingFile(f"{source} has none of {', '.join(wanted)} of {config.split}")
        for name, (split, seen) in wanted.items():
            if name not in lists:
                continue
            for row in table_of(lists[name], ("filename", "label")):
                path = PurePosixPath(row["filename"])
                yield Row(
                    names=(f"{row['label']}/{path.name}",),
                    columns={
                        "clip_id": path.stem if path.suffix in (".mp4", ".avi") else path.name,
                        "label": row["label"],
                        "group": group_in(path.stem),
                        "split": split,
                        "seen": seen,
                    },
                )

    return rows


def _has_variants(source: Path) -> bool:
    """Whether there is more than one way of splitting here."""
    return any("cls_split" in path.as_posix() for path in source.rglob("*stage_*.csv"))
