"""The lists of UCF101 and the names of its videos, of all classes or some."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from extract.datasets.layouts import Row
from extract.datasets.layouts._lists import group_in, lines_of
from extract.datasets.media_files import MediaFiles
from store.errors import InputError, MissingFile


def ucf_rows(fold: int, source: Path, media: MediaFiles) -> Iterator[Row]:
    """The clips of a fold's lists, or of the files where there are no lists.

    Raises:
        MissingFile: a list is not there.
    """
    lists = {
        split: sorted(source.rglob(f"{split}list{fold:02}.txt")) for split in ("train", "test")
    }
    if not any(lists.values()):
        if any(source.rglob("*list0?.txt")):
            raise MissingFile(f"{source} has no lists of fold {fold}")
        for path in media.paths:
            if path.stem.startswith("v_"):
                yield _row(path, str(path), {})
        return
    for split, paths in lists.items():
        if not paths:
            raise MissingFile(f"{source} has no {split}list{fold:02}.txt")
        for number, line in lines_of(paths[0]):
            name = line.split()[0]
            where = f"{paths[0]}, line {number}"
            yield _row(PurePosixPath(name), where, {"split": split})


def _row(path: PurePosixPath, where: str, columns: dict[str, str]) -> Row:
    label, _, rest = path.stem.removeprefix("v_").partition("_")
    if not path.stem.startswith("v_") or not rest:
        raise InputError(f"{where}: {path.name!r} is no name like v_Archery_g01_c02.avi")
    columns = {"clip_id": path.stem, "label": label, "group": group_in(path.stem), **columns}
    return Row(names=(path.as_posix(),), columns=columns)
