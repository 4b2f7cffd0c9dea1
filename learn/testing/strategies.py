"""The promises of `Strategy`, as tests of any strategy of labelling."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from learn.annotation.strategies import FAMILY, Candidates, Strategy
from store import plugins


def candidates(count: Any = 60, labelled: Any = 5, head: bool = True) -> Any:
    rng = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(count + labelled, 8, generator=rng), dim=1)
    margin = torch.rand(count, generator=rng) if head else None
    return Candidates(vectors=x[:count], labelled=x[count:], margin=margin)


def pick(strategy: Any, of: Any, count: Any, seed: Any = 0) -> Any:
    return strategy.pick(of, count, torch.Generator().manual_seed(seed))


class StrategyContract:
    """Positions are of candidates, none comes twice, and the seed decides everything."""

    @pytest.fixture
    def strategy(self, name: str) -> Any:
        """The strategy of that name with its defaults."""
        return plugins.build(FAMILY, name)

    @pytest.mark.parametrize("head", [True, False])
    @pytest.mark.parametrize(("there", "asked"), [(60, 10), (3, 10), (1, 1), (60, 60)])
    def test_positions_are_of_candidates_and_none_comes_twice(
        self, strategy: Any, head: bool, there: Any, asked: Any
    ) -> None:
        assert isinstance(strategy, Strategy)
        for labelled in (0, 5):
            picked = pick(strategy, candidates(there, labelled, head), asked).tolist()
            assert len(picked) == len(set(picked)) == min(there, asked)
            assert set(picked) <= set(range(there))

    @pytest.mark.parametrize("head", [True, False])
    def test_the_seed_decides_everything_and_nothing_is_changed(
        self, strategy: Any, head: bool
    ) -> None:
        of = candidates(head=head)
        before = of.vectors.clone()
        torch.manual_seed(1)
        first = pick(strategy, of, 20)
        torch.manual_seed(2)
        assert torch.equal(first, pick(strategy, of, 20))
        assert torch.equal(before, of.vectors)
