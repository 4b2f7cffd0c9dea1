"""LaplacianShot against its algorithm, query by query."""

import math

import pytest
import torch

from learn.heads import Context
from learn.heads._points import neighbours
from store import plugins
from store.errors import ConfigError


def softmax(values):
    exps = [math.exp(v - max(values)) for v in values]
    return [e / sum(exps) for e in exps]


def rectified(support, query, means):
    """Each class's mean over its shots and predicted queries x of p(class | x) x."""
    ways = len(means)

    def p(x):
        return softmax([10 * float(x @ m / (x.norm() * m.norm())) for m in means])

    members = [list(support[n]) for n in range(ways)]
    for x in query:
        members[max(range(ways), key=p(x).__getitem__)].append(x)
    return [sum(p(x)[n] * x for x in members[n]) / len(members[n]) for n in range(ways)]


def literal(support, query, *, k: int, lmd: float, steps: int, rectify: bool):
    ways, shots, dim = support.shape
    support = torch.stack([x / x.norm() for x in support.flatten(0, 1)]).view(ways, shots, dim)
    query = torch.stack([x / x.norm() for x in query])
    means = [support[n].mean(0) for n in range(ways)]
    if rectify:
        query = query + (support.flatten(0, 1).mean(0) - query.mean(0))
        means = rectified(support, query, means)
    unary = [[float((x - m) @ (x - m)) for m in means] for x in query]
    near = []
    for i, x in enumerate(query):
        others = sorted(
            (j for j in range(len(query)) if j != i), key=lambda j: float((x - query[j]).norm())
        )
        near.append(others[:k])
    Y = [softmax([-a for a in row]) for row in unary]
    for _ in range(steps):
        Y = [
            softmax([-unary[i][n] + lmd * sum(Y[j][n] for j in near[i]) for n in range(ways)])
            for i in range(len(query))
        ]
    return torch.tensor(Y, dtype=torch.float64)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(
    ("shots", "k", "lmd", "steps"), [(1, 3, 0.5, 20), (4, 1, 2.0, 5), (2, 99, 0.1, 3)]
)
def test_equals_the_literal_algorithm(shots, k, lmd, steps, rectify):
    rng = torch.Generator().manual_seed(k)
    support = torch.randn(5, 4, shots, 7, generator=rng, dtype=torch.float64)
    query = torch.randn(5, 14, 7, generator=rng, dtype=torch.float64)
    spec = f"laplacian:k={k},lmd={lmd},steps={steps},rectify={str(rectify).lower()}"
    got = plugins.build("learn.heads", spec).fit(support, Context(blocks=(7,)))(query)
    for s, q, scores in zip(support, query, got, strict=True):
        expected = literal(s, q, k=k, lmd=lmd, steps=steps, rectify=rectify)
        torch.testing.assert_close(scores, expected)


def test_no_steps_and_no_weight_are_the_class_means_alone():
    rng = torch.Generator().manual_seed(0)
    support, query = torch.randn(3, 4, 2, 9, generator=rng), torch.randn(3, 10, 9, generator=rng)
    context = Context(blocks=(9,))
    unit = [torch.nn.functional.normalize(side, dim=-1) for side in (support, query)]
    alone = plugins.build("learn.heads", "prototypes").fit(unit[0], context)(unit[1])
    for setting in ("steps=0", "lmd=0"):
        got = plugins.build("learn.heads", f"laplacian:{setting}").fit(support, context)(query)
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
    bare = Context(blocks=(9,))
    with_base = Context(blocks=(9,), support_mean=mean, query_mean=2 * mean)
    head = plugins.build("learn.heads", "laplacian:centre=base")
    assert head.centred_by == "base"
    expected = plugins.build("learn.heads", "laplacian").fit(support - mean, bare)(query - 2 * mean)
    torch.testing.assert_close(head.fit(support, with_base)(query), expected)
    with pytest.raises(ConfigError, match="base split"):
        head.fit(support, bare)(query)


def test_rectifying_says_that_queries_centred_it():
    assert plugins.build("learn.heads", "laplacian:rectify=true").centred_by == "episode"


@pytest.mark.parametrize("setting", ["k=0", "lmd=-1", "steps=-1", "centre=query"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.heads", f"laplacian:{setting}")
