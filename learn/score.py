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

from learn.episodes import Block, Episodes
from learn.heads import BESIDE, BesideHead, Context, GramHead, Head, ProductHead, UnevenHead
from learn.views import Pair
from store.errors import ConfigError

TABLE_CLIPS = 8192  # 256 MB of float32
TABLE_WORTH = 16  # products of a table that cost as much as fetching and comparing one query
NUMBERS_AT_ONCE = 1_000_000

Score = Callable[[Episodes], Int[np.ndarray, "E M"]]
Few = Callable[[Block, slice], Float[Tensor, "E M N"]]


def scorer(head: Head, pair: Pair, context: Context, *, queries: int) -> Score:
    """What the head answers, as positions among the ways, for any episodes of these clips.

    `queries`, of all episodes to come, decides whether a table of products pays.

    Raises:
        ConfigError: the head lives of what these clips do not have.
    """
    if isinstance(head, BesideHead) and not _beside(head, pair):
        told = " and no ".join(BESIDE[what] for what in head.beside)
        raise ConfigError(
            f"this head learns from more than the shots, and there are no {told}: give "
            "--projection RUN of both modalities and ask for one of them, or one trained with "
            "--labels"
        )
    few_clips = len(pair.support) <= TABLE_CLIPS and len(pair.support) ** 2 <= TABLE_WORTH * queries
    if few_clips and isinstance(head, ProductHead) and head.by_products:
        return by_products(head, pair, context)
    if few_clips and isinstance(head, GramHead) and head.by_gram:
        return by_gram(head, pair, context)
    return by_vectors(head, pair, context)


def by_vectors(head: Head, pair: Pair, context: Context) -> Score:
    """The obvious way: gather, fit, predict."""

    return _in_parts(_fitter(head, pair, context), lambda b: b.clips * pair.support.shape[1])


def _fitter(head: Head, pair: Pair, context: Context) -> Few:
    def few(block: Block, part: slice) -> Float[Tensor, "E M N"]:
        places = _index(block.support[part]).long()
        known = context
        if isinstance(head, BesideHead):
            codes = _index(block.classes[part]).long()
            known = replace(context, beside=_gather(_beside(head, pair), places, codes))
        if block.real is not None:
            if not isinstance(head, UnevenHead) or not head.uneven:
                raise ConfigError(
                    f"{type(head).__module__.rpartition('.')[2]} needs equally many shots of each "
                    "class of an episode, and these differ: set uneven=false in --task, or use a "
                    "head such as prototypes"
                )
            known = replace(known, real=torch.from_numpy(block.real[part]))
        return head.fit(pair.support[places], known)(pair.query[_index(block.query[part]).long()])

    return few


def _beside(head: BesideHead, pair: Pair) -> dict[str, Float[Tensor, "_ D"]]:
    """What there is of what the head makes use of."""
    there = {"other": pair.other, "names": pair.names}
    return {what: x for what in head.beside if (x := there[what]) is not None}


def _gather(
    beside: Mapping[str, Float[Tensor, "_ D"]],
    places: Int[Tensor, "E N K"],
    codes: Int[Tensor, "E N"],
) -> dict[str, Float[Tensor, "E N _ D"]]:
    """For each class of each episode: of names the one, of clips the shots."""
    where = {"names": codes[..., None], "other": places}
    return {what: x[where[what]] for what, x in beside.items()}


def by_products(head: ProductHead, pair: Pair, context: Context) -> Score:
    """Products of all clips once, then look-ups."""
    left, right = head.embed(pair.support, pair.query, context)
    among = left @ left.T
    across = among if torch.equal(left, right) else right @ left.T
    square = right.square().sum(1)
    uneven = _fitter(head, pair, context)

    def few(block: Block, part: slice) -> Float[Tensor, "E M N"]:
        if block.real is not None:
            return uneven(block, part)
        support = _index(block.support[part]).flatten(1)
        query = _index(block.query[part])
        predict = head.fit_products(_look_up(among, support, support), block.ways)
        return predict(_look_up(across, query, support), square[query])

    return _in_parts(
        few,
        lambda b: (
            b.query[0].size * b.support[0].size
            if b.real is None
            else b.clips * pair.support.shape[1]
        ),
    )


def by_gram(head: GramHead, pair: Pair, context: Context) -> Score:
    """As `by_products`, with the queries' products among themselves."""
    left, right = head.embed(pair.support, pair.query, context)
    joined = left if torch.equal(left, right) else torch.cat([left, right])
    table, shift = joined @ joined.T, len(joined) - len(left)

    uneven = _fitter(head, pair, context)

    def few(block: Block, part: slice) -> Float[Tensor, "E M N"]:
        if block.real is not None:
            return uneven(block, part)
        support, query = _index(block.support[part]), _index(block.query[part])
        points = torch.cat([support.flatten(1), query + shift], dim=1)
        return head.from_gram(_look_up(table, points, points), *support.shape[1:])

    return _in_parts(few, lambda b: 4 * b.clips**2)


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
        if block.real is not None:
            raise ConfigError("late fusion needs equally many shots of each class of an episode")
        support, query = (_index(of[part]).long() for of in (block.support, block.query))
        total = torch.zeros(*query.shape, block.ways)
        for pair, context, share in zip(pairs, contexts, shares, strict=True):
            shots = pair.support[support]
            predict = head.fit(shots, context)
            spread = predict(shots.flatten(1, 2)).std(dim=(1, 2), keepdim=True)
            total += share[query][..., None] * predict(pair.query[query]) / spread.clamp_min(1e-12)
        return total

    return _in_parts(few, lambda b: b.clips * max(p.support.shape[1] for p in pairs))


def _in_parts(scores: Few, numbers: Callable[[Block], int]) -> Score:
    """The best of `scores`, of as many episodes at once as memory allows; -1 where no query is."""

    @torch.inference_mode()
    def score(episodes: Episodes) -> Int[np.ndarray, "E M"]:
        answered = np.full(episodes.query.shape, -1)
        for block in episodes.blocks():
            size = max(1, NUMBERS_AT_ONCE // numbers(block))
            parts = (slice(first, first + size) for first in range(0, len(block), size))
            best = torch.cat([scores(block, part).argmax(-1) for part in parts]).numpy()
            answered[block.places[:, None], block.columns] = best
        return answered

    return score


def accuracies(episodes: Episodes, answered: Int[np.ndarray, "E M"]) -> Float64[np.ndarray, "E"]:
    """The share of right answers in each episode."""
    right = (answered == episodes.answers).sum(-1)
    return np.asarray(right / (episodes.query >= 0).sum(-1))


def _index(places: np.ndarray) -> Int32[Tensor, "..."]:
    """32 bits are enough for every place of a table, and half the traffic of 64."""
    return torch.from_numpy(np.ascontiguousarray(places))


def _look_up(
    table: Float[Tensor, "V W"], rows: Int32[Tensor, "E A"], columns: Int32[Tensor, "E B"]
) -> Float[Tensor, "E A B"]:
    place = rows[:, :, None] * table.shape[1] + columns[:, None]
    return table.view(-1).index_select(0, place.view(-1)).view(place.shape)
