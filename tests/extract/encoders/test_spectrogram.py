"""The audio front ends against numpy written out frame by frame and bin by bin."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extract.encoders._spectrogram import (
    Windows,
    htk_mel_matrix,
    slaney_mel_matrix,
    spectra,
    window_starts,
)
from store.errors import ConfigError

LENGTHS = st.integers(1, 60)


@given(samples=st.integers(1, 500), window=LENGTHS, data=st.data())
def test_windows_hold_all_sound_but_less_than_half_a_hop(samples, window, data):
    hop = data.draw(st.integers(1, window))
    starts = window_starts(samples, window, hop)
    assert len(starts) >= 1
    assert starts.tolist() == [i * hop for i in range(len(starts))]
    covered = starts[-1] + window
    assert 2 * (samples - covered) < hop  # what is left out at the end
    if len(starts) > 1:
        unheard_before = samples - (starts[-2] + window)
        assert 2 * unheard_before >= hop  # the last window was worth it
        assert starts[-2] + window <= samples  # all others are full


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(1, 1), (10, 1), (11, 1), (12, 2), (14, 2), (15, 2), (16, 3), (18, 3), (19, 3), (20, 4)],
)
def test_windows_by_hand(samples, expected):
    """Windows of 10 every 4: the second is worth it from 2 new samples on."""
    assert len(window_starts(samples, 10, 4)) == expected


@given(samples=st.integers(1, 200), length=st.integers(0, 50), data=st.data())
def test_cutting_gives_the_sound_at_each_start_and_zeros_after(samples, length, data):
    hop = data.draw(st.integers(1, length or 50))
    windows = Windows(sample_rate=10, length=length, hop=hop, shortest=7)
    sound = torch.arange(1.0, samples + 1).repeat(2, 1)
    cut = windows.cut(sound)
    starts = windows.starts(samples)
    assert cut.shape == (2, len(starts), length or max(samples, 7))
    for window, start in zip(cut[1], starts, strict=True):
        present = sound[1, start : start + len(window)]
        assert torch.equal(window[: len(present)], present)
        assert not window[len(present) :].any()
    assert windows.starts_seconds(samples).tolist() == [s / 10 for s in starts]


@pytest.mark.parametrize("hop", [0, -1, 11])
def test_a_hop_that_leaves_gaps_or_stands_still_is_refused(hop):
    with pytest.raises(ConfigError, match="hop_seconds"):
        Windows(sample_rate=1, length=10, hop=hop)


@pytest.mark.parametrize(("window", "hop", "fft"), [(400, 160, 512), (1024, 320, 1024), (5, 3, 8)])
def test_spectra_are_those_of_the_definition(window, hop, fft):
    sound = np.random.default_rng(0).standard_normal(window + 3 * hop + hop // 2)
    magnitudes = spectra(torch.from_numpy(sound).float()[None], window=window, hop=hop, fft=fft)[0]
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    turns = np.exp(-2j * np.pi * np.outer(np.arange(fft // 2 + 1), np.arange(window)) / fft)
    expected = [abs(turns @ (hann * sound[i * hop :][:window])) for i in range(4)]
    np.testing.assert_allclose(magnitudes, expected, rtol=1e-4, atol=1e-4)


def htk(hz):
    return 2595 * math.log10(1 + hz / 700)


def test_htk_mel():
    matrix = htk_mel_matrix(sample_rate=16_000, fft=512, bins=64, low_hz=125.0, high_hz=7500.0)
    width = (htk(7500) - htk(125)) / 65
    for f in range(257):
        for m in range(64):
            away = abs(htk(f * 16_000 / 512) - (htk(125) + (m + 1) * width)) / width
            assert float(matrix[f, m]) == pytest.approx(max(0, 1 - away) if f else 0, abs=2e-4)


def slaney_hz(mel):
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def test_slaney_mel():
    matrix = slaney_mel_matrix(sample_rate=32_000, fft=1024, bins=64, low_hz=50.0, high_hz=14e3)
    top = 15 + 27 * math.log(14, 6.4)
    edges = [slaney_hz(0.75 + i * (top - 0.75) / 65) for i in range(66)]
    assert edges[0] == pytest.approx(50)
    assert edges[-1] == pytest.approx(14e3)
    for m in range(64):
        a, b, c = edges[m : m + 3]
        for f in range(513):
            hz = f * 32_000 / 1024
            height = 0.0
            if a < hz <= b:
                height = (hz - a) / (b - a)
            elif b < hz < c:
                height = (c - hz) / (c - b)
            assert float(matrix[f, m]) == pytest.approx(height * 2 / (c - a), abs=1e-7)
