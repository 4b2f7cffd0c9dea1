"""Helpers of several formats: means, labels, text, and rows sorted to their clips.

Shapes: V = clips, N = rows, D = embedding size.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import date, time
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, Shaped

from store.errors import InputError, MicroshotError, UnknownColumn, choices
from store.exchange.formats import MAX_DIM, Clips, Track
from store.status import Status

UNIT_CLIPS = 1024
SMALL_BYTES = 64 << 20  # that anything may unpack to
MAX_RATIO = 100  # of unpacked to stored bytes beyond that: real features give 1 to 10, one-hot 60
MAX_UNPACKED_BYTES = 256 << 30  # of what is read as a whole: the memory of a large machine
CELL_KINDS = "SUiubfM"  # of numpy arrays whose items become cells of a manifest
_WHOLE = 2**53  # from here on a float is not sure of its last digit
T = TypeVar("T")


@contextmanager
def opened(path: Path, open_file: Callable[[Path], AbstractContextManager[T]]) -> Iterator[T]:
    """A file that a library opens and reads.

    Raises:
        InputError: the library's complaint in one line, whatever type it raised.
    """
    try:
        with open_file(path) as file:
            yield file
    except MicroshotError:
        raise
    except MemoryError:  # says nothing of the bytes
        raise
    except Exception as error:  # zipfile, h5py and pyarrow raise many types on damaged bytes
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"{path} cannot be read ({lines[0][:160]})") from error


def check_swell(
    where: str, stored: int, unpacked: int, *, ratio: int = MAX_RATIO, cap: int = MAX_UNPACKED_BYTES
) -> None:
    """Refuse a file that says it unpacks to far more than its bytes.

    Raises:
        InputError: says both sizes.
    """
    if unpacked > min(max(SMALL_BYTES, ratio * stored), cap):
        raise InputError(
            f"{where} swells from {stored} to {unpacked} bytes; beyond {SMALL_BYTES} at most "
            f"{ratio} times as much is read, and {cap} in all"
        )


def only(tracks: Sequence[Track]) -> Track:
    """The track of a format that holds one."""
    assert len(tracks) == 1
    return tracks[0]


def with_rows(clips: Clips) -> Int64[np.ndarray, "_"]:
    """Indices of the clips that have rows."""
    return np.flatnonzero(np.diff(clips.offsets) > 0)


def means(clips: Clips) -> Float32[np.ndarray, "_ D"]:
    """The mean row of each clip that has rows."""
    indices = with_rows(clips)
    if not indices.size:
        return np.empty((0, clips.values.shape[1]), np.float32)
    # in double precision: float16 rows may be too many to add up in less
    sums = np.add.reduceat(clips.values, clips.offsets[indices], axis=0, dtype=np.float64)
    return (sums / np.diff(clips.offsets)[indices][:, None]).astype(np.float32)


def labels(clips: Clips, column: str) -> list[str]:
    """The label of each clip that has rows.

    Raises:
        UnknownColumn, InputError: there is no such column, or a clip has no label in it.
    """
    if column not in clips.columns:
        raise UnknownColumn(f"no column {column!r}; there are {choices(column, clips.columns)}")
    indices = with_rows(clips)
    cells = [clips.columns[column][i] for i in indices]
    if "" in cells:
        lost = clips.clip_ids[indices[cells.index("")]]
        raise InputError(
            f"clip {lost!r} has no {column} ({cells.count('')} of {len(cells)} have none); "
            "name another column with `label`"
        )
    return cells


def text(value: Any, where: str) -> str:
    """A name as text, be it given as text, bytes or a number.

    Raises:
        InputError: neither text nor a number.
    """
    if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, (bytes, bytearray)):
        try:
            return bytes(value).decode("utf-8").strip()
        except UnicodeDecodeError:
            raise InputError(f"{where} has the name {bytes(value)[:40]!r}, not UTF-8") from None
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 128:
        return str(value)
    raise InputError(f"{where} has a {type(value).__name__} where a name belongs")


def cell(value: Any, where: str) -> str:
    """A cell of a manifest, of text, bytes, a number, a truth value or a time; empty if unknown.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(value, np.floating):
        value = float(str(value))  # as short as its own precision has it
    elif isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _WHOLE else repr(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    return text(value, where)


def cells(array: np.ndarray, where: str) -> list[str]:
    """The cells of a column, of an array of a kind among `CELL_KINDS` or of objects.

    Raises:
        InputError: an object that is no cell, or text that is none.
    """
    if array.dtype.kind == "M":
        times = np.datetime_as_string(array).tolist()
        return ["" if time == "NaT" else str(time) for time in times]
    try:
        return [
            cell(item, where) for item in (array if array.dtype.kind == "f" else array.tolist())
        ]
    except ValueError as error:  # no such character
        raise InputError(f"{where} holds text that is none ({error})") from None


def label_cells(items: Sequence[Any] | np.ndarray, where: str) -> list[str]:
    """The class of each item, which is a name or a whole number.

    Raises:
        InputError: a number that is none, or a fraction.
    """
    for item in items if not isinstance(items, np.ndarray) or items.dtype.kind in "fO" else ():
        if isinstance(item, (float, np.floating)) and not float(item).is_integer():
            raise InputError(
                f"{where} has the label {float(item):g}, which is no class: "
                "labels are names or whole numbers"
            )
    if isinstance(items, np.ndarray):
        return cells(items, where)
    return [cell(item, where) for item in items]


def matrix(rows: np.ndarray, where: str) -> Float[np.ndarray, "N D"]:
    """The array, if it is rows of numbers; whole numbers become float64.

    Raises:
        InputError: another number of axes, or no numbers.
    """
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not 1 <= rows.shape[1] <= MAX_DIM:
        raise InputError(f"{where} is {rows.dtype}{list(rows.shape)}, not rows of numbers")
    return rows if rows.dtype.kind == "f" else rows.astype(np.float64)


def spaced(counts: Int64[np.ndarray, "V"], step_seconds: float) -> Int32[np.ndarray, "_"]:
    """Times of rows that follow each other at a fixed step from each clip's beginning.

    Raises:
        InputError: the last one is beyond what a store holds, 24 days.
    """
    if (counts.max(initial=0) + 1) * 1000 * step_seconds > np.iinfo(np.int32).max:
        raise InputError(
            f"{counts.max()} rows, one each {step_seconds:g} s, are longer than 24 days"
        )
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.round((np.arange(counts.sum()) - first) * (1000 * step_seconds)).astype(np.int32)


def ends(counts: Int64[np.ndarray, "V"]) -> Int64[np.ndarray, "_"]:
    """Offsets of clips with these numbers of rows."""
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def gathered(
    names: Sequence[str],
    values: Shaped[np.ndarray, "N D"],
    columns: Mapping[str, Sequence[str]],
    where: str,
    *,
    step_seconds: float = 1.0,
    perhaps: Mapping[str, Sequence[str]] = MappingProxyType({}),
    left_out: list[str] | None = None,
) -> Clips:
    """Clips of rows that have a name each: rows of one name become one clip, in order of first row.

    Columns that `perhaps` say something of a clip and not of its rows are left out, and named in
    `left_out`, where they differ within one.

    Raises:
        InputError: numbers of names and rows differ, or rows of a clip have unlike labels.
    """
    if len(names) != len(values):
        raise InputError(f"{where} has {len(names)} names for {len(values)} rows")
    values = matrix(values, where)
    number_of: dict[str, int] = {}
    clip_of_row = np.array([number_of.setdefault(n, len(number_of)) for n in names], dtype=np.int64)
    order = np.argsort(clip_of_row, kind="stable")
    counts = np.bincount(clip_of_row, minlength=len(number_of)).astype(np.int64)
    offsets = ends(counts)
    table = {}
    for column, of_row in {**perhaps, **columns}.items():
        table[column] = tuple(of_row[row] for row in order[offsets[:-1]])
        for own, clip in zip(of_row, clip_of_row, strict=True):
            if own == table[column][clip]:
                continue
            if column in columns:
                raise InputError(
                    f"{where}: clip {names[order[offsets[clip]]]!r} has the {column} "
                    f"{table[column][clip]!r} and {own!r}"
                )
            del table[column]
            if left_out is not None:
                left_out.append(f"{column} (differs between the rows of a clip)")
            break
    return Clips(
        clip_ids=tuple(number_of),
        values=values[order],
        offsets=offsets,
        row_time_ms=spaced(counts, step_seconds),
        status=np.full(len(number_of), Status.OK, np.uint8),
        columns=table,
    )


def slices(total: int, size: int = UNIT_CLIPS) -> Iterator[slice]:
    """Slices of `size` that cover `total` items."""
    for start in range(0, total, size):
        yield slice(start, min(total, start + size))
