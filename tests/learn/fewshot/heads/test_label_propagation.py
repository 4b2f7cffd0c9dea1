"""Label propagation against the paper's iteration, written densely for one episode."""

import math

import pytest
import torch

from learn.fewshot.heads import Context
from store import plugins
from store.errors import ConfigError
from tests.learn.references.label_propagation import literal


@pytest.mark.parametrize(
    ("shots", "k", "alpha", "sigma"), [(1, 4, 0.8, 0.5), (3, 7, 0.99, 1.0), (2, 50, 0.5, 0.3)]
)
def test_equals_the_literal_iteration(shots, k, alpha, sigma):
    rng = torch.Generator().manual_seed(shots)
    support = torch.randn(4, 3, shots, 6, generator=rng, dtype=torch.float64)
    query = torch.randn(4, 8, 6, generator=rng, dtype=torch.float64)
    spec = f"label_propagation:k={k},alpha={alpha},sigma={sigma}"
    got = plugins.build("learn.fewshot.heads", spec).fit(support, Context(modality_dims=(6,)))(
        query
    )
    for s, q, scores in zip(support, query, got, strict=True):
        expected = literal(s, q, k=k, alpha=alpha, sigma=sigma)
        torch.testing.assert_close(scores, expected, rtol=1e-7, atol=1e-9)


def test_labels_follow_a_chain_where_the_nearest_shot_misleads():
    """Two bent chains: a chain's far end lies nearer to the other chain's shot."""
    angle = torch.linspace(0, math.pi, 24, dtype=torch.float64)
    above = torch.stack([angle.cos(), angle.sin()], -1)
    below = torch.stack([1 - angle.cos(), 0.4 - angle.sin()], -1)
    support = torch.stack([above[:1], below[-1:]])[None]
    query = torch.cat([above[1:], below[:-1]])[None]
    answer = torch.arange(2).repeat_interleave(23)
    context = Context(modality_dims=(2,))
    head = plugins.build("learn.fewshot.heads", "label_propagation:k=2,alpha=0.99,normalise=false")
    assert (head.fit(support, context)(query).argmax(-1) == answer).all()
    nearest = (
        plugins.build("learn.fewshot.heads", "nearest").fit(support, context)(query).argmax(-1)
    )
    assert (nearest == answer).double().mean() < 0.9


@pytest.mark.parametrize("setting", ["k=0", "alpha=0", "alpha=1", "sigma=0", "centre=query"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.fewshot.heads", f"label_propagation:{setting}")


def test_a_clip_out_of_reach_of_all_others_does_no_harm():
    """So narrow a width that no weight to it differs from 0 in float32."""
    rng = torch.Generator().manual_seed(0)
    support, query = torch.randn(2, 3, 2, 6, generator=rng), torch.randn(2, 8, 6, generator=rng)
    head = plugins.build("learn.fewshot.heads", "label_propagation:k=3,sigma=0.01")
    got = head.fit(support, Context(modality_dims=(6,)))(query)
    assert got.isfinite().all()
