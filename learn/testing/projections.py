"""The promises of `Projection`, as tests of any projection."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from learn.models.projections import Projection, mean_of_rows
from store import plugins

FAMILY = "learn.models.projections"
DIM = 6


def build(name: str, seed: Any = 0) -> Any:
    torch.manual_seed(seed)
    return plugins.build(FAMILY, name, DIM)


class ProjectionContract:
    """Padding changes nothing, a clip does not see its batch, every parameter learns."""

    @pytest.fixture
    def projection(self, name: str) -> Any:
        return build(name).eval()

    @pytest.fixture
    def batch(self) -> Any:
        """Clips of 3, 5 and 1 rows."""
        generator = torch.Generator().manual_seed(0)
        mask = torch.arange(5) < torch.tensor([[3], [5], [1]])
        rows = torch.randn(3, 5, DIM, generator=generator) * mask[..., None]
        return rows, mask, torch.arange(5.0) * mask

    def test_it_gives_one_vector_a_clip(self, projection: Any, batch: Any) -> None:
        assert isinstance(projection, Projection)
        out = projection(*batch)
        assert out.shape == (3, projection.dim_out)
        assert not torch.allclose(out[0], out[1])

    @pytest.mark.parametrize("junk", [1e30, math.inf, math.nan])
    def test_padding_never_changes_the_answer_whatever_it_holds(
        self, projection: Any, batch: Any, junk: Any
    ) -> None:
        rows, mask, seconds = batch
        expected = projection(rows, mask, seconds)
        noisy = torch.where(mask[..., None], rows, junk), mask, torch.where(mask, seconds, junk)
        torch.testing.assert_close(projection(*noisy), expected)
        longer = F.pad(rows, (0, 0, 0, 4)), F.pad(mask, (0, 4)), F.pad(seconds, (0, 4))
        torch.testing.assert_close(projection(*longer), expected)

    def test_padding_never_reaches_a_gradient(self, name: str, batch: Any) -> None:
        projection = build(name).eval()
        rows, mask, seconds = batch
        rows = torch.where(mask[..., None], rows, 1e4).requires_grad_()
        projection(rows, mask, seconds).square().sum().backward()
        assert rows.grad is not None
        assert (rows.grad[~mask] == 0).all()
        assert (rows.grad[mask] != 0).any()

    def test_a_clip_does_not_see_its_batch(self, projection: Any, batch: Any) -> None:
        together = projection(*batch)
        for i in range(3):
            alone = projection(*(part[i : i + 1] for part in batch))
            torch.testing.assert_close(alone, together[i : i + 1])

    def test_where_it_says_so_it_looks_at_nothing_but_means(self, name: str, batch: Any) -> None:
        traits = getattr(plugins.module(FAMILY, name), "TRAITS", None)
        if traits is None or not traits.of_means:
            pytest.skip("it may look at every row")
        rows, mask, seconds = batch
        mask = mask & torch.tensor([[True], [True], [False]])  # a clip without rows among them
        mean = mean_of_rows(rows, mask)[:, None], mask.any(1)[:, None], seconds[:, :1]
        answers = []
        for given in ((rows, mask, seconds), mean):
            projection = build(name).train()
            torch.manual_seed(1)  # of its dropout
            answers.append(projection(*given))
        assert torch.equal(*answers)

    def test_a_clip_without_rows_is_finite(self, projection: Any, batch: Any) -> None:
        rows, mask, seconds = batch
        assert projection(rows, torch.zeros_like(mask), seconds).isfinite().all()

    def test_every_parameter_learns(self, name: str, batch: Any) -> None:
        projection = build(name).train()
        if not list(projection.parameters()):
            pytest.skip("it has nothing to learn")
        pull = torch.randn(3, projection.dim_out, generator=torch.Generator().manual_seed(1))
        optimiser = torch.optim.SGD(projection.parameters(), lr=0.1)
        for _ in range(2):  # a layer behind one that starts at zero learns from the second step on
            optimiser.zero_grad()
            (projection(*batch) * pull).sum().backward()
            optimiser.step()
        still = [
            key
            for key, p in projection.named_parameters()
            if p.grad is None or not p.grad.isfinite().all() or not p.grad.abs().sum() > 0
        ]
        assert still == []

    def test_the_seed_decides_the_start(self, name: str) -> None:
        first, again, other = (build(name, seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(first[key], again[key]) for key in first)
        drawn = any(p.any() for p in build(name).parameters())  # zeros are no seed's
        assert not drawn or any(not torch.equal(first[key], other[key]) for key in first)

    def test_evaluation_is_no_game_of_chance(self, projection: Any, batch: Any) -> None:
        assert torch.equal(projection(*batch), projection(*batch))
