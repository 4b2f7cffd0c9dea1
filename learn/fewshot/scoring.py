"""Scoring episodes: head in, answers to every query out, in bounded memory.

Heads that need only inner products (`ProductHead`, `GramHead`) look them up in one table of all
clips; others get the vectors of a few episodes at a time. Both ways give the same answers.

Shapes: V = clips, D = size of a vector, E = episodes, S = support clips, M = queries, N = ways,
K = shots.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int32
from torch import Tensor

from learn.fewshot.heads import (
    EXTRA_SHOTS,
    Context,
    ExtraShotsHead,
    GramHead,
    Head,
    ProductHead,
    RaggedHead,
)
from learn.fewshot.modes import Pair
from learn.fewshot.tasks import Block, Episodes
from store.errors import ConfigError

MEMORY = 1 << 30  # bytes, where nobody says
TABLE_WORTH = 16  # products of a table that cost as much as fetching and comparing one query
PLACES = 2**31 - 1  # in a table, with 32 bits each
NUMBERS_AT_ONCE = 1_000_000  # more is no faster
BYTES_A_NUMBER = 64  # of all that heads make on the way, at most
CLIPS_AT_ONCE = 512  # embedded

Score = Callable[[Episodes], Int[np.ndarray, "E M"]]
Few = Callable[[Block, slice], Float[Tensor, "E M N"]]


def scorer(
    head: Head, pair: Pair, context: Context, *, queries: int, memory: int = MEMORY
) -> Score:
    """What the head answers, as positions among the ways, for any episodes of these clips.

    `queries`, of all episodes to come, decides whether a table of products pays. `memory` in bytes,
    beside the vectors: half for a table, half for as many episodes at once as fit, one at least.

    Raises:
        ConfigError: the head lives of what these clips do not have.
    """
    if isinstance(head, ExtraShotsHead) and not _extra_shots(head, pair):
        told = " and no ".join(EXTRA_SHOTS[what] for what in head.extra_shots)
        raise ConfigError(
            f"this head learns from more than the shots, and there are no {told}: give "
            "--projection RUN of both modalities and ask for one of them, or one trained with "
            "--labels"
        )
    clips, sides = len(pair.support), 2 - _one_side(pair, context)
    places = clips**2 * (sides**2 if isinstance(head, GramHead) else sides)
    wanted = 4 * (places + sides * pair.support.numel())  # the table, and what it is made of
    if places <= min(PLACES, TABLE_WORTH * sides**2 * queries) and wanted <= memory // 2:
        if isinstance(head, ProductHead) and head.by_products:
            return by_products(head, pair, context, memory=memory)
        if isinstance(head, GramHead) and head.by_gram:
            return by_gram(head, pair, context, memory=memory)
    return by_vectors(head, pair, context, memory=memory)


def by_vectors(head: Head, pair: Pair, context: Context, *, memory: int = MEMORY) -> Score:
    """The obvious way: gather, fit, predict."""
    numbers = pair.support.shape[1]
    return _in_parts(fitter(head, pair, context), lambda b: b.clips * numbers, memory)


def fitter(head: Head, pair: Pair, context: Context) -> Few:
    """Scores by vectors of a few episodes at a time."""

    def few(block: Block, part: slice) -> Float[Tensor, "E M N"]:
        places = _index(block.support[part]).long()
        known = context
        if isinstance(head, ExtraShotsHead):
            class_ids = _index(block.classes[part]).long()
            known = replace(
                context, extra_shots=_gather(_extra_shots(head, pair), places, class_ids)
            )
        if block.mask is not None:
            if not isinstance(head, RaggedHead) or not head.ragged:
                raise ConfigError(
                    f"{type(head).__module__.rpartition('.')[2]} needs equally many shots of each "
                    "class of an episode, and these differ: set uneven=false in --task, or use a "
                    "head such as prototypes"
                )
            known = replace(known, mask=torch.from_numpy(block.mask[part]))
        return head.fit(pair.support[places], known)(pair.query[_index(block.query[part]).long()])

    return few


def _extra_shots(head: ExtraShotsHead, pair: Pair) -> dict[str, Float[Tensor, "_ D"]]:
    """What there is of what the head makes use of."""
    there = {"other": pair.other, "names": pair.names}
    return {what: x for what in head.extra_shots if (x := there[what]) is not None}


def _gather(
    extra: Mapping[str, Float[Tensor, "_ D"]],
    places: Int[Tensor, "E N K"],
    class_ids: Int[Tensor, "E N"],
) -> dict[str, Float[Tensor, "E N _ D"]]:
    """For each class of each episode: of names the one, of clips the shots."""
    where = {"names": class_ids[..., None], "other": places}
    return {what: x[where[what]] for what, x in extra.items()}


def by_products(head: ProductHead, pair: Pair, context: Context, *, memory: int = MEMORY) -> Score:
    """Products of all clips once, then look-ups."""
    left, right = _embedded(head, pair, context)
    among = _gram(left)
    across = among if right is left else right @ left.T
    square = right.square().sum(1)
    uneven = fitter(head, pair, context)

    def few(block: Block, part: slice) -> Float[Tensor, "E M N"]:
        if block.mask is not None:
            return uneven(block, part)
        support = _index(block.support[part]).flatten(1)
        query = _index(block.query[part])
        predict = head.fit_products(_look_up(among, support, support), block.ways)
        return predict(_look_up(across, query, support), square[query])

    return _in_parts(
        few,
        lambda b: (
            4 * b.query[0].size * b.support[0].size  # heads solve and sort on the way
            if b.mask is None
            else b.clips * pair.support.shape[1]
        ),
        memory,
    )


def by_gram(head: GramHead, pair: Pair, context: Context, *, memory: int = MEMORY) -> Score:
    """As `by_products`, with the queries' products among themselves."""
    left, right = _embedded(head, pair, context)
    joined = left if right is left else torch.cat([left, right])
    table, shift = _gram(joined), len(joined) - len(left)
    uneven = fitter(head, pair, context)

    def few(block: Block, part: slice) -> Float[Tensor, "E M N"]:
        if block.mask is not None:
            return uneven(block, part)
        support, query = _index(block.support[part]), _index(block.query[part])
        points = torch.cat([support.flatten(1), query + shift], dim=1)
        return head.from_gram(_look_up(table, points, points), *support.shape[1:])

    return _in_parts(few, lambda b: 4 * b.clips**2, memory)


