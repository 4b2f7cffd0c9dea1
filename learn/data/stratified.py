"""Deals blocks of clips to splits so that each split has its share of everything that is counted.

A block stays whole: a class, or the clips of one source. It carries amounts by category (clips of
a class, of a value of a column …), and every category is to be dealt out in the same shares. Blocks
are dealt one after the other, each to the split where the sum of squared differences from the
shares of what has been dealt grows least; those with the rarest categories and the largest come
first, and equals in the order of digests of their names, so that the seed and the names decide
everything.

Source: Sechidis, Tsoumakas and Vlahavas (2011), "On the stratification of multi-label data": the
rarest first, each where most is wanting.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

Category = Hashable
Number = int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What is dealt as a whole."""

    name: str
    amounts: Mapping[Category, Number]
    needed: frozenset[Category] = frozenset()  # those of which every split is to get some


def digest(seed: int, name: str) -> bytes:
    """A number that the seed and the name decide, to order by."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


def deal(
    blocks: Sequence[Block],
    shares: Sequence[Number],
    *,
    seed: int,
    room: tuple[Category, Sequence[Number]] | None = None,
) -> list[int]:
    """The split of every block, as a position in `shares`; a share of 0 gets nothing.

    `room` names a category, and how much of it each split may have as long as another has room.
    """
    blocks, back = _in_order_of_names(blocks)
    number: dict[Category, int] = {}  # of each category
    amounts = [
        [(number.setdefault(c, len(number)), amount) for c, amount in block.amounts.items()]
        for block in blocks
    ]
    left = Counter(c for block in blocks for c in block.needed)  # blocks not dealt yet
    at_first = dict(left)
    splits = [s for s, share in enumerate(shares) if share > 0]
    # What each split has of each category, less its share of what has been dealt of that: so all
    # shares hold all the time, and the first blocks do not go where most is wanted in the end.
    over = [[0.0] * len(number) for _ in shares]
    empty = {c: set(splits) for c in at_first}
    free = dict(zip(splits, _limits(room, splits), strict=True))

    def rank(i: int) -> tuple[int, int, bytes]:
        rarest = min((at_first[c] for c in blocks[i].needed), default=0)
        # Of about one size, chance decides: else a large source is in train whatever the seed.
        largest = max((amount for _, amount in amounts[i]), default=0.0)
        return rarest, -int(largest).bit_length(), digest(seed, blocks[i].name)

    dealt = [-1] * len(blocks)
    for i in sorted(range(len(blocks)), key=rank):
        block, size = blocks[i], blocks[i].amounts.get(room[0], 0.0) if room else 0.0
        allowed = [s for s in splits if free[s] >= size]
        allowed = allowed or [s for s in splits if free[s] == max(free.values())]
        for category in block.needed:
            if empty[category] and left[category] <= len(empty[category]):
                allowed = [s for s in allowed if s in empty[category]] or sorted(empty[category])
            left[category] -= 1
        for c, amount in amounts[i]:
            for s in splits:
                over[s][c] -= shares[s] * amount
        costs = {
            # Rounded: in what order fractions were added up is not to decide.
            s: round(sum(n * (2 * over[s][c] + n) for c, n in amounts[i]), 6)
            for s in allowed
        }
        dealt[i] = chosen = min(allowed, key=lambda s: (costs[s], -shares[s]))
        free[chosen] -= size
        for c, amount in amounts[i]:
            over[chosen][c] += amount
        for category in block.needed:
            empty[category].discard(chosen)
    return [dealt[i] for i in back]


def _in_order_of_names(blocks: Sequence[Block]) -> tuple[list[Block], list[int]]:
    """The blocks sorted, and the position of each in what is returned."""
    order = sorted(range(len(blocks)), key=lambda i: blocks[i].name)
    position = {i: k for k, i in enumerate(order)}
    return [blocks[i] for i in order], [position[i] for i in range(len(blocks))]


def _limits(room: tuple[Category, Sequence[Number]] | None, splits: Sequence[int]) -> list[Number]:
    return [room[1][s] if room else math.inf for s in splits]


def whole_numbers(total: int, shares: Sequence[Number], least: Sequence[int]) -> list[int]:
    """A total in these shares, in whole numbers: as many as `least` says, if that can be, and none
    where the share is 0."""
    exact = [total * share for share in shares]
    least = [n if share > 0 else 0 for n, share in zip(least, shares, strict=True)]
    counts = [max(int(x), n) for x, n in zip(exact, least, strict=True)]
    while sum(counts) < total:
        counts[max(range(len(counts)), key=lambda s: (exact[s] - counts[s], -s))] += 1
    while sum(counts) > total:
        over = [s for s, n in enumerate(counts) if n > least[s]]
        if not over:
            break
        counts[max(over, key=lambda s: (counts[s] - exact[s], -s))] -= 1
    return counts
