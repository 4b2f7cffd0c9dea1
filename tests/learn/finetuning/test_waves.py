"""Every change of sound against what it says."""

import numpy as np
import pytest
import torch

from learn.finetuning import waves
from learn.finetuning.recipe import SoundSettings


def seed(number=0):
    return torch.Generator().manual_seed(number)


SOUNDS = [
    (1000 * (i + 1) + np.arange(n)).astype(np.float32) / 1e5 for i, n in enumerate((50, 20, 7))
]


def test_windows_begin_anywhere_and_silence_follows_a_short_sound():
    found = waves.windows(SOUNDS, 300, 20, SoundSettings(), seed())
    assert found.shape == (900, 20)
    starts = (1e5 * found[:300, 0] - 1000).round().int()
    assert set(starts.tolist()) == set(range(31))
    for window, start in zip(found[:300], starts, strict=True):
        assert window.tolist() == SOUNDS[0][start : start + 20].tolist()
    assert all(window.tolist() == SOUNDS[1].tolist() for window in found[300:600])
    assert all(window.tolist() == [*SOUNDS[2].tolist(), *[0] * 13] for window in found[600:])


def test_mixing_adds_a_share_of_another_clips_power():
    x = torch.randn(9, 4000, generator=seed(1))  # three windows of each of three clips
    found = waves.mixed(x, 3, 0.4, seed(2))
    generator = seed(2)
    share = 0.4 * torch.rand(9, 1, generator=generator)
    steps = torch.randint(1, 3, (9,), generator=generator).tolist()
    for i in range(9):
        other = (i + 3 * steps[i]) % 9
        assert other // 3 != i // 3
        own = share[i].item()
        expected = (1 - own) ** 0.5 * x[i] + own**0.5 * x[other]
        torch.testing.assert_close(found[i], expected)
        assert found[i].square().mean().item() == pytest.approx(1, abs=0.15)
    assert torch.equal(waves.mixed(x[:3], 3, 0.4, seed(2)), x[:3])  # nobody to mix with


def test_gain_is_in_decibels():
    x = waves.windows(SOUNDS[:1], 400, 20, SoundSettings(gain=6.0), seed())
    plain = waves.windows(SOUNDS[:1], 400, 20, SoundSettings(), seed())
    decibels = 20 * torch.log10(x[:, 0] / plain[:, 0])
    assert decibels.abs().max() <= 6
    assert decibels.std() == pytest.approx(12 / 12**0.5, abs=0.3)


@pytest.mark.parametrize("shape", [(5, 1, 40, 16), (5, 2, 40, 16), (5, 40, 16)])
def test_masks_are_stretches_of_time_and_of_bands(shape):
    x = torch.randn(shape, generator=seed(1))
    settings = SoundSettings(time_masks=1, time_share=0.5)
    assert torch.equal(waves.masked(x, SoundSettings(), seed()), x)
    found = waves.masked(x, settings, seed(4))
    width, place = torch.rand(2, 5, generator=seed(4)).tolist()
    for i in range(5):
        size = int(width[i] * 21)
        start = int(place[i] * (40 - size + 1))
        expected = x[i].clone()
        expected[..., start : start + size, :] = x[i].mean()
        torch.testing.assert_close(found[i], expected)
    bands = waves.masked(x, SoundSettings(band_masks=2, band_share=0.3), seed(4))
    changed = (bands != x).flatten(1, -2).any(1)
    assert changed.any()
    assert changed.sum(1).max() <= 2 * int(0.3 * 16 + 1)
