"""Draws that look at the hardest classes first are those of the obvious way, number for number."""

import numpy as np
import pytest

from learn.data.clips import QUERY, SHOT, Clips
from learn.fewshot.tasks import _sampler, any_way_any_shot, imbalanced, n_way_k_shot
from learn.fewshot.tasks._keys import Keys, first
from learn.fewshot.tasks._sampler import EpisodeSampler
from store.errors import NotEnoughClips
from tests.learn.fewshot.tasks import obvious_draws


def collection(classes, size, groups, seed=0, *, shared=0, roles=False):
    """Classes of about so many clips, each of so many groups, of which some are of all classes."""
    rng = np.random.default_rng(seed)
    class_ids = np.repeat(np.arange(classes), rng.integers(size // 2, size + 1, classes))
    group = rng.integers(0, groups, len(class_ids))
    group = np.where(group < shared, group, group + groups * class_ids)
    order = rng.permutation(len(class_ids))
    of_group = rng.choice([SHOT, QUERY, SHOT + QUERY], group.max() + 1)
    return Clips(
        ids=tuple(f"{i:05}" for i in range(len(class_ids))),
        class_ids=class_ids[order].astype(np.int32),
        classes=tuple(f"k{c:02}" for c in range(classes)),
        groups=group[order].astype(np.int32),
        split="test",
        roles=of_group[group[order]].astype(np.int32) if roles else None,
    )


def any_way(**asked):
    return any_way_any_shot.build(any_way_any_shot.Config(episodes=300, **asked))


def classic(**asked):
    return n_way_k_shot.build(n_way_k_shot.Config(ways=3, episodes=300, **asked))


DRAWS = {
    "groups that run out": (any_way(), (9, 40, 5), {}),
    "no groups": (any_way(groups="mixed"), (9, 40, 5), {}),
    "groups across classes": (any_way(groups="strict", min_ways=2), (9, 40, 8), {"shared": 3}),
    "roles": (any_way(min_ways=2), (9, 40, 12), {"roles": True}),
    "two ways": (any_way(min_ways=2, max_ways=2), (9, 40, 5), {}),
    "even": (any_way(uneven=False, max_shots=7), (9, 40, 5), {}),
    "large classes": (any_way(max_ways=6), (6, 4200, 300), {}),
    "imbalanced": (imbalanced.build(imbalanced.Config(queries=10)), (9, 60, 6), {}),
    "classic, strict": (classic(shots=3, queries=4, groups="strict"), (5, 20, 8), {"shared": 6}),
    "classic, roles": (classic(queries=4), (9, 40, 9), {"roles": True}),
}


@pytest.fixture
def obvious(monkeypatch):
    """Makes the sampler draw the obvious way."""

    def change():
        monkeypatch.setattr(EpisodeSampler, "_uniform", obvious_draws.uniform)
        monkeypatch.setattr(EpisodeSampler, "_deal", obvious_draws.deal)

    return change


@pytest.mark.parametrize("name", DRAWS)
def test_they_are_the_same_draws(name, obvious):
    task, sizes, more = DRAWS[name]
    clips = collection(*sizes, **more)
    ours = [task(clips, seed=seed) for seed in range(3)]
    obvious()
    for seed, episodes in enumerate(ours):
        expected = task(clips, seed=seed)
        assert np.array_equal(episodes.indices, expected.indices)
        assert np.array_equal(episodes.classes, expected.classes)


def test_what_cannot_be_drawn_is_told_alike(make_clips, obvious, monkeypatch):
    """Four shots are one group in the first class, and the other one in the second."""
    groups = [*[0] * 5, *[1] * 3, *[0] * 3, *[1] * 5, *range(2, 10)]
    monkeypatch.setattr(_sampler, "CLASS_DRAWS", 2)
    told = []
    for _ in range(2):
        with pytest.raises(NotEnoughClips) as refusal:
            classic(shots=4, queries=3, groups="strict")(make_clips([8, 8, 8], groups), seed=0)
        told.append(str(refusal.value))
        obvious()
    assert "class0: 8 in 2 groups" in told[0]
    assert told[0] == told[1]


@pytest.mark.parametrize("half", [False, True])
def test_keys_have_the_order_of_the_numbers_that_the_generator_gives(half):
    ours, theirs = (np.random.default_rng(5) for _ in range(2))
    if half:  # of a number of 64 bits, one half is kept for the next integer
        assert ours.integers(9, dtype=np.int32) == theirs.integers(9, dtype=np.int32)
    table, second = theirs.random((40, 33)), theirs.random((7, 33))
    keys = Keys(ours, 33)
    allowed = np.random.default_rng(0).random((40, 33)) < 0.7
    for wanted in ([3, 4, 5, 17, 39], [0, 2], []):
        rows = np.array(wanted, int)
        places = first(keys.rows(rows), allowed[rows], 6)
        order = np.argsort(np.where(allowed, table, 2)[rows], axis=1)[:, :6]
        assert np.array_equal(places, order)
    keys.next_table(40)
    rows = np.arange(7)
    assert np.array_equal(first(keys.rows(rows), second >= 0, 33), second.argsort(1))
    keys.next_table(7)
    keys.close()
    assert ours.bit_generator.state == theirs.bit_generator.state
