"""The nearest vectors of a gallery by inner product: exact, or approximate with its recall known.

Equal scores go to the vector that comes first, whatever the index and its rounding: where scores
are closer than rounding can tell, they are computed again, in double precision and one order.

Shapes: G = gallery vectors, Q = queries, D = size of a vector, k = neighbours.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from store import plugins
from store.errors import ConfigError, UnknownSetting, choices

SLACK = 8  # neighbours fetched beyond k, so that ties at the edge are seen
ROUNDING = 2e-6  # more than float32 products of vectors no longer than 1 are off
QUERIES_AT_ONCE = 4096
NUMBERS_AT_ONCE = 4_000_000
RECALL_QUERIES = 500
INDICES = ("exact", "ivf")


class Neighbours(NamedTuple):
    """Best first; an approximate index that found fewer than k fills up with -inf and -1."""

    score: Float32[Tensor, "Q k"]
    place: Int64[Tensor, "Q k"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inverted:
    """`ivf`: k-means cells, of which the nearest few are searched."""

    cells: int = 0  # 0: four times the root of the gallery's size
    probes: int = 16

    def __post_init__(self) -> None:
        if self.cells < 0 or self.probes < 1:
            raise ConfigError(
                f"ivf: cells={self.cells}, probes={self.probes}; at least one of each"
            )


def parse_index(text: str) -> Inverted | None:
    """None for `exact`, otherwise the settings of `ivf:cells=…,probes=…`.

    Raises:
        ConfigError: another word or setting.
    """
    spec = plugins.parse_spec(text)
    if spec.name not in INDICES:
        raise ConfigError(f"no index {spec.name!r}; there are {choices(spec.name, INDICES)}")
    if spec.name == "exact":
        if spec.settings:
            raise UnknownSetting(f"exact has no setting {next(iter(spec.settings))!r}; it has none")
        return None
    return plugins.settle(Inverted, "ivf", spec.settings)


class Gallery:
    """An index over vectors no longer than 1; on a GPU where FAISS finds one."""

    def __init__(self, vectors: Float[Tensor, "G D"], index: Inverted | None = None) -> None:
        import faiss  # seconds, which no other command should pay

        self.vectors = np.ascontiguousarray(vectors.float().cpu().numpy())
        self.exact = index is None
        size, dim = self.vectors.shape
        flat = faiss.IndexFlatIP(dim)
        if index is None:
            built: Any = flat
        else:
            cells = min(index.cells or int(4 * size**0.5), size)
            built = faiss.IndexIVFFlat(flat, dim, cells, faiss.METRIC_INNER_PRODUCT)
            built.cp.min_points_per_centroid = 1
            built.nprobe = min(index.probes, cells)
            built.train(self.vectors)
        if faiss.get_num_gpus():
            self._resources = faiss.StandardGpuResources()
            built = faiss.index_cpu_to_gpu(self._resources, 0, built)
        built.add(self.vectors)
        self._index = built

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: Float[Tensor, "Q D"], k: int) -> Neighbours:
        """The k nearest of each query, or all where there are fewer."""
        k = min(k, len(self))
        whole = np.ascontiguousarray(queries.float().cpu().numpy())
        parts = [
            self._few(whole[first : first + QUERIES_AT_ONCE], k)
            for first in range(0, len(whole), QUERIES_AT_ONCE)
        ]
        nothing = (np.empty((0, k), np.float32), np.empty((0, k), np.int64))
        score, place = (np.concatenate(x) for x in zip(nothing, *parts, strict=True))
        return Neighbours(torch.from_numpy(score), torch.from_numpy(place))

    def recall(self, queries: Float[Tensor, "Q D"], k: int) -> float:
        """The share of true neighbours that `search` finds, over at most 500 of the queries."""
        step = max(1, len(queries) // RECALL_QUERIES)
        some = queries[::step]
        found, true = self.search(some, k).place, by_matmul(self._tensor(), some, k).place
        return float((found[:, :, None] == true[:, None, :]).any(1).double().mean())

    def _tensor(self) -> Float32[Tensor, "G D"]:
        return torch.from_numpy(self.vectors)

    def _few(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        wide = min(len(self), k + SLACK)
        score, place = self._index.search(queries, wide)
        score[place < 0] = -np.inf
        with np.errstate(invalid="ignore"):  # -inf minus -inf, where little was found
            close = score[:, :-1] - score[:, 1:] < ROUNDING
            cut = score[:, k - 1] - score[:, -1] < ROUNDING if wide < len(self) else None
        unsure = np.zeros(score.shape, bool)
        unsure[:, :-1] |= close
        unsure[:, 1:] |= close
        # Pairs beyond k matter only where a run of equals crosses it, and such a run is all close.
        rows = np.flatnonzero(close[:, :k].any(1))
        if len(rows):
            score[rows], place[rows] = self._again(
                queries[rows], score[rows], place[rows], unsure[rows]
            )
        if cut is not None and self.exact:
            # More ties than were fetched: every vector is looked at.
            everything = np.arange(len(self))[None]
            for row in np.flatnonzero(cut):
                nothing = np.zeros(everything.shape, np.float32)
                found = self._again(
                    queries[row : row + 1], nothing, everything, np.ones(everything.shape, bool)
                )
                score[row], place[row] = (one[0, :wide] for one in found)
        return score[:, :k], place[:, :k]

    def _again(
        self, queries: np.ndarray, score: np.ndarray, place: np.ndarray, unsure: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """These places in order, the unsure ones by products that equal vectors have equal."""
        exact = score.astype(np.float64)
        row, column = np.nonzero(unsure & (place >= 0))
        step = max(1, NUMBERS_AT_ONCE // queries.shape[1])
        for first in range(0, len(row), step):
            r, c = row[first : first + step], column[first : first + step]
            exact[r, c] = _products(queries[r], self.vectors[place[r, c]])
        order = np.lexsort((place, -exact), axis=-1)
        ranked = np.take_along_axis(exact, order, 1).astype(np.float32)
        return ranked, np.take_along_axis(place, order, 1)


def _products(query: np.ndarray, found: np.ndarray) -> Float64[np.ndarray, "n"]:
    """Not a matrix product, whose columns may be summed in different orders."""
    products: np.ndarray = (found.astype(np.float64) * query).sum(-1)
    return products


def by_matmul(vectors: Float[Tensor, "G D"], queries: Float[Tensor, "Q D"], k: int) -> Neighbours:
    """The obvious way: all products, sorted."""
    k = min(k, len(vectors))
    found = []
    for some in torch.split(queries, 512):
        score, place = (some.double() @ vectors.double().T).sort(descending=True, stable=True)
        found.append((score[:, :k].float(), place[:, :k]))
    score, place = (torch.cat(part) for part in zip(*found, strict=True))
    return Neighbours(score, place)
