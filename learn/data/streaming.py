"""Rows of more clips than memory is meant for: a window of them at a time, the next one on its way.

`Streamed` answers what `learn.data.rows.Rows` answers; which clips are in the window decides only
how fast. The order of an epoch (`learn/data/batching.py`) follows the windows.

Shapes: V = clips, R = rows, D = stored size, B = clips of a batch, W = clips of a window.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from learn.data.rows import Padded, Rows, load_rows
from store.features.streaming import cut

if TYPE_CHECKING:
    from store import Feature

BLOCKS = 16  # blocks of neighbours on the disk that fill the memory allowed
AT_ONCE = BLOCKS // 2  # blocks of a window: the other half of the memory is for the next one
_READER = ThreadPoolExecutor(1, thread_name_prefix="rows")


@dataclass(slots=True, kw_only=True, eq=False)
class Streamed:
    """The rows of one modality, read from the store a window of clips at a time."""

    feature: "Feature"
    ids: Sequence[str]
    counts: Int64[Tensor, "V"]
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)
    bytes_at_once: int
    _held: "_Window | None" = field(default=None, init=False)
    _coming: "tuple[Int64[np.ndarray, 'W'], Future[_Window]] | None" = field(
        default=None, init=False
    )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """The size of a row."""
        return self.feature.dim

    @property
    def valid(self) -> Bool[np.ndarray, "V"]:
        """A mask of the clips that have rows."""
        return self.counts.numpy() > 0

    def to(self, device: torch.device) -> "Streamed":
        """The same rows, to arrive on that device."""
        return Streamed(
            feature=self.feature, ids=self.ids, counts=self.counts, device=device,
            bytes_at_once=self.bytes_at_once,
        )  # fmt: skip

    def hold(
        self, indices: Int64[np.ndarray, "W"], then: Int64[np.ndarray, "_"] | None = None
    ) -> None:
        """Have these clips in memory, and begin to bring those that will be asked for next."""
        coming, self._held = self._coming, None
        self._coming = None
        if coming is not None and np.array_equal(coming[0], indices):
            self._held = coming[1].result()
        else:
            self._held = self._window(indices)
        if then is not None:
            self._coming = then, _READER.submit(self._window, then)

    def padded(self, indices: Int64[Tensor, "B"]) -> Padded:
        """Rows, mask and times of these clips; those outside the window are read anew."""
        wanted = indices.cpu().numpy()
        window = self._held
        if window is None or (window.position_of[wanted] < 0).any():
            window = self._window(np.unique(wanted))
        return window.rows.padded(torch.from_numpy(window.position_of[wanted]))

    def means(self) -> Float32[Tensor, "V D"]:
        """The mean of each clip's rows; zero for a clip without any."""
        means = torch.zeros(len(self), self.dim, device=self.device)
        for indices, window in self._stretches():
            means[torch.from_numpy(indices).to(self.device)] = window.rows.means()
        return means

    def chunks(self) -> Iterator[Tensor]:
        """All rows, [R D] at a time."""
        for _, window in self._stretches():
            yield from window.rows.chunks()

    def pieces(self) -> Iterator[tuple[Int64[Tensor, "B"], Padded]]:
        """All clips once, some at a time: their positions, and their rows."""
        for indices, window in self._stretches():
            for within, rows in window.rows.pieces():
                yield torch.from_numpy(indices)[within], rows

    def _stretches(self) -> Iterator[tuple[Int64[np.ndarray, "W"], "_Window"]]:
        """All clips in the order of the disk, a stretch in memory and the next one on its way."""
        order = disk_order(self.feature, self.ids)
        sizes = row_bytes(self.feature) * self.counts.numpy()[order]
        stretches = list(cut(order, sizes, self.bytes_at_once))
        coming = [_READER.submit(self._window, indices) for indices in stretches[:1]]
        for i, indices in enumerate(stretches):
            window = coming.pop().result()
            coming += [_READER.submit(self._window, then) for then in stretches[i + 1 : i + 2]]
            yield indices, window

    def _window(self, indices: Int64[np.ndarray, "W"]) -> "_Window":
        rows = load_rows(self.feature, [self.ids[i] for i in indices.tolist()])
        position_of = np.full(len(self), -1, np.int64)
        position_of[indices] = np.arange(len(indices))
        return _Window(position_of=position_of, rows=rows.to(self.device))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Window:
    position_of: Int64[np.ndarray, "V"]  # each clip's position in `rows`, or -1
    rows: Rows


Stored = Rows | Streamed


def row_bytes(feature: "Feature") -> int:
    """Bytes of a row and its time, as `Rows` holds them."""
    return feature.dim * feature.dtype.itemsize + 4


def disk_order(feature: "Feature", ids: Sequence[str]) -> Int64[np.ndarray, "V"]:
    """Indices of the clips, in the order in which the store has them."""
    location = feature.locate(ids)
    return np.lexsort((location.start, location.part))


def blocks_of(
    features: Mapping[str, "Feature"], counts: Mapping[str, Int64[np.ndarray, "V"]],
    ids: Sequence[str], memory: int,
) -> list[Int64[np.ndarray, "_"]]:  # fmt: skip
    """All clips in blocks of neighbours on the disk, each a share of the memory."""
    sizes = sum(row_bytes(features[m]) * counts[m] for m in features)
    heaviest = max(features, key=lambda m: int(counts[m].sum()) * row_bytes(features[m]))
    order = disk_order(features[heaviest], ids)
    return list(cut(order, np.asarray(sizes)[order], max(1, memory // BLOCKS)))
