"""Every strategy of ours keeps the promises of `Strategy`."""

import pytest
import torch
import torch.nn.functional as F

from learn.annotation.strategies import DEFAULT, Candidates
from learn.testing import StrategyContract
from learn.testing.strategies import pick
from store import plugins

FAMILY = "learn.annotation.strategies"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestStrategies(StrategyContract):
    """Of ours."""


def test_there_is_a_default():
    assert DEFAULT in plugins.names(FAMILY)


def test_the_least_sure_come_first_and_twins_do_not_follow_each_other():
    x = torch.eye(6)
    twins = torch.cat([x[:1], x[:1], x])
    margin = torch.tensor([0.0, 0.01, 0.5, 0.2, 0.6, 0.7, 0.8, 0.9])
    of = Candidates(vectors=twins, labelled=x[:0], margin=margin)
    assert pick(plugins.build(FAMILY, "margin"), of, 3).tolist() == [0, 1, 3]
    assert pick(plugins.build(FAMILY, "uncertain_diverse"), of, 3).tolist() == [0, 3, 4]


def test_before_a_head_clips_that_stand_for_many_come_first():
    crowd = F.normalize(torch.tensor([[1.0, 0.1 * i, 0.0] for i in range(-5, 6)]), dim=1)
    loner = torch.tensor([[0.0, 0.0, 1.0]])
    of = Candidates(vectors=torch.cat([loner, crowd]), labelled=loner[:0], margin=None)
    picked = pick(plugins.build(FAMILY, "uncertain_diverse"), of, 2).tolist()
    assert picked == [6, 0]  # the middle of the crowd, then who is like none of it
