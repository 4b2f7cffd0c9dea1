"""Each augmentation against its published formula, and on made-up classes where it must gain."""

import numpy as np
import pytest
import torch
from torch import nn

from learn.fewshot.augmentations import Base, calibration, generator, mixing, nearest
from store import plugins
from store.plugins import build

FAMILY = "learn.fewshot.augmentations"


@pytest.fixture
def base():
    rng = np.random.default_rng(0)
    class_ids = np.repeat(np.arange(4), [5, 7, 4, 6])
    vectors = torch.from_numpy(rng.gamma(2, 1, (22, 3)) + 3 * class_ids[:, None]).float()
    return Base(vectors=vectors, class_ids=class_ids)


def test_means_and_neighbours_are_the_loops(base):
    for class_id, mean in enumerate(base.means()):
        rows = base.vectors[torch.from_numpy(base.class_ids == class_id)]
        torch.testing.assert_close(mean, sum(rows) / len(rows))
    points = torch.rand(2, 3, 2, 3) * 10
    found = nearest(points, base.vectors, 4)
    for index in np.ndindex(2, 3, 2):
        distances = [(points[index] - v).square().sum().item() for v in base.vectors]
        assert found[index].tolist() == sorted(range(22), key=distances.__getitem__)[:4]


@pytest.mark.parametrize(("power", "alpha"), [(0.5, 0.0), (1.0, 0.3)])
def test_calibration_is_the_published_gaussian(base, power, alpha):
    """Mean and covariance of many draws, in the space of Tukey's ladder, against equations 6, 7."""
    config = calibration.Config(count=6000, power=power, alpha=alpha, pool=4000)
    shot = torch.tensor([7.0, 8.0, 6.0])
    made = calibration.build(config).learn(base, 0)(shot.reshape(1, 1, 1, 3))[0, 0] ** power
    raised = [
        base.vectors[torch.from_numpy(base.class_ids == c)].numpy() ** power for c in range(4)
    ]
    x = shot.numpy() ** power
    order = sorted(range(4), key=lambda c: np.square(raised[c].mean(0) - x).sum())[:2]
    mean = (sum(raised[c].mean(0) for c in order) + x) / 3
    covariance = sum(np.cov(raised[c].T) for c in order) / 2 + alpha
    np.testing.assert_allclose(made.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(made.numpy().T), covariance, atol=0.12 * covariance.max())


def test_calibration_leaves_numbers_below_zero_as_they_are(base):
    shifted = Base(vectors=base.vectors - 10, class_ids=base.class_ids)
    config = calibration.Config(count=200, alpha=0.0)
    support = torch.tensor([7.0, 8.0, 6.0]).reshape(1, 1, 1, 3)
    one = calibration.build(config).learn(shifted, 0)(support - 10)
    plain = calibration.Config(count=200, alpha=0.0, power=1.0)
    two = calibration.build(plain).learn(base, 0)(support)
    torch.testing.assert_close(one + 10, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shots", [1, 3])
def test_mixing_lies_between_a_shot_and_its_partner(base, shots):
    config = mixing.Config(count=12, near=2, share=0.5)
    support = torch.rand(2, 3, shots, 3) * 10
    made = mixing.build(config).learn(base, 5)(support)
    rng = np.random.default_rng(5)
    near = nearest(support, base.vectors, 2)
    partners = set()
    for g in range(12):
        share, of_shots = rng.beta(1, 1), rng.random() < 0.5
        step, place = rng.random(), rng.random()
        for e, n in np.ndindex(2, 3):
            x = support[e, n, g % shots]
            if of_shots and shots > 1:
                y = support[e, n, (g % shots + 1 + int(step * (shots - 1))) % shots]
                own = share
                assert not torch.equal(x, y)
            else:
                y = base.vectors[near[e, n, g % shots, int(place * 2)]]
                own = max(share, 1 - share)
            torch.testing.assert_close(made[e, n, g], own * x + (1 - own) * y)
        partners.add(of_shots and shots > 1)
    assert partners == ({False} if shots == 1 else {False, True})


def test_the_generators_cost_is_the_bound(base):
    """Equation 4: rebuilding error and divergence, written out number by number."""
    torch.manual_seed(0)
    config = generator.Config(hidden=5, latent=2, weight=0.7)
    network = generator.Network(3, config)
    other, given, noise = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 2)
    total = 0.0
    for o, g, z in zip(other, given, noise, strict=True):
        numbers = network.describe(torch.cat([o, g]))
        divergence, drawn = 0.0, []
        for i in range(2):
            mean, log_variance = numbers[i], numbers[2 + i]
            divergence += 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
            drawn.append(mean + (log_variance / 2).exp() * z[i])
        rebuilt = network.rebuild(torch.cat([torch.stack(drawn), g]))
        total += ((rebuilt - o) ** 2).sum() + 0.7 * divergence
    torch.testing.assert_close(network.cost(other, given, noise, 0.7), total / 4)
    assert isinstance(network.rebuild, nn.Sequential)


