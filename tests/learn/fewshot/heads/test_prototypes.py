"""Prototypes against the definition, one query and one class at a time."""

import pytest
import torch

from learn.fewshot.heads import Context
from learn.fewshot.heads.prototypes import Config, build
from store.errors import ConfigError
from tests.learn.references.prototypes import literal

BLOCKS = (4, 6)


@pytest.fixture(params=[1, 3])
def task(request):
    rng = torch.Generator().manual_seed(request.param)
    support = torch.randn(5, 4, request.param, 10, generator=rng, dtype=torch.float64) + 1
    query = torch.randn(5, 9, 10, generator=rng, dtype=torch.float64) + 1
    means = torch.randn(3, 10, generator=rng, dtype=torch.float64) + 1
    context = Context(
        modality_dims=BLOCKS, support_mean=means[0], query_mean=means[1], origin=means[2]
    )
    return support, query, context


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "cl2n"])
@pytest.mark.parametrize("centre", ["none", "support", "base"])
def test_equals_the_literal_definition(task, metric, centre):
    support, query, context = task
    head = build(Config(metric=metric, centre=centre))
    scores = head.fit(support, context)(query)
    for i in range(len(support)):
        expected = literal(support[i], query[i], context, metric=metric, centre=centre)
        torch.testing.assert_close(scores[i], expected)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "cl2n"])
@pytest.mark.parametrize("centre", ["none", "base"])
def test_products_give_the_same_scores(task, metric, centre):
    support, query, context = task
    head = build(Config(metric=metric, centre=centre))
    left, right = head.embed(support.flatten(0, 2), query.flatten(0, 1), context)
    left, right = left.view(5, -1, 10), right.view(5, 9, 10)
    scores = head.fit_products(left @ left.mT, 4)(right @ left.mT, right.square().sum(-1))
    torch.testing.assert_close(scores, head.fit(support, context)(query))


def test_means_of_unit_vectors_are_not_scaled_again():
    """One class of two opposite-ish shots has a short mean: SimpleShot ranks it by distance."""
    x = torch.tensor([1.0, 0.0])
    support = torch.stack([torch.stack([x, torch.tensor([-0.8, 0.6])]), torch.stack([-x, -x])])
    scores = build(Config(metric="cl2n", centre="none")).fit(
        support[None], Context(modality_dims=(2,))
    )(torch.tensor([[[0.6, 0.8]]]))
    torch.testing.assert_close(scores[0, 0, 0], torch.tensor(-(0.5**2 + 0.5**2)))


def test_cl2n_centres_by_the_base_split_unless_told_otherwise():
    assert build(Config(metric="cl2n")).centred_by == "base"
    assert build(Config(metric="cosine")).centred_by == "none"
    support = torch.randn(1, 3, 2, 4)
    with pytest.raises(ConfigError, match="centre=support"):
        build(Config(metric="cl2n")).fit(support, Context(modality_dims=(4,)))


def test_far_from_zero_the_ranking_survives_single_precision():
    rng = torch.Generator().manual_seed(0)
    support = torch.randn(8, 5, 1, 512, generator=rng)
    query = support[:, :, 0] + torch.randn(8, 5, 512, generator=rng)
    head, offset = build(Config()), 1000.0
    expected = head.fit(support, Context(modality_dims=(512,)))(query)
    got = head.fit(support + offset, Context(modality_dims=(512,)))(query + offset)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=0.5)


@pytest.mark.parametrize("asked", [{"metric": "l1"}, {"centre": "mean"}])
def test_unknown_words_are_refused(asked):
    with pytest.raises(ConfigError, match="is none of"):
        Config(**asked)
