import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.pipeline.batching import Packer


def forward(batch):
    """Rows that tell every element and nothing of the neighbours."""
    flat = batch.flatten(1)
    weights = torch.arange(1, flat.shape[1] + 1, dtype=torch.float32)
    return torch.stack([flat @ weights, flat.sum(1)], 1)


def clips(sizes, width=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, width, generator=generator) for n in sizes]


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 7))
def test_packed_rows_are_those_of_one_clip_at_a_time(sizes, batch_size):
    packer = Packer(forward, batch_size)
    whole = clips(sizes)
    for clip in whole:
        packer.put(clip)
    rows = packer.finish()
    assert len(rows) == len(whole)
    for got, clip in zip(rows, whole, strict=True):
        torch.testing.assert_close(got, forward(clip))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=12))
def test_unequal_shapes_do_not_mix(clips_and_widths):
    packer = Packer(forward, 3)
    whole = [torch.randn(n, width) for n, width in clips_and_widths]
    for clip in whole:
        packer.put(clip)
    for got, clip in zip(packer.finish(), whole, strict=True):
        torch.testing.assert_close(got, forward(clip))


def test_the_network_sees_one_shape_and_padding_is_zero():
    seen = []

    def watching(batch):
        seen.append(batch.clone())
        return forward(batch)

    packer = Packer(watching, 4)
    for clip in clips([3, 3, 3]):
        packer.put(clip)
    assert len(seen) == 2  # as soon as they are full
    packer.finish()
    assert {tuple(batch.shape) for batch in seen} == {(4, 3)}
    assert not seen[2][1:].any()
    assert packer.fill == pytest.approx(9 / 12)


def test_the_rows_kept_do_not_share_memory_with_the_batch():
    """A network may hand back its input; the batch is used again."""
    packer = Packer(lambda batch: batch * 1, 2)
    whole = clips([1, 1, 1, 1])
    for clip in whole:
        packer.put(clip)
    for got, clip in zip(packer.finish(), whole, strict=True):
        torch.testing.assert_close(got, clip)


def test_each_unit_starts_anew():
    packer = Packer(forward, 4)
    packer.put(clips([3])[0])
    assert len(packer.finish()) == 1
    assert packer.finish() == []
    packer.put(clips([2])[0])
    assert [len(rows) for rows in packer.finish()] == [2]
