"""The feature tree of AVCA: one HDF5 file a class, `data` (n, D) and `video_urls`, a row a video.

    <DS>/features/<set>/{audio,video}/<stage>/<Class>.h5

Written with the mean of a clip's rows. `avca:text` also reads `text/*.npy`, word embeddings by
class name (a pickle). A name that occurs twice in a file is one clip with two rows.

Source: Mercea et al., CVPR 2022 (audio-visual cross-attention, AVCA).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from store.errors import InputError
from store.exchange.formats import Clips
from store.exchange.formats._common import gathered, text
from store.exchange.formats._h5 import dataset_of, opened, reader
from store.exchange.formats._h5_writing import created
from store.exchange.formats._tree import Entry, Tree
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """The set in the tree, and whether its word embeddings are read."""

    set: str = ""  # main_features, cls_features …; when read: the only one there is
    text: bool = False


def build(config: Config) -> Tree:
    """The tree whose class files are HDF5."""
    return Tree(
        suffix=".h5", set=config.set, text=config.text, is_pickle=False,
        read_class=_read, write_class=_write,
        keeps=frozenset({"clip_ids", "features", "split"}),
    )  # fmt: skip


def _read(path: Path, modality: str) -> Clips:
    with opened(path) as file:
        for name in ("data", "video_urls"):
            if name not in file:
                raise InputError(f"{path} has no {name!r}; it has {', '.join(file) or 'nothing'}")
        data, urls = dataset_of(file, "data", path), dataset_of(file, "video_urls", path)
        if urls.ndim != 1 or data.ndim != 2:
            raise InputError(f"{path}: data{list(data.shape)} for video_urls{list(urls.shape)}")
        names = [text(name, str(path)) for name in reader(urls, path)(slice(0, len(urls))).tolist()]
        return gathered(names, np.asarray(data[:]), {}, str(path))


def _write(path: Path, entries: Sequence[Entry]) -> None:
    rows = [entry.rows.mean(axis=0, dtype=np.float64) for entry in entries]
    with created(path) as (file, _):
        file.create_dataset("data", data=np.stack(rows).astype(np.float32))
        names = [entry.clip_id.encode() for entry in entries]
        file.create_dataset("video_urls", data=names, dtype=h5py.string_dtype())
