"""Ridge against scikit-learn, one episode at a time."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifier

from learn.fewshot.heads import Context
from store import plugins
from store.errors import ConfigError


def episodes(ways: int, shots: int, *, dim: int = 24, count: int = 6, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    offset = 3 * torch.randn(dim, generator=rng)
    support = torch.randn(count, ways, shots, dim, generator=rng) + offset
    query = torch.randn(count, 11, dim, generator=rng) + offset
    return support, query


@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (5, 5), (2, 3), (3, 20)])
@pytest.mark.parametrize("alpha", [0.1, 1.0, 30.0])
def test_equals_scikit_learn_episode_by_episode(ways, shots, alpha):
    support, query = (side.double() for side in episodes(ways, shots))
    head = plugins.build("learn.fewshot.heads", f"ridge:alpha={alpha}")
    got = head.fit(support, Context(modality_dims=(24,)))(query)
    in_float32 = head.fit(support.float(), Context(modality_dims=(24,)))(query.float())
    labels = np.repeat(np.arange(ways), shots)
    for s, q, scores, rounded in zip(support, query, got, in_float32, strict=True):
        model = Ridge(alpha=alpha).fit(s.flatten(0, 1).numpy(), np.eye(ways)[labels])
        np.testing.assert_allclose(scores.numpy(), model.predict(q.numpy()), rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(rounded.numpy(), scores.numpy(), atol=2e-3)
        judge = RidgeClassifier(alpha=alpha).fit(s.flatten(0, 1).numpy(), labels)
        assert np.array_equal(scores.argmax(-1).numpy(), judge.predict(q.numpy()))


def test_lengths_can_be_made_one_first():
    support, query = episodes(4, 3)
    of_length_one = (torch.nn.functional.normalize(side, dim=-1) for side in (support, query))
    context = Context(modality_dims=(24,))
    plain = plugins.build("learn.fewshot.heads", "ridge")
    scaled = plugins.build("learn.fewshot.heads", "ridge:normalise=true")
    s, q = of_length_one
    torch.testing.assert_close(scaled.fit(support, context)(query), plain.fit(s, context)(q))
    assert not torch.allclose(
        scaled.fit(support, context)(query), plain.fit(support, context)(query)
    )


def test_the_origin_decides_no_answer():
    support, query = (side.double() for side in episodes(4, 3))
    head = plugins.build("learn.fewshot.heads", "ridge")
    context = Context(modality_dims=(24,), origin=support.mean((0, 1, 2)))
    got = head.fit(support, context)(query)
    torch.testing.assert_close(got, head.fit(support, Context(modality_dims=(24,)))(query))


def test_an_alpha_lost_in_rounding_is_refused():
    support, _ = episodes(5, 9)  # more shots than dimensions
    head = plugins.build("learn.fewshot.heads", "ridge:alpha=1e-30")
    with pytest.raises(ConfigError, match=r"alpha=1e-30 is lost .*raise alpha"):
        head.fit(1e4 * support, Context(modality_dims=(24,)))


@pytest.mark.parametrize("alpha", ["0", "-1", "inf", "nan"])
def test_impossible_alphas_are_refused(alpha):
    with pytest.raises(ConfigError, match="alpha"):
        plugins.build("learn.fewshot.heads", f"ridge:alpha={alpha}")


@pytest.mark.parametrize("length", [1e-6, 1e-4, 1e-2])
def test_short_vectors_get_the_answers_of_scikit_learn_in_single_precision_too(length):
    """All scores are then 1 / N and very little: rounded, they are equal."""
    support, query = (
        length * torch.nn.functional.normalize(side, dim=-1) for side in episodes(5, 5)
    )
    scores = plugins.build("learn.fewshot.heads", "ridge").fit(
        support, Context(modality_dims=(24,))
    )(query)
    labels = np.repeat(np.arange(5), 5)
    for s, q, got in zip(support.double(), query.double(), scores, strict=True):
        judge = Ridge(alpha=1.0).fit(s.flatten(0, 1).numpy(), np.eye(5)[labels])
        assert np.array_equal(got.argmax(-1).numpy(), judge.predict(q.numpy()).argmax(-1))


@pytest.mark.parametrize("ragged", [False, True])
def test_one_large_support_is_solved_by_its_numbers(ragged, monkeypatch):
    """More clips than numbers: D x D gives the scores of S x S, padding or none."""
    support, query = episodes(4, 20, count=1)
    mask = torch.ones(1, 4, 20, dtype=torch.bool)
    if ragged:
        mask[0, 0, 5:] = mask[0, 2, 17:] = False
        support = torch.where(mask[..., None], support, 99.0)
    context = Context(
        modality_dims=(24,), mask=mask if ragged else None, origin=support[0, 1].mean(0)
    )
    head = plugins.build("learn.fewshot.heads", "ridge:power=0.5,centre=support,unit=true")
    reference = head.fit(support, context)(query)
    monkeypatch.setattr("learn.fewshot.heads.ridge.MANY", 0)
    called = []
    way = type(head.core)._by_numbers
    monkeypatch.setattr(
        type(head.core), "_by_numbers", lambda *args: called.append(1) or way(*args)
    )
    torch.testing.assert_close(head.fit(support, context)(query), reference, atol=1e-6, rtol=1e-5)
    assert called
