"""Scoring episodes: head in, answers to every query out, in bounded memory.

Heads that need only inner products (`ProductHead`, `GramHead`) look them up in one table of all
clips; others get the vectors of a few episodes at a time. Both ways give the same answers.

Shapes: V = clips, D = size of a vector, E = episodes, S = support clips, M = queries, N = ways,
K = shots.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int32
from torch import Tensor

from learn.data.devices import CPU, sent
from learn.fewshot.budget import MEMORY as MEMORY
from learn.fewshot.fusions import Fusion, Prior, WeighingFusion
from learn.fewshot.heads import (
    EXTRA_SHOTS,
    Context,
    ExtraShotsHead,
    GramHead,
    Head,
    ProductHead,
    RaggedHead,
)
from learn.fewshot.heads._transform import taken_apart
from learn.fewshot.modes import Pair
from learn.fewshot.tasks import EpisodeBatch, Episodes
from store.errors import ConfigError

TABLE_WORTH = 16  # products of a table that cost as much as fetching and comparing one query
MAX_ENTRIES = 2**31 - 1  # of a table, as its indices have 32 bits
NUMBERS_AT_ONCE = 1_000_000  # more is no faster
NUMBERS_ON_GPU = 64_000_000  # fewer leave it idle between its kernels
BYTES_A_NUMBER = 64  # memory of a head's intermediate results, at most
CLIPS_AT_ONCE = 512  # embedded in one call

Score = Callable[[Episodes], Int[np.ndarray, "E M"]]
BatchScores = Callable[[EpisodeBatch, slice], Float[Tensor, "E M N"]]


def scorer(
    head: Head, pair: Pair, context: Context, *, queries: int, memory: int = MEMORY
) -> Score:
    """A function that predicts the queries of episodes of these clips, as positions among the ways.

    `queries`, of all episodes to come, decides whether a table of products pays. `memory` in bytes,
    beside the vectors: half for a table, half for as many episodes at once as fit, one at least.

    Raises:
        ConfigError: the head lives of what these clips do not have.
    """
    if isinstance(head, ExtraShotsHead) and not _extra_shots(head, pair):
        missing = " and no ".join(EXTRA_SHOTS[source] for source in head.extra_shots)
        raise ConfigError(
            f"this head learns from more than the shots, and there are no {missing}: give as "
            "`projection` a run of both modalities and ask for one of them, or a run trained with "
            "vectors of class names"
        )
    fits = partial(table_fits, pair, context, queries, memory)
    if _one_table(head, pair):
        if isinstance(head, ProductHead) and head.by_products and fits(gram=False):
            return by_products(head, pair, context, memory=memory)
        if isinstance(head, GramHead) and head.by_gram and fits(gram=True):
            return by_gram(head, pair, context, memory=memory)
    return by_vectors(head, pair, context, memory=memory)


def table_fits(pair: Pair, context: Context, queries: int, memory: int, *, gram: bool) -> bool:
    """Whether a table of products of these clips fits into half the memory, and pays."""
    clips, side_count = len(pair.support), 2 - _one_side(pair, context)
    entries = clips**2 * (side_count**2 if gram else side_count)
    wanted = 4 * (entries + side_count * pair.support.numel())  # the table and its vectors
    worth = min(MAX_ENTRIES, TABLE_WORTH * side_count**2 * queries)
    return entries <= worth and wanted <= memory // 2


def _one_table(head: Head, pair: Pair) -> bool:
    """Whether products of whole vectors are all that the head needs: not where each modality's part
    is brought to one length after it lost what the episode has in common."""
    transform = taken_apart(head)[1]
    return not (transform.by_episode and transform.length and len(pair.modality_dims) > 1)


def by_vectors(head: Head, pair: Pair, context: Context, *, memory: int = MEMORY) -> Score:
    """The reference: gather the vectors of each episode, fit, predict."""
    numbers = pair.support.shape[1]
    at_once = partial(in_parts, memory=memory, device=pair.support.device)
    return at_once(fitter(head, pair, context), lambda b: b.clips * numbers)


def fitter(head: Head, pair: Pair, context: Context) -> BatchScores:
    """A function that scores part of a batch of episodes from vectors, where these are."""
    device = pair.support.device

    def scores(batch: EpisodeBatch, part: slice) -> Float[Tensor, "E M N"]:
        support = index(batch.support[part], device).long()
        known = context
        if isinstance(head, ExtraShotsHead):
            class_ids = index(batch.classes[part], device).long()
            known = replace(context, extra_shots=extra_shots_of(head, pair, support, class_ids))
        check_ragged(head, batch)
        if batch.mask is not None:
            known = replace(known, mask=sent(torch.from_numpy(batch.mask[part]), device))
        query = index(batch.query[part], device).long()
        return head.fit(pair.support[support], known)(pair.query[query])

    return scores


def check_ragged(head: Head, batch: EpisodeBatch) -> None:
    """Refuse classes of different numbers of shots to a head that does not learn from them.

    Raises:
        ConfigError: names the head.
    """
    if batch.mask is not None and not (isinstance(head, RaggedHead) and head.ragged):
        core = taken_apart(head)[0]
        name = getattr(core, "name", type(core).__module__.rpartition(".")[2])
        raise ConfigError(
            f"{name} needs equally many shots "
            "of each class of an episode, and these differ: set uneven=false in `task`, or use a "
            "head such as prototypes"
        )


def extra_shots_of(
    head: ExtraShotsHead,
    pair: Pair,
    shots: Int[Tensor, "E N K"],
    class_ids: Int[Tensor, "E N"],
) -> dict[str, Float[Tensor, "E N _ D"]]:
    """What the head learns from beside the shots, for each class of each episode."""
    return _gather(_extra_shots(head, pair), shots, class_ids)


def _extra_shots(head: ExtraShotsHead, pair: Pair) -> dict[str, Float[Tensor, "_ D"]]:
    """The vectors of the extra shots that the head uses and the pair has, by source."""
    available = {"other": pair.other_modality, "names": pair.names}
    return {source: x for source in head.extra_shots if (x := available[source]) is not None}


def _gather(
    extra: Mapping[str, Float[Tensor, "_ D"]],
    shots: Int[Tensor, "E N K"],
    class_ids: Int[Tensor, "E N"],
) -> dict[str, Float[Tensor, "E N _ D"]]:
    """The extra shots of each class of each episode: its name, its shots in the other modality."""
    indices = {"names": class_ids[..., None], "other": shots}
    return {source: x[indices[source]] for source, x in extra.items()}


class Table(NamedTuple):
    """Products of all clips."""

    among: Float[Tensor, "V V"]  # of a Gram table: of supports and queries, where these differ
    across: Float[Tensor, "W V"]  # queries by supports
    square: Float[Tensor, "W"]  # of queries with themselves
    shift: int  # of a Gram table: where queries begin


def table_of(
    head: ProductHead | GramHead, pair: Pair, context: Context, *, gram: bool = False
) -> Table:
    """The products of all clips as the head embeds them."""
    left, right = _embedded(head, pair, context)
    if gram:
        joined = left if right is left else torch.cat([left, right])
        among = _gram(joined)
        return Table(among, among, among.diagonal(), len(joined) - len(left))
    among = _gram(left)
    across = among if right is left else right @ left.T
    return Table(among, across, right.square().sum(1), 0)


def by_products(head: ProductHead, pair: Pair, context: Context, *, memory: int = MEMORY) -> Score:
    """Predictions by look-ups in a table of the products of all clips."""
    table = table_of(head, pair, context)
    among, across, square = table.among, table.across, table.square
    ragged = fitter(head, pair, context)

    def scores(batch: EpisodeBatch, part: slice) -> Float[Tensor, "E M N"]:
        if batch.mask is not None:
            return ragged(batch, part)
        support = index(batch.support[part], among.device).flatten(1)
        query = index(batch.query[part], among.device)
        predict = head.fit_products(look_up(among, support, support), batch.ways)
        return predict(look_up(across, query, support), square[query])

    return in_parts(
        scores,
        lambda b: (
            4 * b.query[0].size * b.support[0].size  # heads solve and sort on the way
            if b.mask is None
            else b.clips * pair.support.shape[1]
        ),
        memory,
        among.device,
    )


def by_gram(head: GramHead, pair: Pair, context: Context, *, memory: int = MEMORY) -> Score:
    """Predictions as in `by_products`, with the queries' products among themselves too."""
    of_all = table_of(head, pair, context, gram=True)
    table, shift = of_all.among, of_all.shift
    ragged = fitter(head, pair, context)

    def scores(batch: EpisodeBatch, part: slice) -> Float[Tensor, "E M N"]:
        if batch.mask is not None:
            return ragged(batch, part)
        support, query = (index(x[part], table.device) for x in (batch.support, batch.query))
        points = torch.cat([support.flatten(1), query + shift], dim=1)
        return head.from_gram(look_up(table, points, points), *support.shape[1:])

    return in_parts(scores, lambda b: 4 * b.clips**2, memory, table.device)


