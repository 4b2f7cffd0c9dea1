"""Clips as arrays in memory: their rows packed one after the other, or padded to one length.

Shapes: V = clips, N = rows of all clips, T = rows of a padded clip, D = embedding size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float16, Int, Int32, Int64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Padded:
    """Every clip as long as the longest; `mask` says which rows are real, the others are zero."""

    clip_ids: tuple[str, ...]
    values: Float16[np.ndarray, "V T D"]
    mask: Bool[np.ndarray, "V T"]
    time_ms: Int32[np.ndarray, "V T"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """Rows of clip after clip; clip i has rows `offsets[i]` to `offsets[i + 1]`, maybe none.

    Raises:
        ValueError: arrays that do not fit together.
    """

    clip_ids: tuple[str, ...]
    values: Float16[np.ndarray, "N D"]
    offsets: Int64[np.ndarray, "V_plus_1"]
    time_ms: Int32[np.ndarray, "N"]

    def __post_init__(self) -> None:
        rows = len(self.values)
        if len(self.offsets) != len(self.clip_ids) + 1 or len(self.time_ms) != rows:
            raise ValueError(f"{len(self.clip_ids)} clips, {rows} rows: lengths do not fit")
        if self.offsets[0] != 0 or self.offsets[-1] != rows or (self.counts < 0).any():
            raise ValueError(f"offsets do not cover {rows} rows")

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def counts(self) -> Int64[np.ndarray, "V"]:
        """Rows of each clip."""
        return np.diff(self.offsets)

    @property
    def mask(self) -> Bool[np.ndarray, "V"]:
        """True for clips that have rows."""
        return self.counts > 0

    def take(self, indices: Int[np.ndarray, "B"] | Sequence[int]) -> "Packed":
        """These clips in that order, copied."""
        indices = np.asarray(indices, np.int64)
        counts = self.counts[indices]
        offsets = offsets_of(counts)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[indices] - offsets[:-1], counts)
        return Packed(
            clip_ids=tuple(self.clip_ids[i] for i in indices.tolist()),
            values=self.values[rows],
            offsets=offsets,
            time_ms=self.time_ms[rows],
        )

    def padded(self, rows: int = 0) -> Padded:
        """All clips at the length of the longest, or at `rows` if that is more."""
        counts = self.counts
        longest = max(rows, int(counts.max(initial=0)))
        mask = np.arange(longest) < counts[:, None]
        values = np.zeros((len(self), longest, self.values.shape[1]), dtype=self.values.dtype)
        times = np.zeros((len(self), longest), dtype=np.int32)
        values[mask], times[mask] = self.values, self.time_ms
        return Padded(clip_ids=self.clip_ids, values=values, mask=mask, time_ms=times)


def offsets_of(counts: Int[np.ndarray, "V"]) -> Int64[np.ndarray, "V_plus_1"]:
    """The first row of each clip, from their numbers of rows, and the end of the last."""
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
