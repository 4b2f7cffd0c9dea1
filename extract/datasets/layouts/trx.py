"""Few-shot lists of TRX, ARN and CMN: train, val and test lists with CLASS/clip a line.

Classes of the splits do not overlap. Anything after the first blank of a line is ignored, unless
the path goes on there; suffixes may lack.

Source: Perrett et al., CVPR 2021, "Temporal-relational CrossTransformers for few-shot action
recognition"; Zhang et al., ECCV 2020 (ARN); Zhu and Yang, ECCV 2018 (CMN).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import group_in, lines_of, named, split_in
from extract.datasets.media_files import MediaFiles
from store.errors import InputError
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `trx`."""

    pattern: str = "*list*"  # names of lists, where SOURCE is a folder: trainlist07.txt, val.list


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        classes: dict[str, tuple[str, Path]] = {}
        for path in named(source, config.pattern, "lists of clips are expected there"):
            split = split_in(path.name)
            if not path.is_file() or not split:
                continue
            for number, line in lines_of(path):
                name = PurePosixPath(line.split("\t")[0].strip())
                if len(name.parts) < 2:
                    raise InputError(f"{path}, line {number}: {line!r} is no CLASS/clip")
                label = name.parts[-2]
                before, where = classes.setdefault(label, (split, path))
                if before != split:
                    raise InputError(
                        f"{path}, line {number}: class {label!r} is in {where.name} too; few-shot "
                        "splits share no class. Name the folder of one split"
                    )
                yield Row(
                    names=(name.as_posix(),),
                    columns={"label": label, "group": group_in(name.stem), "split": split},
                )

    return rows
