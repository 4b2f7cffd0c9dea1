"""What another store's unit says of clips that this store has rows of already.

Shapes: n = clips of the unit, R = rows of some of them, D = embedding size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float16, Int32, Int64

from store.features.feature import Feature
from store.features.packed import offsets_of
from store.parts.part import Part
from store.parts.unit_rows import UnitRows

_BLOCK_CLIPS = 1024  # compared at once, which bounds memory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlap:
    """The clips of a unit that have rows in both stores, and those with other rows."""

    known: Bool[np.ndarray, "n"]  # this store has the clip, with rows or without
    rows_here: Bool[np.ndarray, "n"]
    differing: Bool[np.ndarray, "n"]  # it has rows in both, and they are not the same
    taken_over: Bool[np.ndarray, "n"]  # of these, readers would take the unit's, were it copied


def overlap(here: Feature, part: Part) -> Overlap:
    """Compare a part of another store with the rows of its clips here, bit by bit.

    Raises:
        DamagedStore: rows of either cannot be read.
    """
    located = here.locate(part.clip_ids)
    rows_here = located.rows > 0
    both = np.flatnonzero(rows_here & (part.row_count > 0))
    differing = np.zeros(len(rows_here), dtype=bool)
    for first in range(0, len(both), _BLOCK_CLIPS):
        block = both[first : first + _BLOCK_CLIPS]
        differing[block] = _differ(here, part, block)
    sooner = np.zeros_like(differing)  # with rows in both, the smallest name speaks for the clip
    names = here.part_names
    for index in np.flatnonzero(differing).tolist():
        sooner[index] = part.record.part < names[int(located.part[index])]
    return Overlap(
        known=located.part >= 0, rows_here=rows_here, differing=differing, taken_over=sooner
    )


def _differ(here: Feature, part: Part, clips: Int64[np.ndarray, "V"]) -> Bool[np.ndarray, "V"]:
    clip_ids = [part.clip_ids[i] for i in clips.tolist()]
    ours, offsets = here.read(clip_ids)
    our_times = here.read_times(clip_ids)
    theirs, their_times = _rows_of(part, clips)
    counts = np.diff(offsets)
    their_counts = part.row_count[clips]
    their_offsets = offsets_of(their_counts)
    differ = counts != their_counts
    for i in np.flatnonzero(~differ).tolist():
        mine, other = slice(*offsets[i : i + 2]), slice(*their_offsets[i : i + 2])
        same = np.array_equal(ours[mine].view(np.uint16), theirs[other].view(np.uint16))
        differ[i] = not (same and np.array_equal(our_times[mine], their_times[other]))
    return differ


def _rows_of(
    part: Part, clips: Int64[np.ndarray, "V"]
) -> tuple[Float16[np.ndarray, "R D"], Int32[np.ndarray, "R"]]:
    """Values and times of the rows of some clips, in that order."""
    spans = _spans(part, clips)
    values = np.concatenate(
        [np.empty((0, part.record.dim), np.float16), *(part.rows(*span) for span in spans)]
    )
    times = [part.row_time_ms[start:stop] for start, stop in spans]
    return values, np.concatenate([np.empty(0, np.int32), *times])


def _spans(part: Part, clips: Int64[np.ndarray, "V"]) -> list[tuple[int, int]]:
    """First row and end of each of the clips; neighbours are one span."""
    spans: list[tuple[int, int]] = []
    for i in clips.tolist():
        start, stop = int(part.row_start[i]), int(part.row_start[i] + part.row_count[i])
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], stop)
        elif stop > start:
            spans.append((start, stop))
    return spans


def rows_of(part: Part, clips: Sequence[int]) -> UnitRows:
    """Some clips of a part, as a unit that may be committed elsewhere."""
    index = np.asarray(clips, dtype=np.int64)
    values, times = _rows_of(part, index)
    return UnitRows(
        clip_ids=tuple(part.clip_ids[i] for i in index.tolist()),
        values=values,
        row_time_ms=times,
        row_count=part.row_count[index].astype(np.uint16),
        status=part.status[index],
        media_sha256=part.media_sha256[index],
        detail=tuple(part.details[i] for i in index.tolist()),
    )
