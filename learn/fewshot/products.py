"""Inner products of an episode's clips: looked up in a table of all clips, or made as they come.

A table costs a product of every two clips once. Without one the vectors of an episode (on a GPU, of
many) are gathered into rows that stay in the processor's cache, and multiplied there. Both give the
same products up to rounding.

Shapes: V and W = clips as supports and as queries, D = size of a vector, E and e = episodes, S =
support clips, M = queries, N = ways, T = S + M points, P = clips of an episode.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from learn.data.devices import CPU, sent

NUMBERS_GATHERED = 350_000  # on a processor: rows that its caches hold
NUMBERS_ON_GPU = 64_000_000  # fewer leave it idle between its kernels
ROWS_AT_ONCE = 512  # squared in one call
BYTES_A_NUMBER = 16  # of memory allowed, for each number that is gathered
SMALL = 10**6  # multiplications for which some OpenBLAS has kernels that rearrange nothing first

Embed = Callable[[Float[Tensor, "P D"]], Float[Tensor, "P D"]]
Of = tuple[Float[Tensor, "E _ _"], Float[Tensor, "E M _"], Float[Tensor, "E M"]]


class Table(NamedTuple):
    """Products looked up among those of all clips."""

    among: Float[Tensor, "V V"]  # of a Gram table: of supports and queries, where these differ
    across: Float[Tensor, "V W"]  # supports by queries
    square: Float[Tensor, "W"]  # of queries with themselves
    shift: int  # of a Gram table: where queries begin

    @property
    def device(self) -> torch.device:
        """Where the table is."""
        return self.among.device

    def of_shots(self, support: Int32[Tensor, "E S"]) -> Float[Tensor, "E S S"]:
        """The products of shots with each other."""
        return look_up(self.among, support, support)

    def of(self, support: Int32[Tensor, "E S"], query: Int32[Tensor, "E M"], means: int = 0) -> Of:
        """The products of shots with each other, of queries with shots and with themselves.

        With `means` those of so many classes stand in the place of the shots, for heads that want
        no more of them than their squared lengths and their products with queries.
        """
        across = look_up(self.across, support, query)
        if not means:
            return look_up(self.among, support, support), across.mT, self.square[query]
        of_class = support.reshape(len(support) * means, -1)
        lengths = look_up(self.among, of_class, of_class).mean((1, 2)).view(len(support), means)
        return torch.diag_embed(lengths), _mean_of_classes(across, means).mT, self.square[query]

    def of_points(
        self, support: Int32[Tensor, "E S"], query: Int32[Tensor, "E M"]
    ) -> Float[Tensor, "E T T"]:
        """The products of all points with each other."""
        points = torch.cat([support, query + self.shift], dim=1)
        return look_up(self.among, points, points)


class Met:
    """Products of episodes that other heads, or modes, have asked for, as far as there is room."""

    def __init__(self, room: Callable[[], int]) -> None:
        self.bytes = 0
        self._room = room  # bytes left
        self._blocks: list[tuple[Tensor, Tensor]] = []
        self._at: dict[bytes, tuple[int, int]] = {}  # of an episode: which block, and its place

    def find(self, keys: Sequence[bytes]) -> tuple[Tensor, Tensor] | None:
        """Copies of the products of these episodes, if all are known."""
        if not self._at or not all(key in self._at for key in keys):
            return None
        found: list[tuple[Tensor, Tensor]] = []
        places = [self._at[key] for key in keys]
        runs = groupby(enumerate(places), lambda x: (x[1][0], x[1][1] - x[0]))  # without a break
        for (block, _), run in runs:
            rows = [place for _, (_, place) in run]
            part = slice(rows[0], rows[-1] + 1)
            among, across = self._blocks[block]
            found.append((among[part], across[part]))
        among, across = (torch.cat(parts) for parts in zip(*found, strict=True))
        return among, across

    def keep(self, keys: Sequence[bytes], among: Tensor, across: Tensor) -> None:
        """Remember the products of these episodes, if there is room."""
        numbers = among.numel() + across.numel()
        size = numbers * among.element_size() + sum(map(len, keys))
        if size > self._room():
            return
        self.bytes += size
        self._at.update((key, (len(self._blocks), place)) for place, key in enumerate(keys))
        self._blocks.append((among.clone(), across.clone()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gathered:
    """Products made from the vectors of a few episodes at a time."""

    left: Float[Tensor, "V D"]  # clips as supports
    right: Float[Tensor, "W D"]  # as queries
    numbers: int  # gathered at once
    square: Float[Tensor, "W"] | None = None  # of queries with themselves, where that is known
    embed: tuple[Embed, Embed] | None = None  # of supports and of queries, if they are not yet
    met: Met | None = None  # what others have asked for
    _rows: dict[bool, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self.left.device

    def of_shots(self, support: Int32[Tensor, "E S"]) -> Float[Tensor, "E S S"]:
        """The products of shots with each other."""
        shots = support.shape[1]
        among = self._new(len(support), shots, shots)
        for part in self._parts(len(support), shots):
            x = self._gathered(support[part], query=False)
            _multiply(x, x, among[part])
        return among

    def of(self, support: Int32[Tensor, "E S"], query: Int32[Tensor, "E M"], means: int = 0) -> Of:
        """The products of shots with each other, of queries with shots and with themselves."""
        if self.met is None or self.square is None or self.device.type != "cpu":
            return self._of(support, query, means)
        pairs = zip(support.numpy(), query.numpy(), strict=True)
        keys = [s.tobytes() + b":" + q.tobytes() for s, q in pairs]
        if (known := self.met.find(keys)) is not None:
            among, across = known[0], known[1].mT
            if means:
                among, across = of_means(among, across, means)
            return among, across, self.square[query]
        found = self._of(support, query, means)
        if not means or means == support.shape[1]:
            self.met.keep(keys, found[0], found[1].mT)
        return found

    def _of(self, support: Int32[Tensor, "E S"], query: Int32[Tensor, "E M"], means: int = 0) -> Of:
        if self.device.type == "cpu" and self.square is not None and self.embed is None:
            among, across = self._one_by_one(support, query, means)
            return among, across.mT, self.square[query]
        episodes, queries = query.shape
        compared = means or support.shape[1]
        among = self._new(episodes, compared, compared)
        across = self._new(episodes, compared, queries)  # in the order in which it is summed up
        square = self._new(episodes, queries) if self.square is None else self.square[query]
        for part in self._parts(episodes, support.shape[1] + queries):
            x = self._gathered(support[part], query=False)
            q = self._gathered(query[part], query=True)
            if means and means < support.shape[1]:
                x = x.view(len(x), means, -1, x.shape[-1]).mean(2)
            _multiply(x, x, among[part])
            _multiply(x, q, across[part])
            if self.square is None:
                square[part] = squared_lengths(q)
        return among, across.mT, square

    def _one_by_one(
        self, support: Int32[Tensor, "E S"], query: Int32[Tensor, "E M"], means: int
    ) -> tuple[Float[Tensor, "E A A"], Float[Tensor, "E A M"]]:
        """Products of shots, or class means, with each other and with queries: an episode's rows in
        one piece, which the processor's cache still holds when they are multiplied, at once."""
        queries, shots = query.shape[1], support.shape[1]
        compared = means or shots
        rows = self._new(queries + shots, self.left.shape[1])
        x, y = rows[queries:], rows[: queries + compared]
        products = self._new(len(query), compared, queries + compared)
        left, right, to = x[:compared].numpy(), y.T.numpy(), products.numpy()
        at_once = SMALL // y.numel() if _small_kernels() else compared
        parts = [slice(i, i + max(1, at_once)) for i in range(0, compared, max(1, at_once))]
        for episode in range(len(query)):
            torch.index_select(self.right, 0, query[episode], out=rows[:queries])
            torch.index_select(self.left, 0, support[episode], out=x)
            if compared < shots:
                x[:means] = x.view(means, -1, x.shape[1]).mean(1)
            for part in parts:
                np.matmul(left[part], right, out=to[episode, part])
        return products[..., queries:].contiguous(), products[..., :queries].contiguous()

    def of_points(
        self, support: Int32[Tensor, "E S"], query: Int32[Tensor, "E M"]
    ) -> Float[Tensor, "E T T"]:
        """The products of all points with each other."""
        points = support.shape[1] + query.shape[1]
        gram = self._new(len(support), points, points)
        for part in self._parts(len(support), points):
            sides = self._gathered(support[part], query=False), self._gathered(query[part], True)
            x = torch.cat(sides, 1)
            _multiply(x, x, gram[part])
        return gram

    def _new(self, *shape: int) -> Tensor:
        return self.left.new_empty(shape)

    def _parts(self, episodes: int, clips: int) -> Iterable[slice]:
        size = max(1, self.numbers // (clips * self.left.shape[1]))
        return (slice(first, first + size) for first in range(0, episodes, size))

    def _gathered(self, clips: Int32[Tensor, "e P"], query: bool) -> Float[Tensor, "e P D"]:
        """The clips' vectors, in rows that are written over by the next: new memory would cost more
        than the copy."""
        vectors = self.right if query else self.left
        rows = self._rows.get(query)
        if rows is None or len(rows) < clips.numel():
            rows = self._rows[query] = self._new(clips.numel(), vectors.shape[1])
        found = torch.index_select(vectors, 0, clips.reshape(-1), out=rows[: clips.numel()])
        if self.embed is not None:
            found = self.embed[query](found)
        return found.view(*clips.shape, -1)


Products = Table | Gathered


def _multiply(
    x: Float[Tensor, "e A D"], y: Float[Tensor, "e B D"], out: Float[Tensor, "e A B"]
) -> None:
    """The products of each x with each y. Where processor and library have kernels for small ones,
    a few rows at a time take a third of the time of all at once."""
    rows = SMALL // max(1, y.shape[1] * y.shape[2])
    if x.device.type != "cpu" or not rows or not _small_kernels():
        torch.bmm(x, y.mT, out=out)
        return
    left, right, to = x.numpy(), y.mT.numpy(), out.numpy()
    for first in range(0, x.shape[1], rows):
        part = slice(first, first + rows)
        np.matmul(left[:, part], right, out=to[:, part])


@cache
def _small_kernels() -> bool:
    """Whether numpy's products are OpenBLAS's, on a processor for which that has small kernels."""
    built = np.show_config(mode="dicts")
    name = built["Build Dependencies"]["blas"]["name"]
    found = {"X86_V4", "AVX512_SKX"} & set(built["SIMD Extensions"]["found"])
    return "openblas" in name and bool(found)


def of_means(
    among: Float[Tensor, "E S S"], across: Float[Tensor, "E M S"], ways: int
) -> tuple[Float[Tensor, "E N N"], Float[Tensor, "E M N"]]:
    """The products that class means have, from those of shots: as `of` gives them with `means`."""
    shots = among.shape[1] // ways
    of_class = among.reshape(-1, ways, shots, ways, shots).diagonal(dim1=1, dim2=3)  # E K K N
    lengths = of_class.mean((1, 2))
    return torch.diag_embed(lengths), _mean_of_classes(across.mT, ways).mT


def _mean_of_classes(x: Float[Tensor, "E S _"], ways: int) -> Float[Tensor, "E N _"]:
    """The mean over the shots of each class; as a sum of slices it is faster."""
    by_class = x.reshape(len(x), ways, -1, x.shape[-1])
    return reduce(torch.add, by_class.unbind(2)) / by_class.shape[2]


def squared_lengths(x: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape"]:
    """Squared lengths, without a second copy of everything."""
    parts = [part.square().sum(-1) for part in torch.split(x, ROWS_AT_ONCE)]
    return torch.cat(parts) if parts else x.new_empty(x.shape[:-1])


def index(indices: Int[np.ndarray, "..."], device: torch.device = CPU) -> Int32[Tensor, "..."]:
    """Indices as a tensor: 32 bits are enough, and half the traffic of 64."""
    return sent(torch.from_numpy(np.ascontiguousarray(indices)), device)


def look_up(
    table: Float[Tensor, "V W"], rows: Int32[Tensor, "E A"], columns: Int32[Tensor, "E B"]
) -> Float[Tensor, "E A B"]:
    """The table's entries at these rows and columns: along a row, where they lie side by side."""
    entries = (rows * table.shape[1])[..., None] + columns[:, None]
    return table.view(-1).index_select(0, entries.view(-1)).view(entries.shape)
