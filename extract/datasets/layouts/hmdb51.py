"""HMDB51: CLASS_test_splitK.txt with a file and 0 (not used), 1 (train) or 2 (test) a line.

The title in front of the class's name is the film or upload a clip was cut from, and its `group`.

Source: Kuehne et al., ICCV 2011, "HMDB: A large video database for human motion recognition".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import lines_of, named
from extract.datasets.media_files import MediaFiles
from store.errors import InputError
from store.settings import Settings, setting

USES = {"1": "train", "2": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `hmdb51`."""

    fold: int = setting(1, among=(1, 2, 3), main=True)  # of the three published ones


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        ending = f"_test_split{config.fold}"
        for path in named(source, f"*{ending}.txt", "HMDB51 has one such list per class"):
            label = path.stem.removesuffix(ending)
            for number, line in lines_of(path):
                name, _, use = line.rpartition(" ")
                if use not in {"0", *USES} or not name:
                    raise InputError(f"{path}, line {number}: {line!r} is no file and 0, 1 or 2")
                if use in USES:
                    yield _row(PurePosixPath(name.strip()), label, USES[use])

    return rows


def _row(path: PurePosixPath, label: str, split: str) -> Row:
    title = re.split(rf"_{re.escape(label)}_", path.stem, maxsplit=1)[0]
    columns = {"clip_id": path.stem, "label": label, "group": title, "split": split}
    return Row(names=(f"{label}/{path.name}",), columns=columns)