def by_fusion(
    fusion: Fusion,
    head: Head,
    pairs: Sequence[Pair],
    contexts: Sequence[Context],
    shares: Sequence[Float[Tensor, "V"]],
    prior: Prior,
) -> Score:
    """Predictions by a fusion of views of the same clips, of which each counts for each query clip
    as `shares` say; a fusion that weighs begins at the prior."""

    def scores(batch: EpisodeBatch, part: slice) -> Float[Tensor, "E M N"]:
        if batch.mask is not None:
            contexts_of_part = [
                replace(context, mask=torch.from_numpy(batch.mask[part])) for context in contexts
            ]
        else:
            contexts_of_part = list(contexts)
        support, query = (index(of[part]).long() for of in (batch.support, batch.query))
        shots = [pair.support[support] for pair in pairs]
        weights = None
        if isinstance(fusion, WeighingFusion):
            weights = fusion.weigh(head, shots, contexts_of_part, prior)
        predict = fusion.fit(head, shots, contexts_of_part, weights)
        counted = torch.stack([share[query] for share in shares], dim=-1)
        found: Tensor = predict([pair.query[query] for pair in pairs], counted)
        return found

    numbers = max(pair.support.shape[1] for pair in pairs)
    return in_parts(scores, lambda b: b.clips * numbers, MEMORY)


