"""PT-MAP against the paper's algorithm, in vectors, one episode at a time."""

import pytest
import torch

from learn.fewshot.heads import Context
from store import plugins
from store.errors import ConfigError
from tests.learn.references.pt_map import literal


def episodes(ways: int, shots: int, queries: int, *, count: int = 4, dim: int = 10):
    rng = torch.Generator().manual_seed(shots)
    support = torch.randn(count, ways, shots, dim, generator=rng, dtype=torch.float64)
    return support, torch.randn(count, ways * queries, dim, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize(("ways", "shots", "queries"), [(5, 1, 3), (5, 5, 15), (2, 3, 1)])
@pytest.mark.parametrize("features", ["after a ReLU", "of any sign"])
@pytest.mark.parametrize("settings", [{}, {"beta": 1.0, "lmd": 40.0, "alpha": 1.0, "steps": 3}])
def test_equals_the_literal_algorithm(ways, shots, queries, features, settings):
    support, query = episodes(ways, shots, queries)
    if features == "after a ReLU":
        support, query = support.relu(), query.relu()
    spec = "pt_map:" + ",".join(f"{key}={value}" for key, value in settings.items())
    got = plugins.build("learn.fewshot.heads", spec).fit(support, Context(modality_dims=(10,)))(
        query
    )
    for s, q, scores in zip(support, query, got, strict=True):
        torch.testing.assert_close(scores, literal(s, q, **settings), rtol=1e-6, atol=1e-8)


def test_the_plan_fills_every_class_alike():
    support, query = episodes(5, 1, 6)
    plan = plugins.build("learn.fewshot.heads", "pt_map").fit(
        support, Context(modality_dims=(10,))
    )(query)
    torch.testing.assert_close(plan.sum(1), torch.full((4, 5), 6.0, dtype=torch.float64))
    torch.testing.assert_close(
        plan.sum(2), torch.ones(4, 30, dtype=torch.float64), atol=1e-4, rtol=0
    )


def test_queries_that_cannot_be_balanced_are_refused():
    support, query = episodes(5, 1, 3)
    predict = plugins.build("learn.fewshot.heads", "pt_map").fit(
        support, Context(modality_dims=(10,))
    )
    with pytest.raises(ConfigError, match=r"14 queries are no multiple of 5 classes"):
        predict(query[:, :14])


def test_a_sampling_without_balance_is_refused():
    support, _ = episodes(5, 1, 3)
    head = plugins.build("learn.fewshot.heads", "pt_map")
    with pytest.raises(ConfigError, match="do not promise it"):
        head.fit(support, Context(modality_dims=(10,), balanced=False))


def test_two_modalities_weigh_the_same_whatever_their_scale():
    support, query = episodes(3, 2, 4)
    head, context = plugins.build("learn.fewshot.heads", "pt_map"), Context(modality_dims=(4, 6))
    scale = torch.tensor([1.0] * 4 + [100.0] * 6, dtype=torch.float64)
    got = head.fit(support * scale, context)(query * scale)
    torch.testing.assert_close(got, head.fit(support, context)(query), atol=1e-4, rtol=0)


@pytest.mark.parametrize("setting", ["beta=0", "lmd=inf", "alpha=0", "alpha=1.5", "steps=-1"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.fewshot.heads", f"pt_map:{setting}")
