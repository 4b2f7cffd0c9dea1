"""Weighted fusion against a loop over shots, weights and sharpnesses, and its fast path."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from learn.fewshot.fused import FusedPredictor
from learn.fewshot.fusions import FAMILY, Prior, equal
from learn.fewshot.fusions._evidence import (
    SHARPNESSES,
    _anywhere,
    _on_a_line,
    from_classes,
    grid,
)
from learn.fewshot.fusions._shipped import Encoder, shipped
from learn.fewshot.fusions.weighted import likelihood_of_queries, of_blocks, weigh_products
from learn.fewshot.heads import Context
from learn.fewshot.modes import Pair
from learn.fewshot.tasks import Episodes
from store import plugins
from store.errors import ConfigError

N, K = 3, 3
DEFAULT = "ridge:power=0.5,centre=support,unit=true"
PRIOR = Prior(value=(0.8, 0.2), origin="given")


def literal(blocks, mask, prior):
    """The weights of one episode: every shot left out of its class in turn; distances to means of
    more or fewer shots than the average are told as of the average."""
    members = [(n, k) for n in range(N) for k in range(K) if mask[n, k]]
    counts = mask.sum(1).tolist()
    average = len(members) / N
    variances = []
    for z in blocks:
        within = sum(
            ((z[n, k] - z[n][mask[n]].mean(0)) ** 2).sum() for n, k in members
        )  # fmt: skip
        variances.append(within / (len(members) - N))
    lines = []
    for w in grid(2).double():
        alone = float(max(w) == 1) / 2
        bell = math.exp(-((w[0] - prior.value[0]) ** 2) / (2 * prior.spread**2))
        for t in SHARPNESSES:
            total = 0.0
            for n, k in members:
                if sum(m == n for m, _ in members) < 2:
                    continue
                scores = []
                for other in range(N):
                    s, less = 0.0, int(other == n)
                    for weight, z, variance in zip(w, blocks, variances, strict=True):
                        left = [z[m, j] for m, j in members if m == other and (m, j) != (n, k)]
                        s -= weight * ((z[n, k] - torch.stack(left).mean(0)) ** 2).sum()
                        off = 1 / (counts[other] - less) - 1 / (average - less)
                        s += weight * variance * off
                    scores.append(t * s)
                total += float(torch.stack(scores).log_softmax(0)[n])
            lines.append((w, total, bell, alone))
    even = max(0.02, 1 - 2 * N / mask.sum().item())
    bells = sum(bell for _, _, bell, _ in lines) / len(SHARPNESSES)
    share = [
        math.exp(ll / 2) * ((1 - even) * b / bells + even * (0.4 / 11 + 0.6 * alone))
        for _, ll, b, alone in lines
    ]
    return sum(s * line[0] for s, line in zip(share, lines, strict=True)) / sum(share)


@pytest.mark.parametrize("ragged", [False, True])
def test_weights_are_those_of_a_loop(ragged):
    rng = torch.Generator().manual_seed(0)
    means = [torch.randn(2, N, 1, size, generator=rng) for size in (6, 5)]
    shots = [m + torch.randn(2, N, K, m.shape[-1], generator=rng) for m in means]
    mask = torch.ones(2, N, K, dtype=torch.bool)
    if ragged:
        mask[0, 0, 1:] = mask[1, 2, 2:] = False
        shots = [torch.where(mask[..., None], x, 7.0) for x in shots]
    head = plugins.build("learn.fewshot.heads", DEFAULT)
    contexts = [Context(modality_dims=(x.shape[-1],), mask=mask if ragged else None) for x in shots]
    got = plugins.build(FAMILY, "weighted").weigh(head, shots, contexts, PRIOR)
    placed = [
        of_blocks(head).fitted(x, c)[0].double() for x, c in zip(shots, contexts, strict=True)
    ]
    for i in range(2):
        expected = literal([z[i] for z in placed], mask[i], PRIOR)
        torch.testing.assert_close(got[i].double(), expected, rtol=1e-4, atol=1e-5)
    assert got.std() > 0.01


@pytest.fixture
def clips():
    rng = torch.Generator().manual_seed(1)
    classes = torch.arange(60) // 12
    return {
        "visual": torch.randn(5, 20, generator=rng)[classes] + torch.randn(60, 20, generator=rng),
        "audio": torch.randn(5, 9, generator=rng)[classes] + 2 * torch.randn(60, 9, generator=rng),
    }


def predictor(vectors, head, *, queries):
    fusion = plugins.build(FAMILY, "weighted")
    views = fusion.views(vectors)
    return FusedPredictor(
        head=plugins.build("learn.fewshot.heads", head),
        fusion=fusion,
        pairs=[
            Pair(support=v.vectors, query=v.vectors, modality_dims=v.modality_dims) for v in views
        ],
        contexts=[Context(modality_dims=v.modality_dims, origin=v.vectors.mean(0)) for v in views],
        prior_of=lambda _: PRIOR,
        queries=queries,
    )


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize(
    "head",
    [DEFAULT, "prototypes", "prototypes:metric=cosine", "nearest", "gda:unit=true", "bdcspn"],
)
def test_tables_give_what_vectors_give(clips, head, shots):
    rng = np.random.default_rng(0)
    indices = np.stack(
        [[rng.permutation(12)[: shots + 2] + 12 * n for n in range(5)] for _ in range(40)]
    )
    episodes = Episodes(
        indices=indices.astype(np.int32),
        classes=np.tile(np.arange(5, dtype=np.int32), (40, 1)),
        shots=shots,
        seed=0,
        clips_sha256="",
    )
    fast, slow = (predictor(clips, head, queries=n) for n in (10**6, 0))
    assert fast.tables is not None
    assert slow.tables is None
    answers = fast.predict(episodes)
    np.testing.assert_array_equal(answers, slow.predict(episodes))
    np.testing.assert_allclose(fast.weights(episodes), slow.weights(episodes), atol=2e-5)
    fresh = predictor(clips, head, queries=10**6)  # asked for before the scores
    np.testing.assert_allclose(fresh.weights(episodes), fast.weights(episodes), atol=1e-6)
    assert (answers == np.repeat(np.arange(5), 2)).mean() > 0.4


def test_other_classes_overrule_what_is_shipped_the_more_they_are():
    rng = torch.Generator().manual_seed(3)
    truth = torch.arange(N).repeat_interleave(4)
    means = torch.randn(20, N, 1, 6, generator=rng)
    noise = torch.randn(20, N, 5, 6, generator=rng)
    sound = 3 * means + torch.randn(20, N, 5, 6, generator=rng)
    shots, queries = [x[:, :, :1] for x in (noise, sound)], [x[:, :, 1:] for x in (noise, sound)]
    head = plugins.build("learn.fewshot.heads", DEFAULT)
    likelihood = likelihood_of_queries(
        head, shots, [q.flatten(1, 2) for q in queries], [Context(modality_dims=(6,))] * 2, truth
    )
    mean = likelihood.sum(0) / (20 * len(truth))
    sight = [from_classes(mean, n, PRIOR).value[0] for n in (2, 6, 20)]
    assert PRIOR.value[0] > sight[0] > sight[1] > sight[2]
    assert sight[2] < 0.2
    assert "6 other classes" in from_classes(mean, 6, PRIOR).origin


@pytest.mark.parametrize("senses", [2, 3, 4, 6])
def test_the_grid_covers_the_simplex(senses):
    weights = grid(senses)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    assert (weights >= 0).all()
    assert len(weights) <= 300
    assert len(torch.unique(weights, dim=0)) == len(weights)
    assert all((weights == corner).all(1).any() for corner in torch.eye(senses))


SIGHT, SOUND = Encoder("visual", "mobilenetv2"), Encoder("audio", "yamnet")


def test_what_is_shipped_and_what_is_not_are_told():
    assert shipped([SIGHT, SOUND]).value == pytest.approx((0.8, 0.2))
    assert "shipped" in shipped([SIGHT, SOUND]).origin
    assert shipped([SOUND, SIGHT]).value == pytest.approx((0.2, 0.8))  # runs give sound first
    assert shipped([SIGHT, SIGHT]).value == (0.5, 0.5)
    unknown = Encoder("visual", "mae"), Encoder("audio", "vggish")
    assert shipped(unknown).value == (0.5, 0.5)
    assert "none is known of mae, vggish" in shipped(unknown).origin


def test_features_of_a_modality_share_its_weight():
    lite = Encoder("visual", "efficientnet_lite")
    several = shipped([SIGHT, lite, SOUND])
    assert several.value == pytest.approx((0.4, 0.4, 0.2))
    assert "shared evenly by the features of a modality" in several.origin
    assert several.spread > shipped([SIGHT, SOUND]).spread  # how they share it is not known
    logmel = Encoder("audio", "logmel")  # a pair of both rows: their mean
    of_two = shipped([SIGHT, lite, SOUND, logmel])
    assert of_two.value == pytest.approx((0.425, 0.425, 0.075, 0.075))
    unknown = shipped([Encoder("visual", "a"), Encoder("visual", "b"), Encoder("audio", "c")])
    assert unknown.value == pytest.approx((0.25, 0.25, 0.5))


def test_two_senses_as_good_as_each_other_are_not_torn_apart_by_chance():
    """Without a prior, five shots scatter the weights little enough to lose next to nothing."""
    rng = torch.Generator().manual_seed(4)
    classes = torch.arange(600) // 30
    vectors = {
        name: torch.relu(
            torch.randn(20, 40, generator=rng)[classes] + 2.5 * torch.randn(600, 40, generator=rng)
        )
        for name in ("visual", "audio")
    }
    drawn = np.random.default_rng(5)
    indices = np.stack(
        [
            [30 * n + drawn.permutation(30)[:10] for n in drawn.permutation(20)[:5]]
            for _ in range(300)
        ]
    )
    episodes = Episodes(
        indices=indices.astype(np.int32), classes=(indices[:, :, 0] // 30).astype(np.int32),
        shots=5, seed=0, clips_sha256="",
    )  # fmt: skip
    truth = np.repeat(np.arange(5), 5)
    weighed = predictor(vectors, DEFAULT, queries=10**6)
    weighed = replace(weighed, prior_of=lambda _: equal(2))
    evenly = replace(weighed, prior_of=lambda _: replace(equal(2), alone_until=9), _weighed=[],
                     _priors=[])  # fmt: skip
    lost = (evenly.predict(episodes) == truth).mean() - (weighed.predict(episodes) == truth).mean()
    assert (evenly.predict(episodes) == truth).mean() < 0.95
    assert lost < 0.02
    assert (evenly.weights(episodes) == 0.5).all()


def test_weights_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="sums to 1"):
        Prior(value=(0.5, 0.6), origin="")


def test_a_sense_that_some_clips_lack_is_not_told_worse_for_it():
    """Means of fewer shots are further off, which says nothing of the sense."""
    rng = torch.Generator().manual_seed(0)
    products, ways, shots = [], 50, 5
    for _ in range(2):
        x = 0.25 * torch.randn(4, ways, 1, 512, generator=rng)
        x = (x + torch.randn(4, ways, shots, 512, generator=rng)).flatten(1, 2)
        x = F.normalize(x - x.mean(1, keepdim=True), dim=-1)
        products.append(x @ x.mT)
    lacking = torch.rand(4, ways, shots, generator=rng) < 0.2
    masks = [torch.ones_like(lacking), ~lacking]
    whole = weigh_products(products, ways, equal(2))[:, 0].mean()
    uneven = weigh_products(products, ways, equal(2), masks)[:, 0].mean()
    assert float(whole) == pytest.approx(0.5, abs=0.05)
    assert float(uneven) == pytest.approx(float(whole), abs=0.12)


@pytest.mark.parametrize("away", [0.1, 4.0], ids=["near", "as far as vectors of length 1 can be"])
def test_weights_on_a_line_are_told_as_those_anywhere(away):
    rng = torch.Generator().manual_seed(3)
    behind = away * (2 * torch.rand(2, 5, 7, 25, generator=rng) - 1)
    expected = _anywhere(behind.double(), grid(2).double())
    for told in (_on_a_line(behind, grid(2)), _anywhere(behind, grid(2))):
        torch.testing.assert_close(told.double().log(), expected.log(), rtol=0, atol=2e-5)