def by_late_fusion(
    head: Head,
    pairs: Sequence[Pair],
    contexts: Sequence[Context],
    shares: Sequence[Float[Tensor, "V"]],
) -> Score:
    """The mean of what the head says of several views of the same clips, one fit for each.

    Scores of a view are in units of the spread that its head gives the shots themselves; `shares`
    say how much each view counts for each query clip.
    """

    def few(block: Block, part: slice) -> Float[Tensor, "E M N"]:
        if block.mask is not None:
            raise ConfigError("late fusion needs equally many shots of each class of an episode")
        support, query = (_index(of[part]).long() for of in (block.support, block.query))
        total = torch.zeros(*query.shape, block.ways)
        for pair, context, share in zip(pairs, contexts, shares, strict=True):
            shots = pair.support[support]
            predict = head.fit(shots, context)
            spread = predict(shots.flatten(1, 2)).std(dim=(1, 2), keepdim=True)
            total += share[query][..., None] * predict(pair.query[query]) / spread.clamp_min(1e-12)
        return total

    numbers = max(pair.support.shape[1] for pair in pairs)
    return _in_parts(few, lambda b: b.clips * numbers, MEMORY)


def _in_parts(scores: Few, numbers: Callable[[Block], int], memory: int) -> Score:
    """The best of `scores`, of as many episodes at once as memory allows; -1 where no query is."""

    at_once = min(NUMBERS_AT_ONCE, memory // 2 // BYTES_A_NUMBER)

    @torch.inference_mode()
    def score(episodes: Episodes) -> Int[np.ndarray, "E M"]:
        predictions = np.full(episodes.query.shape, -1)
        for block in episodes.blocks():
            size = max(1, at_once // numbers(block))
            best = np.empty(block.query.shape, np.int64)  # kept parts would riddle the heap
            for first in range(0, len(block), size):
                part = slice(first, first + size)
                best[part] = scores(block, part).max(-1).indices
            if best.shape == predictions.shape:
                return best  # a block of all has them in order
            predictions[block.places[:, None], block.columns] = best
        return predictions

    return score


def accuracies(episodes: Episodes, predictions: Int[np.ndarray, "E M"]) -> Float64[np.ndarray, "E"]:
    """The share of right answers in each episode."""
    right = (predictions == episodes.targets).sum(-1)
    return np.asarray(right / (episodes.query >= 0).sum(-1))


def _one_side(pair: Pair, context: Context) -> bool:
    """Are support and query the same vectors under the same mean?"""
    left, right = context.support_mean, context.query_mean
    if pair.support is not pair.query or left is None or right is None:
        return pair.support is pair.query and left is right
    return torch.equal(left, right)


def _embedded(
    head: ProductHead | GramHead, pair: Pair, context: Context
) -> tuple[Float[Tensor, "V D"], Float[Tensor, "V D"]]:
    """Both sides as the head sees them, once where they are one; some clips at a time."""
    nothing = pair.support[:0]
    left = torch.empty_like(pair.support)
    one = _one_side(pair, context)
    right = left if one else torch.empty_like(pair.query)
    for first in range(0, len(left), CLIPS_AT_ONCE):
        part = slice(first, first + CLIPS_AT_ONCE)
        query = nothing if one else pair.query[part]
        left[part], of_query = head.embed(pair.support[part], query, context)
        if not one:
            right[part] = of_query
    return left, right


def _gram(x: Float[Tensor, "V D"]) -> Float[Tensor, "V V"]:
    """x x^T, each product once but for blocks on the diagonal."""
    table = x.new_empty(len(x), len(x))
    size = max(256, len(x) // 6)
    for first in range(0, len(x), size):
        last = first + size
        table[first:last, :last] = x[first:last] @ x[:last].T
        table[:first, first:last] = table[first:last, :first].T
    return table


def _index(places: np.ndarray) -> Int32[Tensor, "..."]:
    """32 bits are enough for every place of a table, and half the traffic of 64."""
    return torch.from_numpy(np.ascontiguousarray(places))


def _look_up(
    table: Float[Tensor, "V W"], rows: Int32[Tensor, "E A"], columns: Int32[Tensor, "E B"]
) -> Float[Tensor, "E A B"]:
    """Laid out column by column: there are few of them, and what follows runs along rows."""
    place = (rows * table.shape[1])[:, None] + columns[:, :, None]
    return table.view(-1).index_select(0, place.view(-1)).view(place.shape).mT