def test_pairs_are_other_clips_of_the_same_class(base):
    given, other = generator.pairs(base.class_ids, 4000, np.random.default_rng(0))
    assert (base.class_ids[given] == base.class_ids[other]).all()
    assert (given != other).all()
    share = np.bincount(base.class_ids[given]) / 4000
    assert np.abs(share - 0.25).max() < 0.03
    assert len({*zip(given.tolist(), other.tolist(), strict=True)}) == 5 * 4 + 7 * 6 + 4 * 3 + 6 * 5


def made_up(seed, per_class=30, dim=100, base_classes=24, new=12):
    """Classes of six directions, clips spread most in others; each new class is between two base
    classes, which is what all three methods live of."""
    rng = np.random.default_rng(seed)
    places = np.zeros((base_classes, dim))
    places[:, :6] = 2.0 * rng.standard_normal((base_classes, 6))
    between = places[rng.permuted(np.tile(np.arange(base_classes), (new, 1)), axis=1)[:, :2]].mean(
        1
    )
    spread = np.r_[np.full(6, 0.5), np.full(dim - 6, 0.7)]

    def clips(means):
        ids = np.repeat(np.arange(len(means)), per_class)
        return means[ids] + spread * rng.standard_normal((len(ids), dim)), ids

    return clips(places), clips(between)


def accuracy(head, support, query, make=None):
    from learn.fewshot.augmentations import AugmentedHead
    from learn.fewshot.heads import Context

    head = AugmentedHead(head=head, make=make) if make else head
    scores = head.fit(support, Context(modality_dims=(support.shape[-1],)))(query)
    truth = torch.arange(5).repeat_interleave(query.shape[1] // 5)
    return (scores.argmax(-1) == truth).float().mean(1)


@pytest.mark.parametrize("spec", ["calibration:alpha=0", "mixing", "generator"])
def test_on_made_up_classes_it_gains_three_points_at_one_shot(spec):
    (base, base_ids), (new, ids) = made_up(0)
    known = Base(vectors=torch.from_numpy(base).float(), class_ids=base_ids)
    make = build(FAMILY, plugins.parse_spec(spec, FAMILY)).learn(known, 0)
    rng = np.random.default_rng(1)
    picked = []
    for _ in range(300):
        classes = rng.choice(12, 5, replace=False)
        picked.append([rng.choice(np.flatnonzero(ids == c), 11, replace=False) for c in classes])
    clips = torch.from_numpy(new[np.array(picked)]).float()
    support, query = clips[:, :, :1], clips[:, :, 1:].flatten(1, 2)
    head = build("learn.fewshot.heads", "prototypes")
    gain = accuracy(head, support, query, make) - accuracy(head, support, query)
    half = 1.96 * gain.std() / len(gain) ** 0.5
    assert gain.mean() - half > 0.03, (gain.mean(), half)
