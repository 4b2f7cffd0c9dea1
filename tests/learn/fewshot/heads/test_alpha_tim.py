"""Alpha-TIM against the paper's loss, autograd and PyTorch's Adam."""

import pytest
import torch

from learn.fewshot.heads import Context
from store import plugins
from store.errors import ConfigError
from tests.learn.references.alpha_tim import literal


@pytest.mark.parametrize("shots", [1, 3, 5])
@pytest.mark.parametrize("settings", [{}, {"alpha": 0.5}, {"alpha": 4.0, "lmd": 0.1}])
def test_equals_the_literal_descent(shots, settings):
    rng = torch.Generator().manual_seed(shots)
    support = torch.randn(2, 4, shots, 12, generator=rng, dtype=torch.float64)
    query = torch.randn(2, 13, 12, generator=rng, dtype=torch.float64)
    settings = {**settings, "steps": 15, "lr": 1e-2}
    spec = "alpha_tim:" + ",".join(f"{key}={value}" for key, value in settings.items())
    head = plugins.build("learn.fewshot.heads", spec)
    got = head.fit(support, Context(modality_dims=(12,)))(query)
    for s, q, scores in zip(support, query, got, strict=True):
        torch.testing.assert_close(scores.exp(), literal(s, q, **settings), rtol=1e-6, atol=1e-8)


def test_the_order_of_shannon_is_refused():
    with pytest.raises(ConfigError, match="head tim"):
        plugins.build("learn.fewshot.heads", "alpha_tim:alpha=1")
