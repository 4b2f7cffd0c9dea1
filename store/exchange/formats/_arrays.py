"""One feature as named arrays, the layout that npz and HDF5 share.

    values [N, D] · offsets [V + 1] · clip_id [V] · row_time_ms [N] · status [V] · columns [V]

Shapes: V = clips, N = their rows, D = embedding size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from store.errors import InputError, choices
from store.exchange.formats import Clips
from store.exchange.formats._common import (
    cells,
    ends,
    gathered,
    label_cells,
    matrix,
    slices,
    spaced,
    text,
)
from store.status import Status

_OF_A_CLIP = ("label", "group", "split")  # columns that cannot differ between rows of a clip


def clip_blocks(
    arrays: Mapping[str, Callable[[slice], np.ndarray]],
    lengths: Mapping[str, int],
    columns: Sequence[str],
    *,
    where: str,
    hop_seconds: float,
    left_out: list[str],
) -> Iterator[Clips]:
    """Blocks of clips from arrays that are read slice by slice.

    Without offsets there is one name a row, and rows of one name are one clip. `left_out` gets the
    names of columns that say nothing of the clips.

    Raises:
        InputError: an array is missing, or has another length.
    """
    for name in ("values", "clip_id"):
        if name not in arrays:
            raise InputError(
                f"{where} has no {name!r}, so call one that; it has {choices(name, arrays)}"
            )
    clips, rows = lengths["clip_id"], lengths["values"]
    each = {"status": clips, "row_time_ms": rows, "offsets": clips + 1}
    for name, wanted in each.items():
        if lengths.get(name, wanted) != wanted:
            raise InputError(f"{where}: {name} has {lengths[name]} items; {wanted} belong there")
    left_out += [f"{n} ({lengths[n]} items)" for n in columns if lengths[n] != clips]
    texts = {name: _cells(arrays[name], name, where) for name in columns if lengths[name] == clips}
    names = _names(arrays["clip_id"], where)
    if "offsets" not in arrays:
        own = {name: of_block(slice(0, clips)) for name, of_block in texts.items()}
        yield gathered(
            names(slice(0, clips)), arrays["values"](slice(0, rows)),
            {name: column for name, column in own.items() if name in _OF_A_CLIP}, where,
            step_seconds=hop_seconds, left_out=left_out,
            perhaps={name: column for name, column in own.items() if name not in _OF_A_CLIP},
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
            columns={name: tuple(of_block(block)) for name, of_block in texts.items()},
        )


def _cells(
    array: Callable[[slice], np.ndarray], name: str, where: str
) -> Callable[[slice], list[str]]:
    as_cells = label_cells if name == "label" else cells
    return lambda span: as_cells(array(span), f"{where}: {name}")


def _names(array: Callable[[slice], np.ndarray], where: str) -> Callable[[slice], list[str]]:
    def names(span: slice) -> list[str]:
        try:
            return [text(item, where) for item in array(span).tolist()]
        except ValueError as error:  # no such character
            raise InputError(f"{where} holds text that is none ({error})") from None

    return names


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
