"""Fine-tuning against PyTorch's layers and optimisers, one episode at a time."""

import pytest
import torch

from learn.fewshot.heads import Context, _points
from store import plugins
from store.errors import ConfigError
from tests.learn.references.finetune import literal


def episodes(shots: int, *, ways: int = 4, count: int = 3, dim: int = 12):
    rng = torch.Generator().manual_seed(shots)
    support = torch.randn(count, ways, shots, dim, generator=rng, dtype=torch.float64)
    return support, torch.randn(count, 13, dim, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("classifier", ["linear", "cosine"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.1, "steps": 15},
        {"method": "adam", "lr": 0.02, "steps": 30, "weight_decay": 0.01},
        {"method": "adamw", "lr": 0.02, "steps": 30, "weight_decay": 0.3, "scale": 3.0},
    ],
)
def test_equals_the_optimiser_of_pytorch(shots, classifier, settings):
    support, query = episodes(shots)
    settings = {"classifier": classifier, **settings}
    spec = "finetune:" + ",".join(f"{key}={value}" for key, value in settings.items())
    got = plugins.build("learn.fewshot.heads", spec).fit(support, Context(modality_dims=(12,)))(
        query
    )
    for s, q, scores in zip(support, query, got, strict=True):
        torch.testing.assert_close(scores, literal(s, q, **settings), rtol=1e-6, atol=1e-8)


def test_no_step_of_the_cosine_classifier_is_that_of_prototypes():
    support, query = episodes(3)
    unit, context = torch.nn.functional.normalize(support, dim=-1), Context(modality_dims=(12,))
    alone = plugins.build("learn.fewshot.heads", "prototypes:metric=cosine").fit(unit, context)(
        query
    )
    spec = "finetune:classifier=cosine,steps=0,scale=10"
    got = plugins.build("learn.fewshot.heads", spec).fit(support, context)(query)
    torch.testing.assert_close(got, 10 * alone)


def test_working_a_few_episodes_at_a_time_changes_nothing(monkeypatch):
    support, query = episodes(2)
    head = plugins.build("learn.fewshot.heads", "finetune:method=adam,lr=0.01,steps=10")
    whole = head.fit(support, Context(modality_dims=(12,)))(query)
    monkeypatch.setattr(_points, "CACHE_BYTES", 1)
    torch.testing.assert_close(head.fit(support, Context(modality_dims=(12,)))(query), whole)


def test_it_is_centred_by_the_base_split_when_asked():
    support, query = episodes(2)
    shift = torch.full((12,), 50.0, dtype=torch.float64)
    context = Context(modality_dims=(12,), support_mean=shift, query_mean=shift)
    head = plugins.build("learn.fewshot.heads", "finetune:centre=base")
    got = head.fit(support + shift, context)(query + shift)
    plain = plugins.build("learn.fewshot.heads", "finetune").fit(support, context)(query)
    assert head.centred_by == "base"
    torch.testing.assert_close(got, plain)


@pytest.mark.parametrize(
    "setting",
    ["classifier=mlp", "method=lbfgs", "steps=-1", "lr=nan", "momentum=1", "weight_decay=-1",
     "centre=q"],
)  # fmt: skip
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.fewshot.heads", f"finetune:{setting}")
