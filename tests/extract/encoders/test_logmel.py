"""Statistics of log-mel spectra against a literal reading of their definition."""

import numpy as np
import pytest
import torch

import extract
from extract.encoders import logmel


def sound(seconds, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * 16_000)) / 16_000
    swelling = np.sin(2 * np.pi * 700 * t) * (1 + np.sin(2 * np.pi * 4 * t))
    return torch.from_numpy(0.2 * (swelling + 0.1 * rng.normal(size=len(t)))).float()


def mel(hz):
    return 2595 * np.log10(1 + hz / 700)


def literal(x):
    """Frame by frame and band by band, in double precision."""
    x = np.asarray(x, np.float64)
    x = np.pad(x, (0, max(0, 400 + 95 * 160 - len(x))))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    edges = 700 * (10 ** (np.linspace(mel(50), mel(8000), 66) / 2595) - 1)
    hz = np.linspace(0, 8000, 257)
    frames = []
    for start in range(0, len(x) - 400 + 1, 160):
        power = np.abs(np.fft.rfft(x[start : start + 400] * hann, 512)) ** 2
        bands = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            weight = np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre))
            bands.append((np.maximum(weight, 0) * power).sum())
        frames.append(np.log(np.array(bands) + 1e-5))
    spectrum = np.array(frames)
    mean = spectrum.mean(0)
    energies = []
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(96) / 96)
    for start in range(0, len(spectrum) - 96 + 1, 48):
        part = spectrum[start : start + 96]
        ups = np.fft.rfft((part - part.mean(0)) * window[:, None], axis=0)[1:17]
        energies.append(np.abs(ups) ** 2)
    energy = np.mean(energies, 0)  # rates, bands
    joined = energy.reshape(16, 16, 4).mean(2).T  # groups of bands, rates
    return np.concatenate(
        [
            np.maximum(mean - mean.mean() + 6, 0) / 1.5,
            spectrum.std(0) / 0.7,
            np.diff(spectrum, axis=0).std(0) / 0.25,
            np.log(joined.ravel() + 1e-2) / 2 / 0.8,
        ]
    )


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.37])
def test_a_row_is_what_its_definition_says(seconds):
    x = sound(seconds)
    encoder = extract.load_encoder("logmel")
    np.testing.assert_allclose(encoder(x[None])[0].numpy(), literal(x), rtol=2e-3, atol=2e-3)


def test_loudness_is_no_timbre():
    encoder, x = extract.load_encoder("logmel"), sound(1.5)
    quiet, loud = encoder(torch.stack([x, 3 * x]))
    assert (quiet - loud).abs()[:64].max() < 0.05
    assert encoder(torch.stack([x, sound(1.5, seed=1) * 0]))[:, :64].diff(dim=0).abs().max() > 0.5


def test_modulation_is_found_where_it_is():
    """A tone that swells four times a second, in the band of 700 Hz."""
    row = extract.load_encoder("logmel")(sound(4.0)[None])[0, -logmel.GROUPS["modulation"] :]
    of_band = row.view(16, 16)[int((mel(700) - mel(50)) / (mel(8000) - mel(50)) * 16)]
    assert int(of_band.argmax()) + 1 == round(4.0 * 96 / 100)


def test_silence_and_windows():
    encoder = extract.load_encoder("logmel:window_seconds=2")
    rows = encoder(torch.zeros(1, 16_000 * 5))
    assert rows.shape == (4, 448)
    assert rows.isfinite().all()
    assert encoder.identity != extract.load_encoder("logmel").identity
