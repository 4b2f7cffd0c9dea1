"""Scoring episodes by several senses at once, in bounded memory.

Weights of all episodes come first, then the scores under them. Heads that need only inner products
look these up in one table for each sense and mix them; others get the vectors of a few episodes at
a time. Both ways give the same answers.

Shapes: as in `learn.fewshot.fusions` and `learn.fewshot.scoring`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from learn.data.devices import sent
from learn.fewshot.fusions import Fusion, Prior, ProductFusion, WeighingFusion
from learn.fewshot.fusions.weighted import of_blocks
from learn.fewshot.guard import silent
from learn.fewshot.heads import Context, ExtraShotsHead, GramHead, Head, ProductHead
from learn.fewshot.heads._transform import taken_apart, transformed
from learn.fewshot.kept import Kept
from learn.fewshot.modes import Pair
from learn.fewshot.products import Products, Table, index, of_means
from learn.fewshot.scoring import (
    MEMORY,
    NUMBERS_AT_ONCE,
    BatchScores,
    Score,
    check_ragged,
    extra_shots_of,
    in_parts,
)
from learn.fewshot.tasks import EpisodeBatch, Episodes

T = TypeVar("T")


def _once(known: list[tuple[Episodes, T]], episodes: Episodes, make: Callable[[], T]) -> T:
    """What was made for these episodes, made now if it was not."""
    for of, value in known:
        if of is episodes:
            return value
    known.append((episodes, make()))
    return known[-1][1]


def pairs_of(fusion: Fusion, vectors: Mapping[str, Float[Tensor, "V _"]]) -> list[Pair]:
    """Clips as shots and as queries in each of the fusion's views."""
    return [
        Pair(support=x.as_shots, query=x.vectors, modality_dims=x.modality_dims)
        for x in fusion.views(vectors)
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class FusedPredictor:
    """A head under a fusion of some clips' senses: weights, predictions and scores of episodes."""

    head: Head
    fusion: Fusion
    pairs: Sequence[Pair]  # of each view of the fusion
    contexts: Sequence[Context]
    prior_of: Callable[[Episodes], Prior | None] = lambda _: None
    queries: int = (
        0  # of all episodes to come (`queries_of`): decides whether tables of products pay
    )
    memory: int = MEMORY  # bytes
    kept: Kept = field(default_factory=Kept)  # what other heads may have in common with this one
    _weighed: list[tuple[Episodes, np.ndarray]] = field(default_factory=list)
    _priors: list[tuple[Episodes, Prior | None]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where the vectors are, and the head answers."""
        return self.pairs[0].support.device

    def prior(self, episodes: Episodes) -> Prior | None:
        """What each sense is taken to count before the shots are looked at."""
        return _once(self._priors, episodes, lambda: self.prior_of(episodes))

    def weights(self, episodes: Episodes) -> Float[np.ndarray, "E B"] | None:
        """How much each sense counts in each episode; None where the fusion does not weigh."""
        prior = self.prior(episodes)
        if not isinstance(self.fusion, WeighingFusion) or prior is None:
            return None
        weights = self._known(episodes)
        if np.isnan(weights).any():  # else they came with the scores
            self._weigh(episodes, prior, weights)
        return weights

    def _known(self, episodes: Episodes) -> Float[np.ndarray, "E B"]:
        """Weights as far as they are known; NaN where they are not yet."""
        shape = len(episodes), len(self.pairs)
        return _once(self._weighed, episodes, lambda: np.full(shape, np.nan, np.float32))

    @property
    def predict(self) -> Score:
        """A function from episodes to predictions, as positions among the ways."""

        def score(episodes: Episodes) -> np.ndarray:
            scores = self._scores(episodes)
            return in_parts(scores, self._numbers, self.memory, self.device)(episodes)

        return score

    @torch.inference_mode()
    def scores(self, episodes: Episodes) -> Iterator[tuple[EpisodeBatch, slice, np.ndarray]]:
        """Scores of a few episodes at a time, as precise as the head's: [e, m, n]."""
        score = self._by_vectors(self._weights_or_none(episodes))
        for batch in episodes.batches():
            for part in self._parts(batch):
                yield batch, part, score(batch, part).cpu().numpy()

    @cached_property
    def products(self) -> list[Products] | None:
        """The products of clips in each sense; None where they are no use."""
        core = taken_apart(self.head)[0]
        by_products = isinstance(core, ProductHead) and core.by_products
        by_gram = isinstance(core, GramHead) and core.by_gram
        if not isinstance(self.fusion, ProductFusion) or not (by_products or by_gram):
            return None
        head = transformed(core, of_blocks(self.head))
        assert isinstance(head, ProductHead | GramHead)
        return [
            self.kept.products(
                head, pair, context, queries=self.queries, memory=self.memory,
                senses=len(self.pairs), gram=by_gram,
            )
            for pair, context in zip(self.pairs, self.contexts, strict=True)
        ]  # fmt: skip

    @property
    def tables(self) -> list[Table] | None:
        """Tables of the products in each sense; None where not all of them pay or are of use."""
        found = [x for x in self.products or () if isinstance(x, Table)]
        return found if len(found) == len(self.pairs) else None

    def _weights_or_none(self, episodes: Episodes) -> Float[Tensor, "E B"] | None:
        weights = self.weights(episodes)
        return None if weights is None else sent(torch.from_numpy(weights), self.device)

    def _of_part(self, batch: EpisodeBatch, part: slice) -> Int64[Tensor, "e"]:
        """Which of all episodes the part of a batch holds, where the weights are."""
        return sent(torch.from_numpy(batch.indices[part]), self.device)

    def _numbers(self, batch: EpisodeBatch) -> int:
        """How many numbers an episode takes."""
        if self.products is not None and batch.mask is None:
            shots, queries = batch.support[0].size, batch.query.shape[1]
            return len(self.pairs) * (queries + shots) * shots
        return batch.clips * sum(pair.support.shape[1] for pair in self.pairs)

    def _parts(self, batch: EpisodeBatch) -> Iterator[slice]:
        numbers = batch.clips * sum(pair.support.shape[1] for pair in self.pairs)
        size = max(1, NUMBERS_AT_ONCE // numbers)
        for first in range(0, len(batch), size):
            yield slice(first, first + size)

    @torch.inference_mode()
    def _weigh(self, episodes: Episodes, prior: Prior, found: Float[np.ndarray, "E B"]) -> None:
        """Fill in the weights of all episodes."""
        for batch in episodes.batches():
            shots = batch.support[0].size
            numbers = shots * shots * len(self.pairs) + 4 * shots * batch.ways * len(self.pairs)
            if self.products is None or batch.mask is not None:
                numbers += shots * sum(pair.support.shape[1] for pair in self.pairs)
            size = max(1, NUMBERS_AT_ONCE // numbers)
            for first in range(0, len(batch), size):
                part = slice(first, first + size)
                found[batch.indices[part]] = self._weights_of(batch, part, prior).cpu().numpy()

    def _weights_of(self, batch: EpisodeBatch, part: slice, prior: Prior) -> Float[Tensor, "E B"]:
        assert isinstance(self.fusion, WeighingFusion)
        if self.products is None or batch.mask is not None:
            shots, contexts, _ = self._gathered(batch, part)
            return self.fusion.weigh(self.head, shots, contexts, prior)
        assert isinstance(self.fusion, ProductFusion)
        if batch.support.shape[2] == 1:
            return torch.tensor(prior.value).expand(len(batch.support[part]), -1)
        support = index(batch.support[part], self.device).flatten(1)
        transform = of_blocks(self.head)
        products = [transform.of_products(x.of_shots(support))[0] for x in self.products]
        return self.fusion.weigh_products(products, batch.ways, prior)

    def _scores(self, episodes: Episodes) -> BatchScores:
        core, prior = taken_apart(self.head)[0], self.prior(episodes)
        if self.products is None or prior is None:
            return self._by_vectors(self._weights_or_none(episodes))
        if isinstance(core, ProductHead):
            by_products = self._by_products(core, self._known(episodes), prior)
        else:
            weights = self._weights_or_none(episodes)
            assert isinstance(core, GramHead)
            assert weights is not None
            by_products = self._by_gram(core, weights)
        if all(batch.mask is None for batch in episodes.batches()):
            return by_products
        by_vectors = self._by_vectors(self._weights_or_none(episodes))
        return lambda batch, part: (by_products if batch.mask is None else by_vectors)(batch, part)

    def _by_vectors(self, weights: Float[Tensor, "E B"] | None) -> BatchScores:
        """The reference: gather the vectors of each sense, fit, predict."""

        def scores(batch: EpisodeBatch, part: slice) -> Float[Tensor, "E M N"]:
            shots, contexts, queries = self._gathered(batch, part)
            own = None if weights is None else weights[self._of_part(batch, part)]
            return self.fusion.fit(self.head, shots, contexts, own)(queries, None)

        return scores

    def _by_products(
        self, core: ProductHead, weights: Float[np.ndarray, "E B"], prior: Prior
    ) -> BatchScores:
        """The same from products that are mixed; fills in weights on the way."""
        transform, views, fusion = of_blocks(self.head), self.products, self.fusion
        means = bool(getattr(core, "by_means", False))
        assert views is not None
        assert isinstance(fusion, ProductFusion)

        def scores(batch: EpisodeBatch, part: slice) -> Float[Tensor, "E M N"]:
            support = index(batch.support[part], self.device).flatten(1)
            query = index(batch.query[part], self.device)
            none = silent(prior, batch.support.shape[2])
            found_of = {b: v.of(support, query) for b, v in enumerate(views) if b not in none}
            placed = {b: transform.of_products(among) for b, (among, _, _) in found_of.items()}
            rows = batch.indices[part]
            if np.isnan(weights[rows]).any():
                some = next(iter(placed.values()))  # of no consequence where a view is silent
                of_shots = [placed.get(b, some)[0] for b in range(len(views))]
                found = fusion.weigh_products(of_shots, batch.ways, prior)
                weights[rows] = found.cpu().numpy()
            own, mixed = sent(torch.from_numpy(weights[rows]), self.device), list[Tensor]()
            for b, (products, place) in placed.items():
                _, *of_query = found_of[b]
                moved, lengths = place(*of_query)
                if means:
                    products, moved = of_means(products, moved, batch.ways)
                mixed = _added(mixed, (products, moved, lengths), own[:, b])
            among, across, square = mixed
            return core.fit_products(among, batch.ways)(across, square)

        return scores

    def _by_gram(self, core: GramHead, weights: Float[Tensor, "E B"]) -> BatchScores:
        """The same for heads that need the products of all points."""
        transform, views = of_blocks(self.head), self.products
        assert views is not None

        def scores(batch: EpisodeBatch, part: slice) -> Float[Tensor, "E M N"]:
            support, query = (index(x[part], self.device) for x in (batch.support, batch.query))
            own, mixed = weights[self._of_part(batch, part)], list[Tensor]()
            for b, view in enumerate(views):
                gram = view.of_points(support.flatten(1), query)
                gram = transform.of_gram(gram, support[0].numel())
                mixed = _added(mixed, (gram,), own[:, b])
            return core.from_gram(mixed[0], *support.shape[1:])

        return scores

    def _gathered(
        self, batch: EpisodeBatch, part: slice
    ) -> tuple[list[Tensor], list[Context], list[Tensor]]:
        """Shots, contexts and queries of each view."""
        check_ragged(self.head, batch)
        device = self.device
        support, query = (index(x[part], device).long() for x in (batch.support, batch.query))
        mask = None if batch.mask is None else sent(torch.from_numpy(batch.mask[part]), device)
        contexts = []
        for pair, context in zip(self.pairs, self.contexts, strict=True):
            extra = {}
            if isinstance(self.head, ExtraShotsHead):
                extra = extra_shots_of(
                    self.head, pair, support, index(batch.classes[part], device).long()
                )
            contexts.append(replace(context, mask=mask, extra_shots=extra))
        return (
            [pair.support[support] for pair in self.pairs],
            contexts,
            [pair.query[query] for pair in self.pairs],
        )


def _added(
    total: Sequence[Tensor], parts: Sequence[Tensor], weight: Float[Tensor, "E"]
) -> list[Tensor]:
    """The totals with each part added, times its episode's weight."""
    factors = [weight.view(-1, *(1,) * (part.ndim - 1)) for part in parts]
    if not total:
        return [part * w for part, w in zip(parts, factors, strict=True)]
    return [t.addcmul_(p, w) for t, p, w in zip(total, parts, factors, strict=True)]
