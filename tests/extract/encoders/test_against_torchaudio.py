"""Our audio front ends beside torchaudio's: filter banks, spectra and resampling.

torchaudio judges and does not serve: the published networks were trained on features of HTK's and
of librosa's making, and float64 filter banks are nearer to those than torchaudio's float32 ones.
"""

import numpy as np
import pytest
import torch

from extract.encoders._spectrogram import htk_mel_matrix, slaney_mel_matrix, spectra
from extract.media.sound import resample

try:
    from torchaudio import functional
except OSError:  # PyPI's wheel for Linux is linked with the libraries of CUDA
    if torch.version.cuda is not None:
        raise
    pytest.skip("this torchaudio is not for a torch without CUDA", allow_module_level=True)


def test_slaney_filter_banks_are_torchaudios():
    """Of the PANNs' front end."""
    ours = slaney_mel_matrix(sample_rate=32_000, fft=1024, bins=64, low_hz=50.0, high_hz=14e3)
    theirs = functional.melscale_fbanks(513, 50.0, 14e3, 64, 32_000, "slaney", "slaney")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_htk_triangles_are_straight_in_mel_and_torchaudios_in_hz():
    """Why AudioSet's models cannot have torchaudio's: same corners, other slopes."""
    ours = htk_mel_matrix(sample_rate=16_000, fft=512, bins=64, low_hz=125.0, high_hz=7500.0)
    theirs = functional.melscale_fbanks(257, 125.0, 7500.0, 64, 16_000, None, "htk")
    assert 1e-3 < float((ours - theirs).abs().max()) < 1e-2


@pytest.mark.parametrize(("window", "hop", "fft"), [(1024, 320, 1024), (512, 160, 512)])
def test_spectra_are_torchaudios(window, hop, fft):
    sound = torch.randn(2, window + 7 * hop, generator=torch.Generator().manual_seed(0))
    ours = spectra(sound, window=window, hop=hop, fft=fft)
    theirs = functional.spectrogram(
        sound, 0, torch.hann_window(window), fft, hop, window, 1.0, False, center=False
    )
    torch.testing.assert_close(ours, theirs.mT, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 16_000), (48_000, 32_000), (22_050, 16_000)])
def test_resampled_tones_are_torchaudios(rate, wanted):
    """Away from the ends, where the two filters see different silence."""
    seconds = np.arange(rate) / rate
    tone = (
        0.5 * np.sin(2 * np.pi * 440 * seconds) + 0.2 * np.sin(2 * np.pi * 3000 * seconds)
    ).astype(np.float32)
    ours = resample(tone, rate, wanted)
    theirs = functional.resample(torch.from_numpy(tone), rate, wanted, lowpass_filter_width=64)
    inner = slice(wanted // 10, -wanted // 10)
    assert len(ours) == len(theirs)
    assert np.abs(ours[inner] - theirs.numpy()[inner]).max() < 2e-3
