"""LaplacianShot against its algorithm, query by query."""

import pytest
import torch

from learn.fewshot.heads import Context
from learn.fewshot.heads._points import neighbours
from store import plugins
from store.errors import ConfigError
from tests.learn.references.laplacian import literal


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(
    ("shots", "k", "lmd", "steps"), [(1, 3, 0.5, 20), (4, 1, 2.0, 5), (2, 99, 0.1, 3)]
)
def test_equals_the_literal_algorithm(shots, k, lmd, steps, rectify):
    rng = torch.Generator().manual_seed(k)
    support = torch.randn(5, 4, shots, 7, generator=rng, dtype=torch.float64)
    query = torch.randn(5, 14, 7, generator=rng, dtype=torch.float64)
    spec = f"laplacian:k={k},lmd={lmd},steps={steps},rectify={str(rectify).lower()}"
    got = plugins.build("learn.fewshot.heads", spec).fit(support, Context(modality_dims=(7,)))(
        query
    )
    for s, q, scores in zip(support, query, got, strict=True):
        expected = literal(s, q, k=k, lmd=lmd, steps=steps, rectify=rectify)
        torch.testing.assert_close(scores, expected)


def test_no_steps_and_no_weight_are_the_class_means_alone():
    rng = torch.Generator().manual_seed(0)
    support, query = torch.randn(3, 4, 2, 9, generator=rng), torch.randn(3, 10, 9, generator=rng)
    context = Context(modality_dims=(9,))
    unit = [torch.nn.functional.normalize(side, dim=-1) for side in (support, query)]
    alone = plugins.build("learn.fewshot.heads", "prototypes").fit(unit[0], context)(unit[1])
    for setting in ("steps=0", "lmd=0"):
        got = plugins.build("learn.fewshot.heads", f"laplacian:{setting}").fit(support, context)(
            query
        )
        torch.testing.assert_close(got, alone.softmax(-1))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_k_neighbours_are_k_and_never_the_point_itself(k):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 5, generator=rng)
    near = neighbours(torch.cdist(x, x) ** 2, k)
    assert (near.sum(-1) == k).all()
    assert (near.diagonal(dim1=1, dim2=2) == 0).all()


def test_centring_by_the_base_split():
    rng = torch.Generator().manual_seed(0)
    support, query = torch.randn(3, 4, 2, 9, generator=rng), torch.randn(3, 10, 9, generator=rng)
    mean = torch.randn(9, generator=rng)
    bare = Context(modality_dims=(9,))
    with_base = Context(modality_dims=(9,), support_mean=mean, query_mean=2 * mean)
    head = plugins.build("learn.fewshot.heads", "laplacian:centre=base")
    assert head.centred_by == "base"
    expected = plugins.build("learn.fewshot.heads", "laplacian").fit(support - mean, bare)(
        query - 2 * mean
    )
    torch.testing.assert_close(head.fit(support, with_base)(query), expected)
    with pytest.raises(ConfigError, match="base split"):
        head.fit(support, bare)(query)


def test_rectifying_says_that_queries_centred_it():
    assert plugins.build("learn.fewshot.heads", "laplacian:rectify=true").centred_by == "episode"


@pytest.mark.parametrize("setting", ["k=0", "lmd=-1", "steps=-1", "centre=query"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.fewshot.heads", f"laplacian:{setting}")
