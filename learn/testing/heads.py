"""The promises of `Head`, as tests of any head."""

from dataclasses import fields, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from learn.fewshot.heads import Context, GramHead, Head, ProductHead
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import by_gram, by_products, by_vectors
from learn.fewshot.tasks import Episodes
from store import plugins
from store.settings import Bounds

FAMILY = "learn.fewshot.heads"
E, N, K, M, BLOCKS = 4, 3, 2, 9, (5, 6)
D = sum(BLOCKS)


def close(left: Any, right: Any) -> Any:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=2e-4)


def settings_of(name: str) -> Any:
    """Every combination of the head's switches and choices, as SPECs."""
    config = plugins.module(FAMILY, name).Config
    choices = {
        f.name: ("true", "false")
        if isinstance(f.default, bool)
        else f.metadata.get("bounds", Bounds()).among
        for f in fields(config)
    }
    choices.pop("backend", None)  # another way to the same distances
    free = {key: values for key, values in choices.items() if values}
    for values in product(*free.values()):
        yield name + ":" + ",".join(f"{k}={v}" for k, v in zip(free, values, strict=True))


def one_at_a_time(name: str) -> Any:
    """Of `settings_of`, the first, and those that differ from it in one setting."""
    first, *others = settings_of(name)
    yield first
    words = first.split(",")
    for spec in others:
        if sum(a != b for a, b in zip(spec.split(","), words, strict=True)) == 1:
            yield spec


