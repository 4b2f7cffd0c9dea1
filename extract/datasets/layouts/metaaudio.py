"""MetaAudio: classes of train, val and test in an .npy or .json; clips in a folder per class.

Where the media folder is ESC-50's, its meta/esc50.csv tells the classes and recordings. The .npy
holds pickled lists of names, which are read without running anything.

Source: Heggan et al., ICANN 2022, "MetaAudio: A few-shot audio classification benchmark".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import json_of, table_of
from extract.datasets.media_files import MediaFiles
from store import safe_pickle
from store.errors import InputError, MissingFile
from store.settings import Settings

ORDER = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `metaaudio`."""

    key: str = ""  # of the JSON object that has train, val and test; found if there is one
    trust_pickle: bool = False  # read an .npy's lists; nothing in it is run


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        if not source.is_file():
            raise MissingFile(f"{source} is no file; name MetaAudio's .npy or .json of classes")
        split_of = {
            label: split for split, labels in _classes(source, config).items() for label in labels
        }
        table = media.folder / "meta" / "esc50.csv"
        if table.is_file():
            for row in table_of(table, ("filename", "category", "src_file")):
                if row["category"] in split_of:
                    yield Row(
                        names=(row["filename"],),
                        columns={
                            "label": row["category"],
                            "group": row["src_file"],
                            "split": split_of[row["category"]],
                        },
                    )
            return
        for path in media.paths:
            label = path.parent.name
            if label in split_of:
                columns = {"label": label, "group": path.stem, "split": split_of[label]}
                yield Row(names=(path.as_posix(),), columns=columns)

    return rows


def _classes(source: Path, config: Config) -> Mapping[str, list[str]]:
    """The names of classes by split."""
    if source.suffix == ".npy":
        name = str(source)
        content = safe_pickle.read_npy(source, trust_pickle=config.trust_pickle)
        lists = [
            [str(label) for label in safe_pickle.items(split, name=name)]
            for split in safe_pickle.items(content, name=name)
        ]
        if len(lists) != len(ORDER):
            raise InputError(f"{source} holds {len(lists)} lists of classes, not train, val, test")
        return dict(zip(ORDER, lists, strict=True))
    document = json_of(source)
    candidates = [document, *(document.values() if isinstance(document, dict) else [])]
    if config.key:
        candidates = [document.get(config.key)] if isinstance(document, dict) else []
    for lists_by_split in candidates:
        if not isinstance(lists_by_split, dict) or not set(ORDER) <= set(lists_by_split):
            continue
        if all(map(_names, lists_by_split.values())):
            return {split: lists_by_split[split] for split in ORDER}
    raise InputError(f"{source} has no lists of class names train, val and test")


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
