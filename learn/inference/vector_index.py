"""The nearest of many vectors by inner product: exact, or approximate with its recall known.

Equal scores go to the vector that comes first, whatever the index and its rounding: where scores
are closer than rounding can tell, they are computed again, in double precision and one order.

Shapes: G = vectors of the index, Q = queries, D = size of a vector, k = neighbours.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from learn.data.devices import CPU
from learn.inference.settings import Inverted as Inverted
from learn.inference.settings import parse_index as parse_index

SLACK = 2  # neighbours fetched beyond k, so that ties at the edge are seen
MORE_SLACK = 8  # where there are some, or where all vectors cannot be looked at
ROUNDING = 2e-6  # more than float32 products of vectors no longer than 1 are off
QUERIES_AT_ONCE = 4096
NUMBERS_AT_ONCE = 4_000_000
RECALL_QUERIES = 500
MOST_ON_GPU = 2048  # neighbours, and cells searched: FAISS's kernels have no more


class Neighbours(NamedTuple):
    """The nearest vectors of each query, best first; an approximate index that finds fewer than k
    fills up with -inf and -1."""

    scores: Float32[Tensor, "Q k"]
    indices: Int64[Tensor, "Q k"]


@cache
def _gpu_resources(number: int) -> Any:
    """FAISS's scratch memory on a GPU: more than a GiB, so that all indices share it."""
    import faiss

    return faiss.StandardGpuResources()


