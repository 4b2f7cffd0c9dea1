"""BD-CSPN against its equations, class by class and clip by clip."""

import pytest
import torch

from learn.fewshot.heads import Context
from store import plugins
from store.errors import ConfigError
from tests.learn.references.bdcspn import literal


@pytest.mark.parametrize(("shots", "top"), [(1, 8), (1, 2), (4, 3), (2, 0)])
@pytest.mark.parametrize("epsilon", [10.0, 0.0])
def test_equals_the_literal_equations(shots, top, epsilon):
    rng = torch.Generator().manual_seed(top)
    support = torch.randn(5, 4, shots, 7, generator=rng, dtype=torch.float64)
    query = torch.randn(5, 22, 7, generator=rng, dtype=torch.float64) + 0.5
    head = plugins.build("learn.fewshot.heads", f"bdcspn:top={top},epsilon={epsilon}")
    got = head.fit(support, Context(modality_dims=(7,)))(query)
    for s, q, scores in zip(support, query, got, strict=True):
        torch.testing.assert_close(scores, literal(s, q, top=top, epsilon=epsilon))


def test_a_shift_between_the_sides_is_undone():
    """All queries moved by one vector, as by another microphone: class means alone go astray."""
    rng = torch.Generator().manual_seed(3)
    centre = torch.nn.functional.normalize(torch.randn(20, 4, 1, 32, generator=rng), dim=-1)
    support = centre + 0.02 * torch.randn(20, 4, 3, 32, generator=rng)
    query = (centre + 0.02 * torch.randn(20, 4, 6, 32, generator=rng)).flatten(1, 2)
    query = query + 1.5 * centre[:, 0]  # towards the first class
    target = torch.arange(4).repeat_interleave(6)
    accuracy = {}
    for name in ("bdcspn", "prototypes:metric=cosine"):
        got = plugins.build("learn.fewshot.heads", name).fit(support, Context(modality_dims=(32,)))(
            query
        )
        accuracy[name] = (got.argmax(-1) == target).float().mean()
    assert accuracy["bdcspn"] > 0.95
    assert accuracy["prototypes:metric=cosine"] < 0.6


@pytest.mark.parametrize("setting", ["top=-1", "epsilon=-1", "epsilon=inf"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.fewshot.heads", f"bdcspn:{setting}")
