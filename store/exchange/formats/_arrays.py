"""One feature as named arrays, the layout that npz and HDF5 share.

    values [N, D] · offsets [V + 1] · clip_id [V] · row_time_ms [N] · status [V] · columns [V]

Shapes: V = clips, N = their rows, D = embedding size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from store.errors import InputError, choices
from store.exchange.formats import Clips
from store.exchange.formats._common import ends, gathered, matrix, slices, spaced, text
from store.status import Status


def clip_blocks(
    arrays: Mapping[str, Callable[[slice], np.ndarray]],
    lengths: Mapping[str, int],
    columns: Sequence[str],
    *,
    where: str,
    hop_seconds: float,
) -> Iterator[Clips]:
    """Blocks of clips from arrays that are read slice by slice.

    Without offsets there is one name a row, and rows of one name are one clip.

    Raises:
        InputError: an array is missing, or has another length.
    """
    for name in ("values", "clip_id"):
        if name not in arrays:
            raise InputError(f"{where} has no {name!r}; it has {choices(name, arrays)}")
    clips, rows = lengths["clip_id"], lengths["values"]
    each = {"status": clips, "row_time_ms": rows, "offsets": clips + 1}
    for name, wanted in each.items():
        if lengths.get(name, wanted) != wanted:
            raise InputError(f"{where}: {name} has {lengths[name]} items; {wanted} belong there")
    texts = {name: _texts(arrays[name], where) for name in columns if lengths[name] == clips}
    names = _texts(arrays["clip_id"], where)
    if "offsets" not in arrays:
        everything = slice(0, rows)
        cells = {name: cells(slice(0, clips)) for name, cells in texts.items()}
        yield gathered(
            names(slice(0, clips)), arrays["values"](everything), cells, where,
            step_seconds=hop_seconds,
        )  # fmt: skip
        return
    offsets = arrays["offsets"](slice(0, clips + 1))
    if offsets.dtype.kind not in "iu" or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise InputError(f"{where}: offsets are not whole numbers that grow")
    offsets = offsets.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != rows:
        raise InputError(f"{where}: offsets do not divide {rows} rows")
    for block in slices(clips):
        part = slice(int(offsets[block.start]), int(offsets[block.stop]))
        counts = np.diff(offsets[block.start : block.stop + 1])
        yield Clips(
            clip_ids=tuple(names(block)),
            values=matrix(arrays["values"](part), where),
            offsets=ends(counts),
            row_time_ms=_whole(arrays, "row_time_ms", part, np.int32, where)
            if "row_time_ms" in arrays
            else spaced(counts, hop_seconds),
            status=_whole(arrays, "status", block, np.uint8, where)
            if "status" in arrays
            else np.where(counts > 0, Status.OK, Status.EMPTY).astype(np.uint8),
            columns={name: tuple(cells(block)) for name, cells in texts.items()},
        )


def _texts(array: Callable[[slice], np.ndarray], where: str) -> Callable[[slice], list[str]]:
    def cells(span: slice) -> list[str]:
        try:
            return [text(item, where) for item in array(span).tolist()]
        except ValueError as error:  # no such character
            raise InputError(f"{where} holds text that is none ({error})") from None

    return cells


def _whole(
    arrays: Mapping[str, Callable[[slice], np.ndarray]],
    name: str,
    block: slice,
    to: Any,
    where: str,
) -> np.ndarray:
    items = arrays[name](block)
    limits = np.iinfo(to)
    if items.dtype.kind not in "iu" or (
        items.size and not (limits.min <= items.min() and items.max() <= limits.max)
    ):
        raise InputError(f"{where}: {name} holds what is no {np.dtype(to)}")
    return items.astype(to)
