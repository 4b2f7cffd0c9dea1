"""Formats: other people's files of features, read into and written from one data model.

Shapes: V = clips, N = their rows, D = embedding size.

A format knows nothing of stores, and the store nothing of formats: `store.exchange.exchange`
carries tracks between them. Each plug-in offers `Config` and `build(config)`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int32, Int64, UInt8

from store.errors import InputError
from store.names import clip_id_fault
from store.status import STORED, Status

MAX_ROWS = 65535  # of one clip
MAX_DIM = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clips:
    """Some clips of one feature: rows packed in clip order, and what is known of each clip.

    Raises:
        InputError: anything that does not fit together; it may come from anybody's file.
    """

    clip_ids: tuple[str, ...]
    values: Float[np.ndarray, "N D"]
    offsets: Int64[np.ndarray, "V_plus_1"]
    row_time_ms: Int32[np.ndarray, "N"]
    status: UInt8[np.ndarray, "V"]
    columns: Mapping[str, tuple[str, ...]]  # of a manifest; an empty cell is unknown

    def __post_init__(self) -> None:
        clips, rows = len(self.clip_ids), len(self.values)
        if len(self.offsets) != clips + 1 or len(self.status) != clips:
            raise InputError(f"{clips} clip ids, {len(self.offsets)} offsets for them")
        counts = np.diff(self.offsets)
        if self.offsets[0] != 0 or self.offsets[-1] != rows or (counts < 0).any():
            raise InputError(f"offsets do not divide {rows} rows")
        if counts.max(initial=0) > MAX_ROWS:
            raise InputError(f"a clip has {counts.max()} rows; at most {MAX_ROWS} fit")
        if len(self.row_time_ms) != rows or not 1 <= self.values.shape[1] <= MAX_DIM:
            raise InputError(f"{len(self.row_time_ms)} times for rows {list(self.values.shape)}")
        for clip_id in self.clip_ids:
            if fault := clip_id_fault(clip_id):
                raise InputError(f"clip id {clip_id[:80]!r} {fault}")
        if wrong := [name for name, cells in self.columns.items() if len(cells) != clips]:
            raise InputError(f"column {wrong[0]!r} has another length than the {clips} clips")
        self._check_status(counts)

    def _check_status(self, counts: Int64[np.ndarray, "V"]) -> None:
        if not np.isin(self.status, STORED).all():
            raise InputError(f"status {self.status.max()} does not exist")
        has_rows = np.isin(self.status, (Status.OK, Status.PARTIAL))
        if (wrong := np.flatnonzero(has_rows != (counts > 0))).size:
            i = wrong[0]
            kind = Status(int(self.status[i])).kind
            raise InputError(f"clip {self.clip_ids[i]!r} is {kind} with {counts[i]} rows")
        clip_of_row = np.repeat(np.arange(len(counts)), counts)
        falls = (np.diff(self.row_time_ms) < 0) & (np.diff(clip_of_row) == 0)
        if falls.any():
            clip_id = self.clip_ids[clip_of_row[np.flatnonzero(falls)[0]]]
            raise InputError(f"the row times of clip {clip_id!r} go backwards")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """One feature on its way in or out; `clips()` gives each clip once, in blocks."""

    name: str
    modality: str
    dim: int
    clips: Callable[[], Iterator[Clips]]
    known: Mapping[str, Any] = field(default_factory=dict)  # of its origin, as JSON
    files: tuple[Path, ...] = ()  # that it is read from
    left_out: list[str] = field(default_factory=list)  # arrays and columns; whole once it is read


@runtime_checkable
class Format(Protocol):
    """A writer and a reader of one kind of file.

    `keeps` says what survives being written and read again, besides each clip's label: `rows` (all;
    else their mean), `times`, `status` (clips without rows), `clip_ids`, `split`, `columns` (all),
    `features` (several at once).
    """

    keeps: frozenset[str]

    def write(self, tracks: Sequence[Track], target: Path, *, label: str) -> int:
        """Write a new file or directory; returns how many clips of the tracks are in it.

        Raises:
            InputError: a clip cannot be written in this format.
        """

    def read(self, source: Path, *, trust_pickle: bool) -> Sequence[Track]:
        """The tracks in a file or directory.

        Raises:
            InputError: it is not of this format; also while the clips are read.
        """
