"""The classic task against enumeration: who is eligible, and how often each draw comes."""

from collections import Counter
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from learn.fewshot.tasks import _sampler, n_way_k_shot
from learn.fewshot.tasks.n_way_k_shot import Config, build
from store.errors import ConfigError, NotEnoughClips


def possible(groups, shots, queries):
    """Every (set of shots, set of queries) of a class whose clips have these groups."""
    clips = range(len(groups))
    for support in combinations(clips, shots):
        taken = {groups[i] for i in support}
        free = [i for i in clips if groups[i] not in taken]
        yield from ((support, query) for query in combinations(free, queries))


def drawn_pairs(clips, episodes, seed=0, ways=2, **asked):
    task = build(Config(ways=ways, episodes=episodes, **asked))(clips, seed=seed)
    class_0 = task.indices[task.classes == 0]
    shots = task.shots
    return Counter(
        (tuple(sorted(row[:shots])), tuple(sorted(row[shots:]))) for row in class_0.tolist()
    )


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    shots=st.integers(1, 3),
    queries=st.integers(1, 3),
)
def test_a_class_is_eligible_exactly_if_some_draw_exists(sizes, shots, queries):
    groups = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    exists = next(possible(groups.tolist(), shots, queries), None) is not None
    assert _sampler.enough(groups, shots, queries) == exists


@pytest.mark.parametrize("redraws", [0, pytest.param(1, marks=pytest.mark.soak), 100])
@pytest.mark.parametrize(
    ("groups", "shots", "queries"),
    [
        (None, 2, 2),
        ([0, 1, 2, 3, 4, 5], 1, 2),
        ([0, 0, 0, 1, 2, 2], 1, 3),
        ([0, 0, 0, 0, 1, 1], 2, 2),
        ([0, 0, 1, 1, 2, 2, 2], 2, 3),
    ],
)
def test_shots_and_then_queries_are_uniform(
    make_clips, monkeypatch, redraws, groups, shots, queries
):
    """With no redraw allowed the exact count does all the work; the distribution is the same."""
    monkeypatch.setattr(n_way_k_shot, "REDRAWS", redraws)
    of_class = groups or list(range(6))
    other = [9 + i for i in range(8)]
    clips = make_clips([len(of_class), 8], None if groups is None else [*of_class, *other])
    found = drawn_pairs(clips, 1000, shots=shots, queries=queries)
    by_support = Counter(support for support, _ in possible(of_class, shots, queries))
    expected = {
        pair: 1000 / len(by_support) / by_support[pair[0]]
        for pair in possible(of_class, shots, queries)
    }
    assert set(found) == set(expected)
    observed = [found[pair] for pair in expected]
    assert chisquare(observed, list(expected.values())).pvalue > 1e-3


def test_every_class_and_place_has_the_same_chance(make_clips):
    clips = make_clips([5, 20, 7, 40, 6])
    episodes = build(Config(ways=3, shots=1, queries=3, episodes=8000))(clips, seed=0)
    for place in range(3):
        assert chisquare(np.bincount(episodes.classes[:, place])).pvalue > 1e-3
    of_class = episodes.indices[episodes.classes == 1] - 5
    assert chisquare(np.bincount(of_class[:, 0])).pvalue > 1e-3
    assert chisquare(np.bincount(of_class[:, 2], minlength=20)).pvalue > 1e-3


def test_hopeless_shots_are_replaced_by_counting(make_clips):
    """Ten of twenty clips, in two groups of ten: one set in 92,378 leaves enough."""
    clips = make_clips([20, 20], [*[0] * 10, *[1] * 10, *[2] * 10, *[3] * 10])
    assert 2 / comb(20, 10) < 2e-5
    found = drawn_pairs(clips, 400, shots=10, queries=10)
    assert set(found) == {
        (tuple(range(10)), tuple(range(10, 20))),
        (tuple(range(10, 20)), tuple(range(10))),
    }
    assert chisquare(list(found.values())).pvalue > 1e-3


def test_what_else_is_asked_does_not_matter(make_clips):
    clips = make_clips([30] * 6)
    one = build(Config(ways=3, shots=1, queries=4, episodes=50))
    first = one(clips, seed=0).sha256
    build(Config(ways=3, shots=5, queries=4, episodes=50))(clips, seed=0)
    assert one(clips, seed=0).sha256 == first
    every = product((2, 3), (1, 2), (3, 4))
    tasks = (build(Config(ways=w, shots=k, queries=q, episodes=50)) for w, k, q in every)
    first_classes = {task(clips, seed=0).classes[:, 0].tobytes() for task in tasks}
    assert len(first_classes) == 8  # else a draw would depend on its sister's


def test_pools_in_pieces_change_no_promise(make_clips, monkeypatch):
    monkeypatch.setattr(n_way_k_shot, "POOL_ENTRIES", 64)
    clips = make_clips([8, 8], [0, 0, 1, 1, 2, 2, 3, 3] * 2)
    found = drawn_pairs(clips, 500, shots=1, queries=4)
    assert set(found) <= set(possible([0, 0, 1, 1, 2, 2, 3, 3], 1, 4))


def test_only_classes_with_enough_clips_take_part(make_clips):
    clips = make_clips([9, 3, 9, 10])
    episodes = build(Config(ways=3, shots=2, queries=7, episodes=100))(clips, seed=0)
    assert set(episodes.classes.ravel().tolist()) == {0, 2, 3}


def test_a_refusal_counts_clips_and_groups(make_clips):
    groups = [*range(9), *[20] * 30, *range(40, 49)]
    with pytest.raises(NotEnoughClips) as refusal:
        build(Config(ways=3, shots=1, queries=4, episodes=9))(
            make_clips([9, 30, 9], groups), seed=0
        )
    assert str(refusal.value) == (
        "3-way 1-shot with 4 queries needs 3 classes with at least 5 clips in groups kept apart; "
        "only 2 of 3 have that many (class1: 30 in 1 group). Lower ways, shots or queries."
    )


@pytest.mark.parametrize("asked", [{"ways": 1}, {"shots": 0}, {"queries": 0}, {"episodes": 0}])
def test_settings_out_of_bounds_are_refused(asked):
    with pytest.raises(ConfigError, match="less than"):
        Config(**asked)


def test_a_negative_seed_is_refused(make_clips):
    with pytest.raises(ConfigError, match="seed=-1"):
        build(Config(ways=2, queries=2))(make_clips([9, 9]), seed=-1)
