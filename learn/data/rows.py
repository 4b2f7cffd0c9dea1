"""The stored rows of clips, in memory.

Shapes: V = clips, R = rows of all clips, D = stored size, B = clips of a batch, T = rows (padded).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32, Int, Int64
from torch import Tensor

from learn.data.devices import sent
from learn.data.features import MODALITIES as MODALITIES
from learn.data.features import choose_feature as choose_feature

if TYPE_CHECKING:
    from store import Feature

CLIPS_AT_ONCE = 512
ROWS_AT_ONCE = 8192


class Padded(NamedTuple):
    """The rows of a batch of clips; `mask` is false where there is padding."""

    rows: Float32[Tensor, "B T D"]
    mask: Bool[Tensor, "B T"]
    seconds: Float32[Tensor, "B T"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """The stored rows of one modality, clip after clip; a clip may have none.

    Raises:
        ValueError: offsets that do not fit the rows.
    """

    values: Float16[Tensor, "R D"]
    offsets: Int64[Tensor, "V_plus_1"]
    seconds: Float32[Tensor, "R"]
    # In memory wherever the rows are: how long a batch is must not be asked of a GPU. Made here.
    lengths: Int64[Tensor, "V"] | None = None

    def __post_init__(self) -> None:
        if self.lengths is not None:
            return  # they were made of rows that were looked at
        counts = self.offsets.diff()
        object.__setattr__(self, "lengths", counts.cpu())
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.values) or bool((counts < 0).any()):
            raise ValueError(f"offsets do not cover {len(self.values)} rows")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """The size of a row."""
        return self.values.shape[1]

    @property
    def device(self) -> torch.device:
        """The device that holds the rows."""
        return self.values.device

    @property
    def counts(self) -> Int64[Tensor, "V"]:
        """The number of rows of each clip, on the CPU."""
        assert self.lengths is not None
        return self.lengths

    @property
    def valid(self) -> Bool[np.ndarray, "V"]:
        """A mask of the clips that have rows."""
        return self.counts.numpy() > 0

    def padded(self, indices: Int[Tensor, "B"]) -> Padded:
        """Rows, mask and times of these clips; padding is zero. Give `indices` on the CPU: others
        have to be waited for.
        """
        indices, device = indices.cpu(), self.device
        count = self.counts[indices]
        longest = max(1, int(count.max()))
        whole = bool((count == longest).all())
        start, count = self.offsets[sent(indices, device)], sent(count, device)
        step = torch.arange(longest, device=device)
        mask = step < count[:, None]
        row = torch.where(mask, start[:, None] + step, 0)
        if not len(self.values):  # no clip has any: there is no row 0 to stand for padding
            zeros = torch.zeros(*mask.shape, self.dim, device=self.values.device)
            return Padded(zeros, mask, torch.zeros_like(zeros[..., 0]))
        rows = self.values.index_select(0, row.view(-1)).float().view(*row.shape, self.dim)
        if not whole:
            rows.mul_(mask[..., None])
        return Padded(rows, mask, self.seconds[row] * mask)

    def pieces(self) -> Iterator[tuple[Int64[Tensor, "B"], Padded]]:
        """All clips once, some at a time: their positions, and their rows."""
        for indices in torch.split(torch.arange(len(self)), CLIPS_AT_ONCE):
            yield indices, self.padded(indices)

    def to(self, device: torch.device) -> "Rows":
        """The same rows on that device."""
        return Rows(
            values=self.values.to(device),
            offsets=self.offsets.to(device),
            seconds=self.seconds.to(device),
            lengths=self.lengths,
        )

    def means(self) -> Float32[Tensor, "V D"]:
        """The mean of each clip's rows; zero for a clip without any."""
        counts, device = self.counts, self.device
        means = torch.zeros(len(self), self.dim, device=device)
        first = 0
        for start in range(0, len(self), CLIPS_AT_ONCE):
            chunk_counts = counts[start : start + CLIPS_AT_ONCE]
            stop = first + int(chunk_counts.sum())
            rows = self.values[first:stop].float()
            clip = sent(torch.repeat_interleave(chunk_counts), device)
            means[start : start + len(chunk_counts)].index_add_(0, clip, rows)
            first = stop
        return means / sent(counts, device).clamp_min(1)[:, None]

    def chunks(self) -> Iterator[Float16[Tensor, "_ D"]]:
        """All rows, at most `ROWS_AT_ONCE` at a time."""
        return iter(torch.split(self.values, ROWS_AT_ONCE))

    def keep(self, wanted: Bool[np.ndarray, "V"]) -> "Rows":
        """The rows of only these clips."""
        of_clip = torch.from_numpy(wanted)
        of_row = of_clip.repeat_interleave(self.counts)
        counts = self.counts[of_clip]
        return Rows(
            values=self.values[of_row],
            offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
            seconds=self.seconds[of_row],
        )


def concatenated(parts: Sequence[Rows]) -> Rows:
    """The rows of several sets of clips, one after the other."""
    counts = torch.cat([part.offsets.diff() for part in parts])
    return Rows(
        values=torch.cat([part.values for part in parts]),
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        seconds=torch.cat([part.seconds for part in parts]),
    )


def load_rows(feature: "Feature", ids: Sequence[str]) -> Rows:
    """The rows of these clips; clips that failed or were never extracted have none."""
    packed = feature.packed(ids)
    return Rows(
        values=torch.from_numpy(packed.values),
        offsets=torch.from_numpy(packed.offsets),
        seconds=torch.from_numpy((packed.time_ms / 1000).astype(np.float32)),
    )
