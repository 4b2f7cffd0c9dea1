"""The nearest shots, judged by scikit-learn, by FAISS and by a loop over votes."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from learn.fewshot.heads import Context
from learn.fewshot.heads.nearest import Config, build
from store.errors import ConfigError
from tests.learn.references.nearest import literal

WAYS, SHOTS = 4, 5


def task(dim=9, *, whole=False, seed=0, count=8):
    """Vectors on a small grid of whole numbers have many ties, and exact distances."""
    rng = torch.Generator().manual_seed(seed)
    shape = (count, WAYS * SHOTS + 15, dim)
    points = (
        torch.randint(0, 3, shape, generator=rng).float()
        if whole
        else torch.randn(shape, generator=rng)
    )
    return points[:, : WAYS * SHOTS].unflatten(1, (WAYS, SHOTS)), points[:, WAYS * SHOTS :]


@pytest.mark.parametrize("backend", ["matmul", "faiss"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 3, 99])
def test_equals_the_loop_over_votes(backend, metric, k):
    support, query = task()
    head = build(Config(k=k, metric=metric, backend=backend))
    predictions = head.fit(support, Context(modality_dims=(9,)))(query).argmax(-1)
    for i in range(len(support)):
        assert torch.equal(predictions[i], literal(support[i], query[i], k=k, metric=metric))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_ties_go_the_same_way_in_both_backends_and_in_the_loop(k):
    support, query = task(dim=2, whole=True)
    by_matmul, by_faiss = (
        build(Config(k=k, backend=b)).fit(support, Context(modality_dims=(2,)))(query)
        for b in ("matmul", "faiss")
    )
    assert torch.equal(by_matmul, by_faiss)
    expected = [literal(s, q, k=k) for s, q in zip(support, query, strict=True)]
    assert torch.equal(by_matmul.argmax(-1), torch.stack(expected))


def test_scikit_learn_agrees_on_the_nearest_one():
    support, query = task(seed=1)
    predictions = build(Config()).fit(support, Context(modality_dims=(9,)))(query).argmax(-1)
    for s, q, got in zip(support, query, predictions, strict=True):
        judge = KNeighborsClassifier(1).fit(s.flatten(0, 1), np.repeat(np.arange(WAYS), SHOTS))
        np.testing.assert_array_equal(judge.predict(q), got)


def test_zero_vectors_are_no_reason_to_fail():
    support, query = torch.zeros(2, WAYS, SHOTS, 3), torch.zeros(2, 4, 3)
    for metric in ("euclidean", "cosine"):
        for backend in ("matmul", "faiss"):
            head = build(Config(metric=metric, backend=backend))
            scores = head.fit(support, Context(modality_dims=(3,)))(query)
            assert (scores.argmax(-1) == 0).all()


@pytest.mark.parametrize("asked", [{"k": 0}, {"metric": "l1"}, {"backend": "annoy"}])
def test_settings_out_of_bounds_are_refused(asked):
    with pytest.raises(ConfigError, match="nearest"):
        Config(**asked)
