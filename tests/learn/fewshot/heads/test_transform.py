"""Transforms of heads: their definition, and that heads under one are heads on its results."""

import pytest
import torch
import torch.nn.functional as F

from learn.fewshot.heads import Context
from learn.fewshot.heads._transform import Transform, Transformed, is_skewed
from store import plugins
from store.errors import ConfigError

E, N, K, M, BLOCKS = 3, 3, 2, 9, (5, 6)
STEPS = "power=0.5,centre=support"


@pytest.fixture
def task():
    rng = torch.Generator().manual_seed(3)
    centre = 1.5 * torch.randn(E, N, 1, 11, generator=rng, dtype=torch.float64) + 1
    support = centre + torch.randn(E, N, K, 11, generator=rng, dtype=torch.float64)
    query = centre[:, torch.arange(M) % N, 0] + torch.randn(E, M, 11, generator=rng).double()
    return support, query


def by_hand(support, query):
    """Signed roots less their mean over the shots of each episode, each block at 1 / sqrt(2)."""
    root_s, root_q = (x.sign() * x.abs().sqrt() for x in (support, query))
    mean = root_s.flatten(1, 2).mean(1)
    pair = root_s - mean[:, None, None], root_q - mean[:, None]
    return [
        torch.cat([F.normalize(b, dim=-1) for b in x.split(BLOCKS, dim=-1)], -1) / 2**0.5
        for x in pair
    ]


@pytest.mark.parametrize(
    ("bare", "under"),
    [
        ("prototypes", f"prototypes:{STEPS},unit=true"),
        ("nearest", f"nearest:{STEPS},unit=true"),
        ("ridge", f"ridge:{STEPS},unit=true"),
        ("logistic", f"logistic:{STEPS},unit=true"),
        ("gda", f"gda:{STEPS},unit=true"),
        ("tim:normalise=false", f"tim:{STEPS}"),
        ("finetune:normalise=false", f"finetune:{STEPS}"),
        ("laplacian:normalise=false", f"laplacian:{STEPS}"),
        ("label_propagation:normalise=false", f"label_propagation:{STEPS}"),
    ],
)
def test_a_head_under_a_transform_is_the_bare_head_on_transformed_vectors(task, bare, under):
    support, query = task
    context = Context(modality_dims=BLOCKS)
    bare, under = (plugins.build("learn.fewshot.heads", spec) for spec in (bare, under))
    placed, asked = by_hand(support, query)
    torch.testing.assert_close(
        under.fit(support, context)(query), bare.fit(placed, context)(asked), rtol=1e-5, atol=1e-7
    )
    assert under.centred_by == "support"
    assert under.scale_free


@pytest.mark.parametrize("name", ["prototypes", "ridge", "gda", "bdcspn"])
def test_products_of_one_block_give_what_vectors_give(task, name):
    support, query = task
    unit = "" if name == "bdcspn" else ",unit=true"
    head = plugins.build("learn.fewshot.heads", f"{name}:{STEPS}{unit}")
    context = Context(modality_dims=(11,), origin=support.flatten(0, 2).mean(0))
    left, right = head.embed(support.flatten(0, 2), query.flatten(0, 1), context)
    left, right = left.view(E, -1, 11), right.view(E, M, 11)
    if name == "bdcspn":
        points = torch.cat([left, right], 1)
        got = head.from_gram(points @ points.mT, N, K)
    else:
        predict = head.fit_products(left @ left.mT, N)
        got = predict(right @ left.mT, right.square().sum(-1))
    expected = head.fit(support, context)(query)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_the_mean_leaves_padding_out(task):
    support, query = task
    mask = torch.ones(E, N, K, dtype=torch.bool)
    mask[:, 0, 1] = False
    head = plugins.build("learn.fewshot.heads", f"ridge:{STEPS},unit=true")
    scores = []
    for padding in (0.0, 1e3):
        padded = torch.where(mask[..., None], support, padding)
        scores.append(head.fit(padded, Context(modality_dims=BLOCKS, mask=mask))(query))
    torch.testing.assert_close(*scores)


def test_vectors_that_are_their_mean_are_zero_and_not_rounding():
    x = torch.full((1, 3, 2, 7), 0.1)
    placed, _ = Transform(centre="support", length="unit").fitted(x, Context(modality_dims=(7,)))
    assert not placed.any()


def test_base_means_are_those_of_powers():
    base = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    transform = Transform(power=0.5, centre="base")
    mean = transform.raised(base).mean(0)
    context = Context(modality_dims=(4,), support_mean=mean, query_mean=mean)
    placed, _ = transform.fitted(base[None, :, None], context)
    assert placed.mean((0, 1, 2)).abs().max() < 1e-6


def test_nothing_to_do_leaves_the_head_itself():
    assert not isinstance(plugins.build("learn.fewshot.heads", "ridge"), Transformed)
    assert isinstance(plugins.build("learn.fewshot.heads", "ridge:power=0.9"), Transformed)


@pytest.mark.parametrize("setting", ["power=-0.5", "power=-1", "centre=query"])
def test_impossible_steps_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.fewshot.heads", f"ridge:{setting}")


@pytest.mark.parametrize("clips", [5, 40, 3000])
def test_features_after_a_relu_are_skewed_and_others_are_not(clips):
    rng = torch.Generator().manual_seed(clips)
    x = torch.randn(clips, 200, generator=rng)
    assert is_skewed(x.relu())
    assert is_skewed(1e-6 * x.exp())
    for other in (x, -x.relu(), x + 100, torch.rand(clips, 200, generator=rng), 0 * x):
        assert not is_skewed(other)
    assert not is_skewed(x[:2].relu())  # nothing can be told of two clips


def test_power_0_is_the_root_of_skewed_features_only(task):
    """Decided by all the clips that are known, or else by the shots."""
    support, query = task
    chosen, root, plain = (
        plugins.build("learn.fewshot.heads", f"prototypes:power={power},centre=support")
        for power in (0, 0.5, 1)
    )
    for context in (Context(modality_dims=BLOCKS), Context(modality_dims=BLOCKS, skewed=False)):
        expected = plain.fit(support, context)(query)
        torch.testing.assert_close(chosen.fit(support, context)(query), expected)
    skewed = Context(modality_dims=BLOCKS, skewed=True)
    expected = root.fit(support, skewed)(query)
    torch.testing.assert_close(chosen.fit(support, skewed)(query), expected)
    positive = support.exp(), query.exp()
    expected = root.fit(positive[0], Context(modality_dims=BLOCKS))(positive[1])
    found = chosen.fit(positive[0], Context(modality_dims=BLOCKS))(positive[1])
    torch.testing.assert_close(found, expected)
