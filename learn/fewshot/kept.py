"""What heads, shots and modes of a call have in common: clips as a head embeds them, and the table
of their products, where one pays, or else the products of the episodes that were asked about.

A table is made once all that it is asked for, and was before, would cost more without one.

Shapes: as in `learn.fewshot.products`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, GramHead, ProductHead
from learn.fewshot.modes import Pair
from learn.fewshot.products import (
    BYTES_A_NUMBER,
    NUMBERS_GATHERED,
    NUMBERS_ON_GPU,
    Embed,
    Gathered,
    Met,
    Products,
    Table,
    squared_lengths,
)
from learn.fewshot.tasks import Episodes

# In products of a table: what it costs to fetch one query, and to compare it with one shot.
FETCHED, COMPARED = 32, 4
TABLE_WORTH = FETCHED + 5 * COMPARED  # of a query of 5-way 1-shot episodes
MAX_ENTRIES = 2**31 - 1  # of a table, as its indices have 32 bits
CLIPS_AT_ONCE = 512  # embedded in one call
EMBEDDED_IF = 2  # clips a query, at most: of more the few that are drawn are embedded as they come


def queries_of(draws: Iterable[Episodes]) -> int:
    """How many queries all these episodes ask, counted as those of 5-way 1-shot episodes."""
    wanted = (e.query.size * (FETCHED + COMPARED * e.support[0].size) for e in draws)
    return sum(wanted) // TABLE_WORTH


@dataclass(slots=True, kw_only=True, eq=False)
class _Entry:
    """Clips as a head embeds them, and what came of them."""

    left: Float[Tensor, "V D"]
    right: Float[Tensor, "W D"]  # the same as `left` where supports and queries are
    gram: bool  # is the table, if there is one, of supports and queries together?
    met: Met
    table: Table | None = None
    done: int = 0  # queries answered without a table

    @property
    def bytes(self) -> int:
        """Memory of the vectors, and the table or what stands for it."""
        parts = [self.left, self.right]
        parts += [] if self.table is None else [self.table.among, self.table.across]
        each = {id(part): part for part in parts}.values()
        return self.met.bytes + sum(part.numel() * part.element_size() for part in each)


class Kept:
    """Embedded clips and their tables, the latest of them, for all that one call scores."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []  # the latest at the end

    def products(
        self,
        head: ProductHead | GramHead,
        pair: Pair,
        context: Context,
        *,
        queries: int,
        memory: int,
        senses: int = 1,
        gram: bool = False,
    ) -> Products:
        """The products of these clips: of a table where it fits into half the memory and pays.

        `queries` are those of episodes to come, as `asked` counts them; `senses` share the memory.
        """
        shared = one_side(pair, context)
        sides, half = (1 if shared else 2), memory // 2 // senses
        entries = len(pair.support) ** 2 * (sides**2 if gram else sides)
        vectors = 4 * sides * pair.support.numel()
        wanted = vectors + 4 * entries
        numbers = NUMBERS_GATHERED if pair.support.device.type == "cpu" else NUMBERS_ON_GPU
        gathered = partial(Gathered, numbers=min(numbers, half // BYTES_A_NUMBER))
        few = EMBEDDED_IF * queries < len(pair.support)
        if vectors > half or few:
            return gathered(left=pair.support, right=pair.query, embed=_of_rows(head, context))
        entry = self._known(head, pair, context, gram=gram)
        if entry is None:
            self._make_room(memory // 2 - vectors)
            left, right = embedded(head, pair, context)
            met = Met(lambda: half - sum(known.bytes for known in self._entries) // senses)
            entry = _Entry(left=left, right=right, gram=gram, met=met)
        self._entries.append(entry)
        if entry.table is None:
            worth = TABLE_WORTH * sides**2 * (queries + entry.done)
            if wanted > half or entries > min(worth, MAX_ENTRIES):
                entry.done += queries
                return gathered(
                    left=entry.left,
                    right=entry.right,
                    square=squared_lengths(entry.right),
                    met=entry.met,
                )
            entry.met = Met(lambda: 0)
            self._make_room(memory // 2 - wanted, entry)
            entry.table = _table(entry.left, entry.right, gram=gram)
        return entry.table

    def _known(
        self, head: ProductHead | GramHead, pair: Pair, context: Context, *, gram: bool
    ) -> _Entry | None:
        """The clips as some head embedded them before, if this one does the same; taken out."""
        for entry in self._entries:
            if _same(entry, head, pair, context, gram=gram):
                self._entries.remove(entry)
                return entry
        return None

    def _make_room(self, most: int, besides: _Entry | None = None) -> None:
        """Forget the oldest until the others take no more than this."""
        others = [entry for entry in self._entries if entry is not besides]
        while others and sum(entry.bytes for entry in others) > most:
            self._entries.remove(others.pop(0))


def one_side(pair: Pair, context: Context) -> bool:
    """True if support and query are the same vectors under the same mean."""
    left, right = context.support_mean, context.query_mean
    if pair.support is not pair.query or left is None or right is None:
        return pair.support is pair.query and left is right
    return torch.equal(left, right)


def _same(
    entry: _Entry, head: ProductHead | GramHead, pair: Pair, context: Context, *, gram: bool
) -> bool:
    """Whether the head embeds these clips into the same vectors, to the last bit."""
    shared = one_side(pair, context)
    if shared != (entry.left is entry.right) or (entry.gram != gram and not shared):
        return False
    for x, known in ((pair.support, entry.left), (pair.query, entry.right)):
        if (x.shape, x.dtype, x.device) != (known.shape, known.dtype, known.device):
            return False
    for first in range(0, len(entry.left), CLIPS_AT_ONCE):
        part = slice(first, first + CLIPS_AT_ONCE)
        query = pair.query[part][:0] if shared else pair.query[part]
        left, right = head.embed(pair.support[part], query, context)
        if not torch.equal(left, entry.left[part]):
            return False
        if not shared and not torch.equal(right, entry.right[part]):
            return False
    return True


def embedded(
    head: ProductHead | GramHead, pair: Pair, context: Context
) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
    """Support and query vectors as the head sees them; only once where they are the same."""
    nothing = pair.support[:0]
    left = torch.empty_like(pair.support)
    shared = one_side(pair, context)
    right = left if shared else torch.empty_like(pair.query)
    for first in range(0, len(left), CLIPS_AT_ONCE):
        part = slice(first, first + CLIPS_AT_ONCE)
        query = nothing if shared else pair.query[part]
        left[part], of_query = head.embed(pair.support[part], query, context)
        if not shared:
            right[part] = of_query
    return left, right


def _of_rows(head: ProductHead | GramHead, context: Context) -> tuple[Embed, Embed]:
    """What the head makes of some supports, and of some queries."""
    return (
        lambda x: head.embed(x, x[:0], context)[0],
        lambda x: head.embed(x[:0], x, context)[1],
    )


def table_of(
    head: ProductHead | GramHead, pair: Pair, context: Context, *, gram: bool = False
) -> Table:
    """The products of all clips as the head embeds them."""
    return _table(*embedded(head, pair, context), gram=gram)


def _table(left: Float[Tensor, "V D"], right: Float[Tensor, "W D"], *, gram: bool) -> Table:
    if gram:
        joined = left if right is left else torch.cat([left, right])
        among = _gram(joined)
        return Table(among, among, among.diagonal(), len(joined) - len(left))
    among = _gram(left)
    across = among if right is left else left @ right.T
    return Table(among, across, squared_lengths(right), 0)


def _gram(x: Float[Tensor, "V D"]) -> Float[Tensor, "V V"]:
    """x x^T, each product once but for blocks on the diagonal."""
    table = x.new_empty(len(x), len(x))
    size = max(256, len(x) // 16)
    for first in range(0, len(x), size):
        last = first + size
        torch.matmul(x[first:last], x[:last].T, out=table[first:last, :last])
        table[:first, first:last] = table[first:last, :first].T
    return table
