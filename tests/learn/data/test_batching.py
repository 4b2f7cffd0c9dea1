"""Every clip once, in batches that can be made of what is in memory."""

import numpy as np
import pytest
import torch

from learn.data import batching

CLIPS = 103
BLOCKS = [np.arange(start, min(start + 10, CLIPS)) for start in range(0, CLIPS, 10)]
LENGTHS = np.random.default_rng(1).integers(1, 40, CLIPS)


def epoch(seed=0, **how):
    rng = np.random.default_rng(seed)
    return batching.Batching(**{"batch_size": 16, "lengths": LENGTHS, **how}).epoch(CLIPS, rng)


@pytest.mark.parametrize("blocks", [(), BLOCKS], ids=["memory", "streamed"])
@pytest.mark.parametrize("bucket", [0, 3])
@pytest.mark.parametrize("at_once", [1, 2, 3, 50])
def test_every_clip_once_in_batches_of_its_window(blocks, bucket, at_once):
    windows = epoch(disk_blocks=blocks, bucket=bucket, at_once=at_once)
    batches = [batch for window in windows for batch in window.batches]
    assert sorted(torch.cat(batches).tolist()) == list(range(CLIPS))
    assert all(2 <= len(batch) <= 16 for batch in batches)
    for window in windows:
        assert sorted(torch.cat(window.batches).tolist()) == window.indices.tolist()


def test_windows_are_some_blocks_and_other_ones_each_epoch():
    def sets(seed):
        return {
            frozenset(i // 10 for i in window.indices.tolist())
            for window in epoch(seed, disk_blocks=BLOCKS, at_once=3)
        }

    first, second = sets(0), sets(1)
    assert all(len(blocks) <= 4 for blocks in first)
    assert first != second
    assert sets(0) == first


def test_chance_decides_who_meets_whom():
    first, again, other = (epoch(seed)[0].batches for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_buckets_leave_less_padding_and_do_not_sort_the_epoch():
    plain, sorted_ = epoch(), epoch(bucket=7)
    counts = {"visual": LENGTHS}
    assert batching.fill(counts, plain) < 0.7 < 0.85 < batching.fill(counts, sorted_)
    means = [LENGTHS[batch.numpy()].mean() for batch in sorted_[0].batches]
    assert means != sorted(means)


def test_fill_counts_what_is_real():
    windows = [batching.Window(np.arange(4), (torch.tensor([0, 1]), torch.tensor([2, 3])))]
    assert batching.fill({"a": np.array([1, 3, 2, 2])}, windows) == 8 / 10


def test_batches_of_ways_have_as_many_clips_of_each_class_and_all_classes_all_along():
    class_ids = np.repeat(np.arange(10), 12)
    rng = np.random.default_rng(0)
    how = batching.Batching(batch_size=20, ways=5, class_ids=class_ids)
    (window,) = how.epoch(120, rng)
    assert sorted(torch.cat(window.batches).tolist()) == list(range(120))
    met = [np.unique(class_ids[batch.numpy()], return_counts=True) for batch in window.batches]
    assert len(met) == 6
    assert all(counts.tolist() == [4] * 5 for _, counts in met)
    for early, late in ((0, 1), (2, 3), (4, 5)):
        assert len({*met[early][0], *met[late][0]}) == 10
    (other,) = how.epoch(120, rng)
    assert any(not torch.equal(a, b) for a, b in zip(window.batches, other.batches, strict=True))


@pytest.mark.parametrize("blocks", [(), BLOCKS], ids=["memory", "streamed"])
def test_batches_of_ways_hold_every_clip_once_whatever_the_classes(blocks):
    class_ids = np.random.default_rng(2).integers(0, 7, CLIPS) ** 2 // 7
    windows = epoch(disk_blocks=blocks, at_once=3, ways=4, class_ids=class_ids)
    batches = [batch for window in windows for batch in window.batches]
    assert sorted(torch.cat(batches).tolist()) == list(range(CLIPS))
    assert all(len(np.unique(class_ids[batch.numpy()])) > 1 for batch in batches)
    for window in windows:
        assert sorted(torch.cat(window.batches).tolist()) == window.indices.tolist()