def in_parts(
    scores: BatchScores,
    numbers: Callable[[EpisodeBatch], int],
    memory: int,
    device: torch.device = CPU,
) -> Score:
    """A function that predicts by the highest score, in bounded memory; -1 without a query."""

    most = NUMBERS_AT_ONCE if device.type == "cpu" else NUMBERS_ON_GPU
    at_once = min(most, memory // 2 // BYTES_A_NUMBER)

    @torch.inference_mode()
    def score(episodes: Episodes) -> Int[np.ndarray, "E M"]:
        predictions = np.full(episodes.query.shape, -1)
        for batch in episodes.batches():
            size = max(1, at_once // numbers(batch))
            best = np.empty(
                batch.query.shape, np.int64
            )  # one array: kept parts would fragment the heap
            for first in range(0, len(batch), size):
                part = slice(first, first + size)
                best[part] = scores(batch, part).max(-1).indices.cpu()
            if best.shape == predictions.shape:
                return best  # one batch holds all episodes, in order
            predictions[batch.indices[:, None], batch.columns] = best
        return predictions

    return score


def accuracies(episodes: Episodes, predictions: Int[np.ndarray, "E M"]) -> Float64[np.ndarray, "E"]:
    """The share of correct predictions in each episode."""
    correct = (predictions == episodes.targets).sum(-1)
    return np.asarray(correct / (episodes.query >= 0).sum(-1))


def _one_side(pair: Pair, context: Context) -> bool:
    """True if support and query are the same vectors under the same mean."""
    left, right = context.support_mean, context.query_mean
    if pair.support is not pair.query or left is None or right is None:
        return pair.support is pair.query and left is right
    return torch.equal(left, right)


def _embedded(
    head: ProductHead | GramHead, pair: Pair, context: Context
) -> tuple[Float[Tensor, "V D"], Float[Tensor, "V D"]]:
    """Support and query vectors as the head sees them; only once where they are the same."""
    nothing = pair.support[:0]
    left = torch.empty_like(pair.support)
    shared = _one_side(pair, context)
    right = left if shared else torch.empty_like(pair.query)
    for first in range(0, len(left), CLIPS_AT_ONCE):
        part = slice(first, first + CLIPS_AT_ONCE)
        query = nothing if shared else pair.query[part]
        left[part], of_query = head.embed(pair.support[part], query, context)
        if not shared:
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


def index(indices: np.ndarray, device: torch.device = CPU) -> Int32[Tensor, "..."]:
    """Indices as a tensor: 32 bits are enough, and half the traffic of 64."""
    return sent(torch.from_numpy(np.ascontiguousarray(indices)), device)


def look_up(
    table: Float[Tensor, "V W"], rows: Int32[Tensor, "E A"], columns: Int32[Tensor, "E B"]
) -> Float[Tensor, "E A B"]:
    """The table's entries at these rows and columns, laid out column by column: there are few."""
    entries = (rows * table.shape[1])[:, None] + columns[:, :, None]
    return table.view(-1).index_select(0, entries.view(-1)).view(entries.shape).mT