class VectorIndex:
    """Vectors no longer than 1, to be searched; on a GPU where one is asked for, FAISS has one, and
    the index fits it. `note` says why not, if so.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "G D"],
        inverted: Inverted | None = None,
        device: torch.device = CPU,
    ) -> None:
        import faiss  # seconds, which no other command should pay

        self.note = ""
        self.vectors = np.ascontiguousarray(vectors.float().cpu().numpy())
        self.exact = inverted is None
        size, dim = self.vectors.shape
        flat = faiss.IndexFlatIP(dim)
        self._cells, self._probes = flat, 0
        if inverted is None:
            built: Any = flat
        else:
            cells = min(inverted.cells or int(4 * size**0.5), size)
            built = faiss.IndexIVFFlat(flat, dim, cells, faiss.METRIC_INNER_PRODUCT)
            built.cp.min_points_per_centroid = 1
            built.nprobe = self._probes = min(inverted.probes, cells)
            built.train(self.vectors)
        self._built: Any = built
        self._filled = False
        self._on_gpu = self._copied(device) if device.type == "cuda" else None

    def _copied(self, device: torch.device) -> Any:
        """The index on that GPU, or nothing where FAISS cannot have it there."""
        import faiss

        number = device.index or 0
        if number >= faiss.get_num_gpus():
            self.note = "this FAISS has no GPU"
            return None
        try:
            built = faiss.index_cpu_to_gpu(_gpu_resources(number), number, self._built)
            built.add(self.vectors)
        except RuntimeError as error:  # too large for its memory
            self.note = f"the GPU does not take the index ({str(error).strip().splitlines()[-1]})"
            return None
        return built

    def _found(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self._on_gpu is not None and max(k, self._probes) <= MOST_ON_GPU:
            try:
                scores, indices = self._on_gpu.search(queries, k)
            except RuntimeError as error:
                self.note = f"the GPU gave up ({str(error).strip().splitlines()[-1]})"
                self._on_gpu = None
            else:
                return scores, indices
        if not self._filled:  # only once it is needed: it is a copy of all vectors
            self._built.add(self.vectors)
            self._filled = True
        scores, indices = self._built.search(queries, k)
        return scores, indices

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: Float[Tensor, "Q D"], k: int) -> Neighbours:
        """The k nearest of each query, or all where there are fewer."""
        k = min(k, len(self))
        whole = np.ascontiguousarray(queries.float().cpu().numpy())
        slack = SLACK if self.exact else MORE_SLACK
        chunks = [
            self._search_chunk(whole[first : first + QUERIES_AT_ONCE], k, slack)
            for first in range(0, len(whole), QUERIES_AT_ONCE)
        ]
        nothing = (np.empty((0, k), np.float32), np.empty((0, k), np.int64))
        scores, indices = (np.concatenate(x) for x in zip(nothing, *chunks, strict=True))
        return Neighbours(torch.from_numpy(scores), torch.from_numpy(indices))

    def probes(
        self,
        queries: Float[Tensor, "Q D"],
        vectors: Float[Tensor, "Q D"],
        stood: Int64[Tensor, "Q"],
    ) -> Bool[Tensor, "Q"]:
        """Whether each query would look into the cell of a vector that took the place of another.

        `stood` says of which. Its cell's centre moves along: in a cell of few it is much of it.
        """
        if self.exact:
            return torch.ones(len(queries), dtype=torch.bool)
        every, cells = torch.from_numpy(self.vectors), self._cells
        centres = torch.from_numpy(cells.reconstruct_n(0, cells.ntotal))
        cell = torch.from_numpy(cells.search(self.vectors, 1)[1][:, 0])
        sums = torch.zeros_like(centres).index_add_(0, cell, every)
        moved = F.normalize(sums[cell[stood]] - every[stood] + vectors.float(), dim=-1)
        products = queries.float() @ centres.T
        products.scatter_(1, cell[stood][:, None], -torch.inf)
        own = (queries.float() * moved).sum(-1, keepdim=True)
        return (products > own).sum(1) < self._probes

    def recall(self, queries: Float[Tensor, "Q D"], k: int) -> float:
        """The share of true neighbours that `search` finds, over at most 500 of the queries."""
        sample = queries[:: max(1, len(queries) // RECALL_QUERIES)]
        searched = self.search(sample, k).indices
        true = by_matmul(torch.from_numpy(self.vectors), sample, k).indices
        return float((searched[:, :, None] == true[:, None, :]).any(1).double().mean())

    def _search_chunk(
        self, queries: np.ndarray, k: int, slack: int
    ) -> tuple[np.ndarray, np.ndarray]:
        wide = min(len(self), k + slack)
        scores, indices = self._found(queries, wide)
        scores[indices < 0] = -np.inf
        with np.errstate(invalid="ignore"):  # -inf minus -inf, where little was found
            close = scores[:, :-1] - scores[:, 1:] < ROUNDING
            cut = scores[:, k - 1] - scores[:, -1] < ROUNDING if wide < len(self) else None
        unsure = np.zeros(scores.shape, bool)
        unsure[:, :-1] |= close
        unsure[:, 1:] |= close
        # Pairs beyond k matter only where a run of equals crosses it, and such a run is all close.
        rows = np.flatnonzero(close[:, :k].any(1))
        if len(rows):
            scores[rows], indices[rows] = self._rank(
                queries[rows], scores[rows], indices[rows], unsure[rows]
            )
        if cut is not None and self.exact:
            # More ties than were fetched: more are, and in the end every vector is looked at.
            rows = np.flatnonzero(cut)
            if slack < MORE_SLACK and len(rows):
                wider = self._search_chunk(queries[rows], k, MORE_SLACK)
                scores[rows, :k], indices[rows, :k] = wider
                rows = rows[:0]
            for row in rows:
                scores[row], indices[row] = self._rank_all(queries[row : row + 1], wide)
        return scores[:, :k], indices[:, :k]

    def _rank_all(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best of all vectors for one query, by exact products."""
        everything = np.arange(len(self))[None]
        unknown = np.zeros(everything.shape, np.float32)
        unsure = np.ones(everything.shape, bool)
        scores, indices = self._rank(query, unknown, everything, unsure)
        return scores[0, :k], indices[0, :k]

    def _rank(
        self, queries: np.ndarray, scores: np.ndarray, indices: np.ndarray, unsure: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The vectors at `indices` best first, the unsure ones by products that are equal for equal
        vectors."""
        exact = scores.astype(np.float64)
        row, column = np.nonzero(unsure & (indices >= 0))
        step = max(1, NUMBERS_AT_ONCE // queries.shape[1])
        for first in range(0, len(row), step):
            r, c = row[first : first + step], column[first : first + step]
            exact[r, c] = _products(queries[r], self.vectors[indices[r, c]])
        order = np.lexsort((indices, -exact), axis=-1)
        ranked = np.take_along_axis(exact, order, 1).astype(np.float32)
        return ranked, np.take_along_axis(indices, order, 1)


def _products(queries: np.ndarray, vectors: np.ndarray) -> Float64[np.ndarray, "n"]:
    """Products row by row: a matrix product may sum its columns in different orders."""
    products: np.ndarray = (vectors.astype(np.float64) * queries).sum(-1)
    return products


def by_matmul(vectors: Float[Tensor, "G D"], queries: Float[Tensor, "Q D"], k: int) -> Neighbours:
    """The reference of `VectorIndex.search`: all products, sorted."""
    k = min(k, len(vectors))
    chunks = []
    for chunk in torch.split(queries, 512):
        scores, indices = (chunk.double() @ vectors.double().T).sort(descending=True, stable=True)
        chunks.append((scores[:, :k].float(), indices[:, :k]))
    return Neighbours(*(torch.cat(x) for x in zip(*chunks, strict=True)))
