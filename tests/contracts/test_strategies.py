"""Every strategy, present and future, keeps the promises of `Strategy`."""

import pytest
import torch
import torch.nn.functional as F

from learn.annotation.strategies import DEFAULT, FAMILY, Candidates, Strategy
from store import plugins

STRATEGIES = {name: plugins.build(FAMILY, name) for name in plugins.names(FAMILY)}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


def candidates(count=60, labelled=5, head=True):
    rng = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(count + labelled, 8, generator=rng), dim=1)
    margin = torch.rand(count, generator=rng) if head else None
    return Candidates(vectors=x[:count], labelled=x[count:], margin=margin)


def pick(strategy, of, count, seed=0):
    return strategy.pick(of, count, torch.Generator().manual_seed(seed))


@every_strategy
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize(("there", "asked"), [(60, 10), (3, 10), (1, 1), (60, 60)])
def test_positions_are_of_candidates_and_none_comes_twice(strategy, head, there, asked):
    assert isinstance(strategy, Strategy)
    for labelled in (0, 5):
        picked = pick(strategy, candidates(there, labelled, head), asked).tolist()
        assert len(picked) == len(set(picked)) == min(there, asked)
        assert set(picked) <= set(range(there))


@every_strategy
@pytest.mark.parametrize("head", [True, False])
def test_the_seed_decides_everything_and_nothing_is_changed(strategy, head):
    of = candidates(head=head)
    before = of.vectors.clone()
    torch.manual_seed(1)
    first = pick(strategy, of, 20)
    torch.manual_seed(2)
    assert torch.equal(first, pick(strategy, of, 20))
    assert torch.equal(before, of.vectors)


def test_there_is_a_default():
    assert DEFAULT in STRATEGIES


def test_the_least_sure_come_first_and_twins_do_not_follow_each_other():
    x = torch.eye(6)
    twins = torch.cat([x[:1], x[:1], x])
    margin = torch.tensor([0.0, 0.01, 0.5, 0.2, 0.6, 0.7, 0.8, 0.9])
    of = Candidates(vectors=twins, labelled=x[:0], margin=margin)
    assert pick(STRATEGIES["margin"], of, 3).tolist() == [0, 1, 3]
    assert pick(STRATEGIES["uncertain_diverse"], of, 3).tolist() == [0, 3, 4]


def test_before_a_head_clips_that_stand_for_many_come_first():
    crowd = F.normalize(torch.tensor([[1.0, 0.1 * i, 0.0] for i in range(-5, 6)]), dim=1)
    loner = torch.tensor([[0.0, 0.0, 1.0]])
    of = Candidates(vectors=torch.cat([loner, crowd]), labelled=loner[:0], margin=None)
    picked = pick(STRATEGIES["uncertain_diverse"], of, 2).tolist()
    assert picked == [6, 0]  # the middle of the crowd, then who is like none of it
