"""UCF101: classInd.txt, trainlist0K.txt and testlist0K.txt; videos v_CLASS_gGG_cCC.avi.

The 25 groups of a class are source videos, so `group` is CLASS_gGG. Where there are no lists, all
videos come without splits.

Source: Soomro et al., 2012, "UCF101: A dataset of 101 human action classes".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import group_in, lines_of
from extract.datasets.media_files import MediaFiles
from store.errors import InputError, MissingFile
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `ucf101`."""

    fold: int = setting(1, among=(1, 2, 3), main=True)  # of the three published ones


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        lists = {
            split: sorted(source.rglob(f"{split}list{config.fold:02}.txt"))
            for split in ("train", "test")
        }
        if not any(lists.values()):
            if any(source.rglob("*list0?.txt")):
                raise MissingFile(f"{source} has no lists of fold {config.fold}")
            for path in media.paths:
                if path.stem.startswith("v_"):
                    yield _row(path, str(path), {})
            return
        for split, paths in lists.items():
            if not paths:
                raise MissingFile(f"{source} has no {split}list{config.fold:02}.txt")
            for number, line in lines_of(paths[0]):
                name = line.split()[0]
                where = f"{paths[0]}, line {number}"
                yield _row(PurePosixPath(name), where, {"split": split})

    return rows


def _row(path: PurePosixPath, where: str, columns: dict[str, str]) -> Row:
    label, _, rest = path.stem.removeprefix("v_").partition("_")
    if not path.stem.startswith("v_") or not rest:
        raise InputError(f"{where}: {path.name!r} is no name like v_Archery_g01_c02.avi")
    columns = {"clip_id": path.stem, "label": label, "group": group_in(path.stem), **columns}
    return Row(names=(path.as_posix(),), columns=columns)
