"""Logistic regression against scikit-learn, one episode at a time.

The judge solves by Newton's method: its default solver stops too early to judge by.
"""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from learn.fewshot.heads import Context
from learn.fewshot.heads.logistic import Config, build
from store import plugins
from store.errors import ConfigError


def task(ways, shots, *, dim=24, scale=1.0, offset=0.0, count=4):
    rng = torch.Generator().manual_seed(ways + shots)
    centre = torch.randn(count, ways, 1, dim, generator=rng) / 2
    support = centre + torch.randn(count, ways, shots, dim, generator=rng)
    query = centre[:, torch.arange(12) % ways, 0] + torch.randn(count, 12, dim, generator=rng)
    return support * scale + offset, query * scale + offset


@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (5, 5), (2, 3), (3, 20)])
@pytest.mark.parametrize(
    ("C", "scale", "offset"), [(1.0, 1.0, 0.0), (0.01, 1.0, 5.0), (100.0, 0.1, 0.0), (1.0, 30, 0)]
)
def test_equals_scikit_learn(ways, shots, C, scale, offset):
    support, query = (x.double() for x in task(ways, shots, scale=scale, offset=offset))
    logits = build(Config(C=C)).fit(support, Context(modality_dims=(24,)))(query)
    labels = np.repeat(np.arange(ways), shots)
    for s, q, got in zip(support, query, logits, strict=True):
        judge = LogisticRegression(C=C, solver="newton-cg", tol=1e-10, max_iter=1000)
        judge.fit(s.flatten(0, 1).numpy(), labels)
        np.testing.assert_allclose(got.softmax(-1), judge.predict_proba(q), atol=2e-5)
        np.testing.assert_array_equal(got.argmax(-1), judge.predict(q))


def test_single_precision_is_near_double():
    support, query = task(5, 5, dim=256, offset=1.0)
    head, context = build(Config()), Context(modality_dims=(256,))
    double = head.fit(support.double(), context)(query.double()).softmax(-1)
    single = head.fit(support, context)(query).softmax(-1)
    torch.testing.assert_close(single, double, rtol=0, atol=1e-3)


def test_lengths_can_be_made_one_first():
    support, query = task(3, 4)
    scaled = [torch.nn.functional.normalize(x, dim=-1) for x in (support, query)]
    got = build(Config(normalise=True)).fit(support, Context(modality_dims=(24,)))(query)
    expected = build(Config()).fit(scaled[0], Context(modality_dims=(24,)))(scaled[1])
    torch.testing.assert_close(got, expected)


def test_shots_that_are_all_alike_answer_nothing():
    support = torch.ones(2, 3, 2, 4)
    scores = build(Config()).fit(support, Context(modality_dims=(4,)))(torch.randn(2, 5, 4))
    torch.testing.assert_close(scores, torch.zeros_like(scores), rtol=0, atol=1e-5)


@pytest.mark.parametrize("C", [0.0, -1.0, float("inf"), float("nan")])
def test_a_penalty_out_of_bounds_is_refused(C):
    with pytest.raises(ConfigError, match="logistic: C="):
        Config(C=C)


@pytest.mark.parametrize("scale", [1e-4, 1e-3])
def test_short_vectors_are_answered_by_the_direction_that_all_penalties_have_in_the_limit(scale):
    """The first step from zero is then all there is: ridge's answers, whatever its alpha."""
    support, query = task(5, 5, scale=scale)
    context = Context(modality_dims=(24,))
    got = build(Config()).fit(support, context)(query).argmax(-1)
    limit = plugins.build("learn.fewshot.heads", "ridge:alpha=100").fit(support.double(), context)(
        query.double()
    )
    np.testing.assert_array_equal(got, limit.argmax(-1))
