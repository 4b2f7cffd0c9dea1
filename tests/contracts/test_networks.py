"""Every network over all modalities, present and future, keeps the promises of `Network`."""

import math

import pytest
import torch
import torch.nn.functional as F

from learn.data.rows import Padded
from learn.models.networks import Network
from store import plugins

DIMS = {"visual": 6, "audio": 5}


def build(name, seed=0):
    torch.manual_seed(seed)
    return plugins.build("learn.models.networks", name, DIMS)


@pytest.fixture(params=plugins.names("learn.models.networks"))
def name(request):
    return request.param


@pytest.fixture
def network(name):
    return build(name).eval()


def padded(lengths, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rows = torch.randn(len(lengths), max(lengths), dim, generator=generator) * mask[..., None]
    return Padded(rows, mask, torch.arange(float(max(lengths))) * mask)


@pytest.fixture
def inputs():
    """Clips of 3, 5 and 1 frames with 2, 1 and 4 windows of sound."""
    return {"visual": padded((3, 5, 1), 6, 0), "audio": padded((2, 1, 4), 5, 1)}


def alike(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key])


def test_it_gives_the_outputs_it_names(network, inputs):
    assert isinstance(network, Network)
    out = network(inputs)
    assert {key: x.shape for key, x in out.items()} == {
        key: (3, dim) for key, dim in {**network.outputs, **network.hidden}.items()
    }
    assert set(network.outputs) <= {"visual", "audio", "av"}
    assert {key.partition(".")[0] for key in network.hidden} <= {"visual", "audio", "av"}
    assert all("." in key for key in network.hidden)
    assert all(not torch.allclose(x[0], x[1]) for x in out.values())


@pytest.mark.parametrize("junk", [1e30, math.inf, math.nan])
def test_padding_never_changes_the_answer_whatever_it_holds(network, inputs, junk):
    expected = network(inputs)
    noisy, longer = {}, {}
    for m, (rows, mask, seconds) in inputs.items():
        noisy[m] = Padded(
            torch.where(mask[..., None], rows, junk), mask, torch.where(mask, seconds, junk)
        )
        longer[m] = Padded(F.pad(rows, (0, 0, 0, 4)), F.pad(mask, (0, 4)), F.pad(seconds, (0, 4)))
    alike(network(noisy), expected)
    alike(network(longer), expected)


def test_a_clip_does_not_see_its_batch(network, inputs):
    together = network(inputs)
    for i in range(3):
        one = {m: Padded(*(part[i : i + 1] for part in x)) for m, x in inputs.items()}
        alike(network(one), {key: x[i : i + 1] for key, x in together.items()})


@pytest.mark.parametrize("missing", DIMS)
def test_a_missing_modality_leaves_a_finite_answer(network, inputs, missing):
    rows, mask, seconds = inputs[missing]
    without = {**inputs, missing: Padded(rows, torch.zeros_like(mask), seconds)}
    assert all(x.isfinite().all() for x in network(without).values())
    absent = {m: x for m, x in inputs.items() if m != missing}
    fewer = network(absent)
    assert set(fewer) <= {*network.outputs, *network.hidden}
    assert all(x.isfinite().all() for x in fewer.values())


def test_every_parameter_learns(name, inputs):
    network = build(name).train()
    generator = torch.Generator().manual_seed(1)
    out = network(inputs)
    pulls = [(x * torch.randn(x.shape, generator=generator)).sum() for x in out.values()]
    torch.stack(pulls).sum().backward()
    still = [
        key for key, p in network.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.abs().sum() > 0
    ]  # fmt: skip
    assert still == []


def test_the_seed_decides_the_start(name):
    first, again, other = (build(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_evaluation_is_no_game_of_chance(network, inputs):
    one, two = network(inputs), network(inputs)
    assert all(torch.equal(one[key], two[key]) for key in one)
