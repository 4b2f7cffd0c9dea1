"""Statistics of log-mel spectra: what sound is like without any weights; one row a window.

Shapes: B = sounds, N = samples, R = windows of all sounds, L = samples of a window, T = frames,
M = 64 bands, P = stretches of 96 frames, Q = 16 rates of modulation, G = 16 groups of four bands,
D = 448.

A row joins four groups of numbers, each divided by a fixed number, about its spread over everyday
sounds, so that none of them outweighs the others where rows are compared. A window is the whole
sound, unless windows are asked for: silence after a short sound would count.

    timbre       mean of each band over time, less the mean of all bands (no loudness),
                 plus a constant: hardly any number is below zero, as after a ReLU        64
    spread       standard deviation of each band over time                               64
    change       standard deviation of the differences from frame to frame               64
    modulation   log magnitudes of each band's ups and downs at 1.04 to 16.7 Hz         256

Bands are 64 triangles on the HTK mel scale, 50 to 8,000 Hz, of frames of 25 ms every 10 ms
(torchaudio). There is nothing to train and nothing to download: a trained network is better where
one can be had (`yamnet`, `panns`).

Source of the modulation spectrum as a feature: Dau et al. (1997); of statistics of bands: McDermott
and Simoncelli (2011), "Sound texture perception via statistics of the auditory periphery".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._network import Frozen
from extract.encoders._spectrogram import Windows, spectra
from store.errors import ConfigError
from store.settings import Settings

NAME = "logmel"
REVISION = 1  # raise when our numbers change
SAMPLE_RATE = 16_000  # Hz
FRAME, HOP, FFT = 400, 160, 512  # samples
BANDS, LOW_HZ, HIGH_HZ = 64, 50.0, 8000.0
FLOOR = 1e-5  # added to the bands' power: about the noise of 8-bit sound
STRETCH, RATES, JOINED = 96, 16, 4  # frames; modulation bins; bands
GROUPS = {"timbre": BANDS, "spread": BANDS, "change": BANDS, "modulation": RATES * BANDS // JOINED}
SCALES = {"timbre": 1.5, "spread": 0.7, "change": 0.25, "modulation": 0.8}
DIM = sum(GROUPS.values())
LIFT = 6.0  # of the timbre, in logarithms of power
SHORTEST = FRAME + (STRETCH - 1) * HOP
DESCRIPTION = Description(
    modality="audio", dims={"": DIM}, licence="none needed", weights="none", precisions=("fp32",)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `logmel`."""

    window_seconds: float = 0.0  # 0: one window over the whole sound
    hop_seconds: float = 1.0

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.window_seconds and self.window_seconds * SAMPLE_RATE < SHORTEST:
            raise ConfigError(
                f"{NAME}: window_seconds={self.window_seconds:g} is shorter than the slowest "
                f"modulation; give at least {SHORTEST / SAMPLE_RATE:.3f}, or 0 for the whole sound"
            )


class Statistics(nn.Module):
    """Log-mel spectra to rows."""

    def forward(self, x: Float[Tensor, "R T 64"]) -> Float[Tensor, "R D"]:
        """All groups, joined and scaled."""
        groups = self.groups(x)
        return torch.cat([groups[name] / SCALES[name] for name in GROUPS], dim=1)

    def groups(self, x: Float[Tensor, "R T 64"]) -> dict[str, Float[Tensor, "R _"]]:
        """Each group of numbers by its name."""
        mean = x.mean(1)
        stretches = x.unfold(1, STRETCH, STRETCH // 2)  # R P M 96
        calm = stretches - stretches.mean(-1, keepdim=True)
        hann = torch.hann_window(STRETCH, periodic=True, device=x.device, dtype=x.dtype)
        rates = torch.fft.rfft(calm * hann, dim=-1).abs()[..., 1 : RATES + 1].square().mean(1)
        joined = rates.unflatten(1, (-1, JOINED)).mean(2)  # R G Q
        return {
            "timbre": (mean - mean.mean(1, keepdim=True) + LIFT).clamp_min(0),
            "spread": x.std(1, unbiased=False),
            "change": x.diff(dim=1).std(1, unbiased=False),
            "modulation": torch.log(joined + 1e-2).flatten(1) / 2,
        }


class LogMelEncoder:
    """Statistics of log-mel spectra as an encoder of sound."""

    name = NAME
    modality = "audio"
    dim = DIM
    sample_rate = SAMPLE_RATE

    def __init__(self, network: Frozen, config: Config, *, identity: Mapping[str, Any]) -> None:
        from torchaudio.functional import melscale_fbanks

        self.slug, self.identity, self.notes = NAME, identity, {"licence": "none needed"}
        self.window_seconds, self.hop_seconds = config.window_seconds, config.hop_seconds
        self.device = network.device
        self._network, self._windows = network, windows_of(config)
        mel = melscale_fbanks(
            FFT // 2 + 1, LOW_HZ, HIGH_HZ, BANDS, SAMPLE_RATE, norm=None, mel_scale="htk"
        )
        self._mel = mel.to(network.device)

    def window_starts_seconds(self, samples: int) -> Float[np.ndarray, "W"]:
        """The second at which each window of a sound starts."""
        return self._windows.starts_seconds(samples)

    def preprocess(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "R T 64"]:
        """The log-mel spectra of every window of every sound."""
        with torch.inference_mode():
            windows = self._windows.cut(self._network.take(x)).flatten(0, 1)
            windows = F.pad(windows, (0, max(SHORTEST - windows.shape[1], 0)))
            power = spectra(windows, window=FRAME, hop=HOP, fft=FFT).square()
            return torch.log(power @ self._mel + FLOOR)

    def forward(self, x: Float[Tensor, "R T 64"]) -> Float[Tensor, "R D"]:
        """Rows of a preprocessed batch."""
        return self._network(x)

    def __call__(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "R D"]:
        """Rows of frames or sounds as they were decoded."""
        return self.forward(self.preprocess(x))


def windows_of(config: Config) -> Windows:
    """Windows of the length asked for."""
    return Windows(
        sample_rate=SAMPLE_RATE,
        length=round(config.window_seconds * SAMPLE_RATE),
        hop=round(config.hop_seconds * SAMPLE_RATE),
        shortest=SHORTEST,
    )


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> LogMelEncoder:
    """The encoder; there is nothing to load."""
    identity = {
        "network": NAME,
        "revision": REVISION,
        "output": "statistics",
        "precision": precision,
        "preprocessing": {
            "sample_rate": SAMPLE_RATE,
            "stft": [FRAME, HOP, FFT],
            "mel": {"scale": "htk", "bins": BANDS, "low_hz": LOW_HZ, "high_hz": HIGH_HZ},
            "log_offset": FLOOR,
        },
        "window_seconds": config.window_seconds,
        "hop_seconds": config.hop_seconds if config.window_seconds else 0.0,
    }
    network = Frozen(Statistics(), device=device, precision=precision)
    return LogMelEncoder(network, config, identity=identity)
