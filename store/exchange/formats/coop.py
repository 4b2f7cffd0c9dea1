"""Features as the CoOp family saves them: a `.pt` of {"features", "labels", "paths"}.

Features are not normalised; labels are numbers, named by `classnames`, and `split` names the split
of each clip (keys of ours, which others pass over). A file of {"train": …, "val": …} is read too,
and so are several views of one path, which are its rows.

Source: Lin et al., 2023, "Multimodality helps unimodality: cross-modal few-shot learning".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store import safe_pickle
from store.errors import InputError
from store.exchange.formats import Clips, Track
from store.exchange.formats._common import (
    gathered,
    label_cells,
    labels,
    matrix,
    means,
    only,
    text,
    with_rows,
)  # fmt: skip
from store.exchange.formats._torch import read_torch, write_torch
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Name and modality of the feature that is read."""

    name: str = ""
    modality: str = "visual"


def build(config: Config) -> "Coop":
    """The format."""
    return Coop(config)


class Coop:
    """Mean rows and numbered labels in one file of torch."""

    keeps = frozenset({"clip_ids", "split"})

    def __init__(self, config: Config) -> None:
        self._config = config

    def write(self, tracks: Sequence[Track], target: Path, *, label: str) -> int:
        """Write one `.pt`; see `Format`."""
        vectors, names, paths, splits = [], [], [], []
        for clips in only(tracks).clips():
            vectors.append(means(clips))
            names += labels(clips, label)
            paths += [clips.clip_ids[i] for i in with_rows(clips)]
            split = clips.columns.get("split", ("",) * len(clips.clip_ids))
            splits += [split[i] for i in with_rows(clips)]
        if not paths:
            raise InputError("no clip has rows to export")
        classes = sorted(set(names))
        number = {name: i for i, name in enumerate(classes)}
        content: dict[str, np.ndarray | Sequence[str]] = {
            "features": np.concatenate(vectors),
            "labels": np.array([number[name] for name in names], np.int64),
            "paths": paths,
            "classnames": classes,
            "split": splits,
        }
        write_torch(target, content)
        return len(paths)

    def read(self, source: Path, *, trust_pickle: bool) -> Sequence[Track]:
        """One track, of all splits in the file; see `Format`."""
        saved = safe_pickle.mapping(read_torch(source, trust_pickle=trust_pickle), name=str(source))
        parts = {"": saved} if "features" in saved else saved
        splits = [_clips_of(part, split, source) for split, part in parts.items()]
        sizes = {clips.values.shape[1] for clips in splits}
        if len(sizes) != 1:
            raise InputError(f"{source} holds features of {len(sizes)} sizes: {sorted(sizes)[:4]}")

        def clips() -> Iterator[Clips]:
            yield from splits

        return [
            Track(
                name=self._config.name or source.stem,
                modality=self._config.modality,
                dim=sizes.pop(),
                clips=clips,
                files=(source,),
            )
        ]


def _clips_of(part: Any, split: Any, source: Path) -> Clips:
    where = f"{source}[{text(split, str(source))!r}]" if split != "" else str(source)
    content = safe_pickle.mapping(part, ("features", "labels", "paths"), name=where)
    features = matrix(safe_pickle.array(content["features"], name=where), where)
    numbers = safe_pickle.array(content["labels"], name=where)
    paths = [text(path, where) for path in safe_pickle.items(content["paths"], name=where)]
    if numbers.shape != (len(paths),) or len(features) != len(paths):
        raise InputError(
            f"{where} has {len(features)} features, {numbers.size} labels and {len(paths)} paths"
        )
    names = _class_names(content, where)
    classes = label_cells(numbers, where)
    if numbers.dtype.kind not in "SU":
        classes = [names.get(number, number) for number in classes]
    columns = {"label": classes}
    if "split" in content:
        columns["split"] = [text(s, where) for s in safe_pickle.items(content["split"], name=where)]
    elif split != "":
        columns["split"] = [text(split, where)] * len(paths)
    if len(columns.get("split", paths)) != len(paths):
        raise InputError(f"{where}: split has another length than paths")
    return gathered(paths, features, columns, where)


def _class_names(content: Mapping[Any, Any], where: str) -> dict[str, str]:
    """Names of the numbers, where the file says them."""
    if "lab2cname" in content:
        names = safe_pickle.mapping(content["lab2cname"], name=where)
        return {str(k): text(v, where) for k, v in names.items() if type(k) is int}
    listed = safe_pickle.items(content.get("classnames", []), name=where)
    return {str(i): text(name, where) for i, name in enumerate(listed)}
