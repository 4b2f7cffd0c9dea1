"""TIM-GD against the paper's loss, autograd and PyTorch's Adam, one episode at a time."""

import pytest
import torch

from learn.fewshot.heads import Context, _points
from store import plugins
from store.errors import ConfigError
from tests.learn.references.tim import literal


def episodes(shots: int, *, ways: int = 4, count: int = 3, dim: int = 12):
    rng = torch.Generator().manual_seed(shots)
    support = torch.randn(count, ways, shots, dim, generator=rng, dtype=torch.float64)
    return support, torch.randn(count, 13, dim, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lmd": 1.0, "alpha": 0.0, "steps": 20, "lr": 1e-2},
        {"lmd": 0.0, "alpha": 2.0, "steps": 20, "lr": 1e-2},
        {"temperature": 40.0, "steps": 20, "lr": 1e-2},
    ],
)
def test_equals_the_literal_descent(shots, settings):
    support, query = episodes(shots, count=2 if settings else 1)  # a thousand steps by default
    spec = "tim:" + ",".join(f"{key}={value}" for key, value in settings.items())
    got = plugins.build("learn.fewshot.heads", spec).fit(support, Context(modality_dims=(12,)))(
        query
    )
    for s, q, scores in zip(support, query, got, strict=True):
        torch.testing.assert_close(scores.exp(), literal(s, q, **settings), rtol=1e-6, atol=1e-8)


def test_no_step_is_the_class_means_alone():
    support, query = episodes(3)
    unit = [torch.nn.functional.normalize(side, dim=-1) for side in (support, query)]
    context = Context(modality_dims=(12,))
    alone = plugins.build("learn.fewshot.heads", "prototypes").fit(unit[0], context)(unit[1])
    got = plugins.build("learn.fewshot.heads", "tim:steps=0").fit(support, context)(query)
    torch.testing.assert_close(got, (7.5 * alone).log_softmax(-1))


def test_working_a_few_episodes_at_a_time_changes_nothing(monkeypatch):
    support, query = episodes(2)
    head = plugins.build("learn.fewshot.heads", "tim:steps=10,lr=0.01")
    whole = head.fit(support, Context(modality_dims=(12,)))(query)
    monkeypatch.setattr(_points, "CACHE_BYTES", 1)
    torch.testing.assert_close(head.fit(support, Context(modality_dims=(12,)))(query), whole)


def test_it_works_where_gradients_are_off():
    support, query = episodes(2)
    head = plugins.build("learn.fewshot.heads", "tim:steps=10,lr=0.01")
    expected = head.fit(support, Context(modality_dims=(12,)))(query)
    with torch.inference_mode():
        got = head.fit(support, Context(modality_dims=(12,)))(query)
    torch.testing.assert_close(got, expected)


def test_clips_keep_their_gradients_to_themselves():
    support, query = episodes(2)
    support.requires_grad_()
    got = plugins.build("learn.fewshot.heads", "tim:steps=2").fit(
        support, Context(modality_dims=(12,))
    )(query)
    assert not got.requires_grad
    assert support.grad is None


@pytest.mark.parametrize(
    "setting", ["temperature=-1", "lmd=inf", "alpha=-1", "lr=nan", "steps=-1", "centre=q"]
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.fewshot.heads", f"tim:{setting}")
