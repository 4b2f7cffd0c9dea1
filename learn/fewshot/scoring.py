"""Scoring episodes: head in, answers to every query out, in bounded memory.

Heads that need only inner products (`ProductHead`, `GramHead`) get these (`products.py`), others
the vectors of a few episodes at a time. Both ways give the same answers.

Shapes: V = clips, D = size of a vector, E = episodes, S = support clips, M = queries, N = ways,
K = shots.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
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
from learn.fewshot.heads._transform import Transform, taken_apart, transformed
from learn.fewshot.kept import Kept, table_of
from learn.fewshot.modes import Pair
from learn.fewshot.products import NUMBERS_ON_GPU, Products, index
from learn.fewshot.tasks import EpisodeBatch, Episodes
from store.errors import ConfigError

NUMBERS_AT_ONCE = 1_000_000  # more is no faster
BYTES_A_NUMBER = 64  # memory of a head's intermediate results, at most

Score = Callable[[Episodes], Int[np.ndarray, "E M"]]
BatchScores = Callable[[EpisodeBatch, slice], Float[Tensor, "E M N"]]


def scorer(
    head: Head,
    pair: Pair,
    context: Context,
    *,
    queries: int,
    memory: int = MEMORY,
    kept: Kept | None = None,
) -> Score:
    """A function that predicts the queries of episodes of these clips, as positions among the ways.

    `queries`, `queries_of` all episodes to come, decides whether a table of products pays. `memory`
    in bytes, beside the vectors: half for embedded clips and tables, of which `kept` has those of
    other heads, half for as many episodes at once as fit, one at least.

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
    products = partial((kept or Kept()).products, queries=queries, memory=memory)
    wants_products = isinstance(head, ProductHead) and head.by_products
    if _by_parts(head, pair):
        if not isinstance(head, ProductHead) or not wants_products:
            return by_vectors(head, pair, context, memory=memory)
        core = transformed(*_of_one_part(head))
        assert isinstance(core, ProductHead)
        views = split_by_modality(pair, context)
        parts = [products(core, *view, senses=len(views)) for view in views]
        return by_parts(head, pair, context, parts, memory=memory)
    if isinstance(head, ProductHead) and wants_products:
        known = products(head, pair, context)
        return by_products(head, pair, context, memory=memory, products=known)
    if isinstance(head, GramHead) and head.by_gram:
        known = products(head, pair, context, gram=True)
        return by_gram(head, pair, context, memory=memory, products=known)
    return by_vectors(head, pair, context, memory=memory)


def _by_parts(head: Head, pair: Pair) -> bool:
    """Whether each modality's part is brought to one length after it lost what the episode has in
    common: products of whole vectors are then not all that the head needs."""
    transform = taken_apart(head)[1]
    by_part = transform.length in ("parts", "unit") and len(pair.modality_dims) > 1
    return transform.by_episode and by_part


def _of_one_part(head: Head) -> tuple[Head, Transform]:
    """The head's core and transform, for one part alone."""
    core, transform = taken_apart(head)
    return core, replace(transform, length="unit")


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


def by_products(
    head: ProductHead,
    pair: Pair,
    context: Context,
    *,
    memory: int = MEMORY,
    products: Products | None = None,
) -> Score:
    """Predictions from inner products, by default out of a table of all clips."""
    known = products or table_of(head, pair, context)
    ragged, means = fitter(head, pair, context), bool(getattr(head, "by_means", False))

    def scores(batch: EpisodeBatch, part: slice) -> Float[Tensor, "E M N"]:
        if batch.mask is not None:
            return ragged(batch, part)
        support = index(batch.support[part], known.device).flatten(1)
        query = index(batch.query[part], known.device)
        among, across, square = known.of(support, query, batch.ways if means else 0)
        return head.fit_products(among, batch.ways)(across, square)

    return in_parts(
        scores,
        lambda b: (
            4 * b.query[0].size * b.support[0].size  # heads solve and sort on the way
            if b.mask is None
            else b.clips * pair.support.shape[1]
        ),
        memory,
        known.device,
    )


def by_gram(
    head: GramHead,
    pair: Pair,
    context: Context,
    *,
    memory: int = MEMORY,
    products: Products | None = None,
) -> Score:
    """Predictions as in `by_products`, with the queries' products among themselves too."""
    known = products or table_of(head, pair, context, gram=True)
    ragged = fitter(head, pair, context)

    def scores(batch: EpisodeBatch, part: slice) -> Float[Tensor, "E M N"]:
        if batch.mask is not None:
            return ragged(batch, part)
        support, query = (index(x[part], known.device) for x in (batch.support, batch.query))
        gram = known.of_points(support.flatten(1), query)
        return head.from_gram(gram, *support.shape[1:])

    return in_parts(scores, lambda b: 4 * b.clips**2, memory, known.device)


def by_parts(
    head: ProductHead, pair: Pair, context: Context, parts: Sequence[Products], *, memory: int
) -> Score:
    """Predictions from products of each modality's part, brought to one length after it lost what
    the episode has in common."""
    core, transform = taken_apart(head)
    assert isinstance(core, ProductHead)
    share = 1 / len(parts) if transform.length == "unit" else 1.0
    alone, ragged = replace(transform, length="unit"), fitter(head, pair, context)

    def scores(batch: EpisodeBatch, part: slice) -> Float[Tensor, "E M N"]:
        if batch.mask is not None:
            return ragged(batch, part)
        support = index(batch.support[part], parts[0].device).flatten(1)
        query = index(batch.query[part], parts[0].device)
        total: list[Tensor] = []
        for products in parts:
            among, across, square = products.of(support, query)
            among, place = alone.of_products(among)
            placed = [among, *place(across, square)]
            total = [t + x for t, x in zip(total, placed, strict=True)] if total else placed
        among, across, square = (share * x for x in total)
        return core.fit_products(among, batch.ways)(across, square)

    return in_parts(
        scores,
        lambda b: (
            6 * b.query[0].size * b.support[0].size
            if b.mask is None
            else b.clips * pair.support.shape[1]
        ),
        memory,
        parts[0].device,
    )


def split_by_modality(pair: Pair, context: Context) -> list[tuple[Pair, Context]]:
    """The parts of joined vectors, with what is known of each."""
    dims = list(pair.modality_dims)
    support = [x.contiguous() for x in torch.split(pair.support, dims, dim=1)]
    one = pair.query is pair.support
    query = support if one else [x.contiguous() for x in torch.split(pair.query, dims, dim=1)]
    origins: Sequence[Tensor | None] = [None] * len(dims)
    if context.origin is not None:
        origins = torch.split(context.origin, dims)
    return [
        (
            Pair(support=s, query=q, modality_dims=(dim,)),
            Context(
                modality_dims=(dim,),
                origin=origin,
                balanced=context.balanced,
                skewed=context.skewed,
            ),
        )
        for s, q, dim, origin in zip(support, query, dims, origins, strict=True)
    ]


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
