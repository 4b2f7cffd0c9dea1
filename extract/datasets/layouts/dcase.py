"""DCASE acoustic scenes: meta.txt or meta.csv, and the folds of evaluation_setup.

2016 and later come with `meta` (file, scene, and where there is one the identifier of the
recording, which is the group) and lists `fold1_train`, `fold1_evaluate` or `fold1_test`, tabs
between cells. The lists of one fold tell the split; without lists there is none. 2014 has names
alone: bus01.wav is a recording of scene bus.

Source: Stowell et al., 2015 (DCASE 2013 and 2014); Mesaros et al., 2016 and 2018.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import lines_of
from extract.datasets.media_files import MediaFiles
from store.errors import InputError, MissingFile
from store.settings import Settings, setting

META = re.compile(r"meta\.(txt|csv)")
OF_FOLD = re.compile(r"fold(?P<fold>\d+)_(?P<part>train|evaluate|test)\.(txt|csv)")
SPLITS = {"train": "train", "evaluate": "test", "test": "test"}
NUMBERED = re.compile(r"(?P<scene>[A-Za-z_]+)\d+")
HEADERS = {"filename", "file"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `dcase`."""

    fold: int = setting(1, at_least=1, main=True)  # of evaluation_setup


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        metas = [path for path in files if META.fullmatch(path.name)]
        if not metas:
            yield from _by_names(media)
            return
        split_of = _splits(files, config.fold)
        for path in metas:
            for number, cells in _cells(path):
                if len(cells) < 2:
                    raise InputError(f"{path}, line {number}: no scene behind the file's name")
                name = PurePosixPath(cells[0])
                columns = {"label": cells[1], "group": cells[2] if cells[2:] else name.stem}
                if split_of:
                    columns["split"] = split_of.get(name.name, "")
                yield Row(names=(name.as_posix(),), columns=columns)

    return rows


def _by_names(media: MediaFiles) -> Iterator[Row]:
    """Recordings of 2014, whose names are a scene and a number."""
    for path in media.paths:
        if found := NUMBERED.fullmatch(path.stem):
            columns = {"label": found["scene"], "group": path.stem}
            yield Row(names=(path.as_posix(),), columns=columns)


def _splits(files: list[Path], fold: int) -> dict[str, str]:
    """The split of every file by its name, if there are lists of folds.

    Raises:
        MissingFile: there are, and none of this fold.
    """
    found = [(path, OF_FOLD.fullmatch(path.name)) for path in files]
    lists = [(path, match) for path, match in found if match]
    wanted = [(path, match) for path, match in lists if int(match["fold"]) == fold]
    if lists and not wanted:
        raise MissingFile(f"{lists[0][0].parent} has no lists of fold {fold}")
    return {
        PurePosixPath(cells[0]).name: SPLITS[match["part"]]
        for path, match in wanted
        for _, cells in _cells(path)
    }


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a list, without its header where it has one."""
    for number, line in lines_of(path):
        cells = [cell.strip() for cell in line.split("\t")]
        if cells[0].lower() not in HEADERS:
            yield number, cells
