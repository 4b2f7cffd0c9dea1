"""CoOp's split_zhou_DATASET.json: {"train": [[path, number, class name], …], "val": …, "test": …}.

Source: Zhou et al., IJCV 2022, "Learning to prompt for vision-language models".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import SPLITS, group_in, json_of, named
from extract.datasets.media_files import MediaFiles
from store.errors import InputError
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `coop`."""

    pattern: str = "split_*.json"  # names of lists, where SOURCE is a folder


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        (path, *others) = named(source, config.pattern, "CoOp's splits are expected there")
        if others:
            raise InputError(f"{source} has several splits, {path.name} and {others[0].name}; "
                             "name the file")  # fmt: skip
        document = json_of(path)
        if not isinstance(document, dict) or not set(document) <= set(SPLITS):
            raise InputError(f"{path} is no object with the keys train, val and test")
        for split, entries in document.items():
            for entry in entries:
                if not isinstance(entry, list) or [type(x) for x in entry] != [str, int, str]:
                    raise InputError(f"{path}: {str(entry)[:60]} is no path, number and class name")
                name, _, label = entry
                stem = PurePosixPath(name).stem
                yield Row(
                    names=(name,),
                    columns={
                        "clip_id": stem,
                        "label": label,
                        "group": group_in(stem),
                        "split": SPLITS[split],
                    },
                )

    return rows
