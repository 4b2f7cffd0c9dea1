"""A folder of class folders: CLASS/clip.mp4, or SPLIT/CLASS/clip.mp4.

The first level is taken for splits where every folder in it is called train, val, valid,
validation, dev, test or eval. Deeper folders below a class belong to that class.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from extract.layouts import MEDIA_SUFFIXES, Layout

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
          "test": "test", "eval": "test"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    label: str = "label"  # name of the label column


def build(config: Config) -> Layout:
    def rows(source: Path) -> Iterator[Mapping[str, str]]:
        folders = [f.name for f in source.iterdir() if f.is_dir() and not f.name.startswith(".")]
        has_splits = bool(folders) and all(name.lower() in SPLITS for name in folders)
        for path in sorted(source.rglob("*")):
            inside = path.relative_to(source)
            depth = 3 if has_splits else 2
            hidden = any(part.startswith(".") for part in inside.parts)
            if hidden or len(inside.parts) < depth or path.suffix.lower() not in MEDIA_SUFFIXES:
                continue
            row = {"path": inside.as_posix(), config.label: inside.parts[depth - 2]}
            yield row | ({"split": SPLITS[inside.parts[0].lower()]} if has_splits else {})

    return rows
