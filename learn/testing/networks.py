"""The promises of `Network`, as tests of any network over all modalities."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from learn.data.rows import Padded
from learn.models.networks import Network
from learn.models.projections import mean_of_rows
from store import plugins

FAMILY = "learn.models.networks"
DIMS = {"visual": 6, "audio": 5}


def build(name: str, seed: Any = 0) -> Any:
    torch.manual_seed(seed)
    return plugins.build(FAMILY, name, DIMS)


def padded(lengths: Any, dim: Any, seed: Any) -> Any:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rows = torch.randn(len(lengths), max(lengths), dim, generator=generator) * mask[..., None]
    return Padded(rows, mask, torch.arange(float(max(lengths))) * mask)


def alike(ours: Any, theirs: Any) -> Any:
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key])


class NetworkContract:
    """As a projection, and clips that lack a modality have finite answers."""

    @pytest.fixture
    def network(self, name: str) -> Any:
        return build(name).eval()

    @pytest.fixture
    def inputs(self) -> Any:
        """Clips of 3, 5 and 1 frames with 2, 1 and 4 windows of sound."""
        return {"visual": padded((3, 5, 1), 6, 0), "audio": padded((2, 1, 4), 5, 1)}

    def test_it_gives_the_outputs_it_names(self, network: Any, inputs: Any) -> None:
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
    def test_padding_never_changes_the_answer_whatever_it_holds(
        self, network: Any, inputs: Any, junk: Any
    ) -> None:
        expected = network(inputs)
        noisy, longer = {}, {}
        for m, (rows, mask, seconds) in inputs.items():
            noisy[m] = Padded(
                torch.where(mask[..., None], rows, junk), mask, torch.where(mask, seconds, junk)
            )
            longer[m] = Padded(
                F.pad(rows, (0, 0, 0, 4)), F.pad(mask, (0, 4)), F.pad(seconds, (0, 4))
            )
        alike(network(noisy), expected)
        alike(network(longer), expected)

    def test_a_clip_does_not_see_its_batch(self, network: Any, inputs: Any) -> None:
        together = network(inputs)
        for i in range(3):
            one = {m: Padded(*(part[i : i + 1] for part in x)) for m, x in inputs.items()}
            alike(network(one), {key: x[i : i + 1] for key, x in together.items()})

    def test_where_it_says_so_it_looks_at_nothing_but_means(self, name: str, inputs: Any) -> None:
        traits = getattr(plugins.module(FAMILY, name), "TRAITS", None)
        if traits is None or not traits.of_means:
            pytest.skip("it may look at every row")
        rows, mask, seconds = inputs["audio"]
        some = mask & torch.tensor([[True], [True], [False]])  # a clip without sound among them
        inputs = {**inputs, "audio": Padded(rows, some, seconds)}
        means = {
            m: Padded(mean_of_rows(x.rows, x.mask)[:, None], x.mask.any(1)[:, None], x[2][:, :1])
            for m, x in inputs.items()
        }
        answers = []
        for given in (inputs, means):
            network = build(name).train()
            torch.manual_seed(1)  # of its dropout
            answers.append(network(given))
        assert all(torch.equal(x, answers[1][key]) for key, x in answers[0].items())

    @pytest.mark.parametrize("missing", DIMS)
    def test_a_missing_modality_leaves_a_finite_answer(
        self, network: Any, inputs: Any, missing: Any
    ) -> None:
        rows, mask, seconds = inputs[missing]
        without = {**inputs, missing: Padded(rows, torch.zeros_like(mask), seconds)}
        assert all(x.isfinite().all() for x in network(without).values())
        absent = {m: x for m, x in inputs.items() if m != missing}
        fewer = network(absent)
        assert set(fewer) <= {*network.outputs, *network.hidden}
        assert all(x.isfinite().all() for x in fewer.values())

    def test_every_parameter_learns(self, name: str, inputs: Any) -> None:
        network = build(name).train()
        generator = torch.Generator().manual_seed(1)
        out = network(inputs)
        pulls = [(x * torch.randn(x.shape, generator=generator)).sum() for x in out.values()]
        cost: Any = torch.stack(pulls).sum()
        cost.backward()
        still = [
            key for key, p in network.named_parameters()
            if p.grad is None or not p.grad.isfinite().all() or not p.grad.abs().sum() > 0
        ]  # fmt: skip
        assert still == []

    def test_the_seed_decides_the_start(self, name: str) -> None:
        first, again, other = (build(name, seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)

    def test_evaluation_is_no_game_of_chance(self, network: Any, inputs: Any) -> None:
        one, two = network(inputs), network(inputs)
        assert all(torch.equal(one[key], two[key]) for key in one)