class HeadContract:
    """The order of shots, queries and classes changes nothing; each of many episodes is alone.

    E = 4 episodes of N = 3 classes with K = 2 shots and M = 9 queries of D = 11 numbers.
    """

    @pytest.fixture
    def head(self, name: str) -> Any:
        """The head of that name with its defaults."""
        return plugins.build(FAMILY, name)

    @pytest.fixture
    def task(self) -> Any:
        """Support, query and context; classes overlap, so that answers differ."""
        rng = torch.Generator().manual_seed(3)
        centre = 1.5 * torch.randn(E, N, 1, D, generator=rng)
        support = centre + torch.randn(E, N, K, D, generator=rng)
        query = centre[:, torch.arange(M) % N, 0] + torch.randn(E, M, D, generator=rng)
        support_mean, query_mean, origin = torch.randn(3, D, generator=rng) / 4
        context = Context(
            modality_dims=BLOCKS, support_mean=support_mean, query_mean=query_mean, origin=origin
        )
        return support, query, context

    def test_a_head_says_what_it_is(self, head: Head) -> None:
        assert isinstance(head, Head)
        assert head.centred_by in {"none", "support", "base", "episode"}
        assert head.transductive in (True, False)
        assert head.scale_free in (True, False)

    def test_scores_tell_classes_apart(self, head: Head, task: Any) -> None:
        support, query, context = task
        scores = head.fit(support, context)(query)
        assert scores.shape == (E, M, N)
        assert scores.isfinite().all()
        assert (scores.argmax(-1) == torch.arange(M) % N).float().mean() > 0.6

    def test_all_episodes_at_once_are_each_alone(self, head: Head, task: Any) -> None:
        support, query, context = task
        together = head.fit(support, context)(query)
        alone = [head.fit(support[i : i + 1], context)(query[i : i + 1]) for i in range(E)]
        close(together, torch.cat(alone))

    def test_scores_follow_the_order_of_queries(self, head: Head, task: Any) -> None:
        support, query, context = task
        predict, order = head.fit(support, context), torch.tensor([3, 0, 6, 1, 5, 8, 2, 4, 7])
        close(predict(query[:, order]), predict(query)[:, order])

    def test_a_query_does_not_see_the_others_unless_the_head_says_so(
        self, head: Head, task: Any
    ) -> None:
        support, query, context = task
        predict = head.fit(support, context)
        same = torch.allclose(predict(query[:, :3]), predict(query)[:, :3], rtol=1e-4, atol=2e-4)
        assert same != head.transductive

    def test_scores_follow_the_order_of_classes_and_not_that_of_shots(
        self, head: Head, task: Any
    ) -> None:
        support, query, context = task
        scores = head.fit(support, context)(query)
        order = torch.tensor([2, 0, 1])
        close(head.fit(support[:, order], context)(query), scores[..., order])
        close(head.fit(support.flip(2), context)(query), scores)

    def test_nothing_leaks_from_one_fit_to_the_next(self, head: Head, task: Any) -> None:
        support, query, context = task
        first = head.fit(support, context)
        before = first(query)
        head.fit(support.flip(0) + 1, context)(query)
        assert torch.equal(first(query), before)

    def test_the_origin_decides_nothing(self, head: Head, task: Any) -> None:
        support, query, context = task
        close(
            head.fit(support, context)(query),
            head.fit(support, replace(context, origin=None))(query),
        )

    def test_a_head_that_is_not_scale_free_says_with_which_settings(self, name: str) -> None:
        claimed = {plugins.build(FAMILY, spec).scale_free for spec in settings_of(name)}
        doc = " ".join(plugins.module(FAMILY, name).__doc__.split())
        assert ("Not scale-free" in doc) == (False in claimed)

    @pytest.mark.parametrize(
        ("settings", "scales"),
        [
            (one_at_a_time, (1e-6, 1e4)),
            pytest.param(settings_of, (1e-6, 1e-3, 0.3, 1e4), marks=pytest.mark.soak),
        ],
        ids=["ends", "all"],
    )
    def test_heads_that_claim_to_be_scale_free_answer_alike_for_vectors_of_any_length(
        self, name: str, task: Any, settings: Any, scales: Any
    ) -> None:
        support, query, context = task
        for spec in settings(name):
            built = plugins.build(FAMILY, spec)
            if not built.scale_free:
                continue
            expected = built.fit(support, context)(query).argmax(-1)
            for scale in scales:
                scaled = {
                    key: getattr(context, key) * scale
                    for key in ("support_mean", "query_mean", "origin")
                }
                scores = built.fit(support * scale, replace(context, **scaled))(query * scale)
                assert torch.equal(scores.argmax(-1), expected), (spec, scale)

    @pytest.mark.parametrize("length", [1e-4, pytest.param(1e-2, marks=pytest.mark.soak), 1.0])
    def test_single_precision_gives_the_answers_of_double_precision_however_short_vectors_are(
        self, head: Head, task: Any, length: Any
    ) -> None:
        support, query, _ = task
        support, query = (
            length * torch.nn.functional.normalize(x, dim=-1) for x in (support, query)
        )
        zero = torch.zeros(D)
        context = Context(modality_dims=BLOCKS, support_mean=zero, query_mean=zero)
        single = head.fit(support, context)(query).argmax(-1)
        zero = zero.double()
        context = Context(modality_dims=BLOCKS, support_mean=zero, query_mean=zero)
        double = head.fit(support.double(), context)(query.double()).argmax(-1)
        assert torch.equal(single, double)

    @pytest.mark.parametrize("one_mode", [True, False])
    def test_looking_products_up_gives_what_vectors_give(
        self, head: Head, task: Any, one_mode: Any
    ) -> None:
        _, _, context = task
        rng = np.random.default_rng(0)
        left, right = torch.randn(2, 40, D, generator=torch.Generator().manual_seed(1))
        pair = Pair(support=left, query=left if one_mode else right, modality_dims=BLOCKS)
        if one_mode:
            context = replace(context, query_mean=context.support_mean)
        indices = np.stack([rng.permutation(40)[: N * 5].reshape(N, 5) for _ in range(20)])
        episodes = Episodes(
            indices=indices.astype(np.int32),
            classes=np.tile(np.arange(N, dtype=np.int32), (20, 1)),
            shots=2,
            seed=0,
            clips_sha256="",
        )
        expected = by_vectors(head, pair, context)(episodes)
        if isinstance(head, ProductHead) and head.by_products:
            np.testing.assert_array_equal(by_products(head, pair, context)(episodes), expected)
        if isinstance(head, GramHead) and head.by_gram:
            # A query between two classes may fall to either by rounding alone.
            got = by_gram(head, pair, context)(episodes)
            assert (got != expected).sum() <= 1
