"""HDF5 files opened with care: nothing outside of the file is followed, nothing swells."""

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import h5py

from store.errors import InputError
from store.exchange.formats import _common

MAX_RATIO = 1100  # of announced to stored bytes: more than any filter of HDF5 gives for real data
SMALL_BYTES = 64 << 20


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
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{source}: {name!r} is a link, which is not followed")
    return group[name]


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
    if dataset.nbytes > SMALL_BYTES and dataset.nbytes > MAX_RATIO * stored:
        raise InputError(f"{source}: {name!r} swells from {stored} to {dataset.nbytes} bytes")
    return dataset
