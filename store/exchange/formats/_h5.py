"""HDF5 files opened with care: nothing outside of the file is followed, nothing swells."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store.errors import InputError
from store.exchange.formats import _common

MAX_RATIO = 1100  # of announced to stored bytes: rows are read block by block, few at a time
MAX_CHUNK_BYTES = 256 << 20  # that a compressed chunk unpacks to; it is unpacked as a whole
_READ_BYTES = 512 << 20  # that the text of one reading may have, were each as long as the file
_NO_CAP = 1 << 62  # what is read block by block may be of any size
_FEWEST, _MOST = 8, 1024  # items of text at once


def opened(source: Path) -> AbstractContextManager[h5py.File]:
    """A file, open for reading.

    Raises:
        InputError: it is no HDF5, or damaged.
    """
    return _common.opened(source, partial(h5py.File, mode="r"))


def member(group: h5py.Group, name: str, source: Path) -> Any:
    """An item that a group holds itself: a link may lead to other files.

    Raises:
        InputError: it is a link.
    """
    for step in name.split("/"):
        if not isinstance(group, h5py.Group):
            raise InputError(f"{source} has no {name!r}")
        if not isinstance(group.get(step, getlink=True), h5py.HardLink):
            raise InputError(f"{source}: {name!r} is a link, which is not followed")
        group = group[step]
    return group


def dataset_of(group: h5py.Group, name: str, source: Path) -> h5py.Dataset:
    """A dataset whose bytes are in this file, and as many as it says.

    Raises:
        InputError: it is none, lies elsewhere, or swells.
    """
    dataset = member(group, name, source)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise InputError(f"{source}: {name!r} is no dataset")
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{source}: {name!r} lies in another file, which is not followed")
    stored = dataset.id.get_storage_size()
    where = f"{source}: {name!r}"
    _common.check_swell(
        where, stored, prod(dataset.shape) * dataset.dtype.itemsize, ratio=MAX_RATIO, cap=_NO_CAP
    )
    if dataset.chunks and stored < MAX_CHUNK_BYTES < prod(dataset.chunks) * dataset.dtype.itemsize:
        raise InputError(f"{where} has chunks that swell beyond {MAX_CHUNK_BYTES} bytes")
    return dataset


def is_column(dataset: h5py.Dataset) -> bool:
    """True where each item may be a cell of a manifest: text, a number, a choice among names."""
    if dataset.dtype.kind == "O":
        return h5py.check_string_dtype(dataset.dtype) is not None
    return dataset.dtype.kind in _common.CELL_KINDS


def reader(dataset: h5py.Dataset, source: Path) -> Callable[[slice], np.ndarray]:
    """Items of a dataset by their slice; text within the bytes that a file of its size may hold."""
    names = h5py.check_enum_dtype(dataset.dtype)
    if names and dataset.dtype.kind != "b":
        name_of = {number: name for name, number in names.items()}
        return lambda span: np.array(
            [name_of.get(number, str(number)) for number in dataset[span].tolist()], object
        )
    if dataset.dtype.kind != "O":
        return lambda span: dataset[span]
    size = source.stat().st_size
    step = min(max(_READ_BYTES // max(size, 1), _FEWEST), _MOST)
    left = max(_common.SMALL_BYTES, 4 * size)

    def text(span: slice) -> np.ndarray:
        nonlocal left
        items = []
        for start in range(span.start, span.stop, step):
            block = dataset[start : min(start + step, span.stop)].tolist()
            left -= sum(map(len, block))
            if left < 0:
                raise InputError(f"{source}: {dataset.name!r} names the same text too often")
            items += block
        made = np.empty(len(items), object)
        made[:] = items
        return made

    return text
