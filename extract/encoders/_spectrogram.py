"""Sound to windows and mel spectrograms: what the audio encoders share.

Shapes: B = sounds, N = samples, W = windows, L = samples of a window, T = frames, F = frequencies,
M = mel bins. Sound is mono, -1..1; lengths are in samples unless a name says otherwise.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from store.errors import ConfigError


def window_starts(samples: int, window: int, hop: int) -> Int[np.ndarray, "W"]:
    """Starts of the windows of a sound: every `hop`, as long as a window is full.

    One more, completed with silence, follows if it holds at least half a hop of sound that no
    earlier window holds. There is always a first window, however short the sound.
    """
    assert samples >= 1, samples
    assert 0 < hop <= window, (hop, window)
    full = max((samples - window) // hop + 1, 0)
    unheard = samples - ((full - 1) * hop + window)
    return np.arange(max(full + (2 * unheard >= hop), 1), dtype=np.int64) * hop


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Windows of `length` every `hop`, or one window over the whole sound (length 0).

    `shortest` is the least a window over the whole sound may have; silence fills up to it.
    """

    sample_rate: int  # Hz
    length: int
    hop: int
    shortest: int = 1

    def __post_init__(self) -> None:
        if self.length and not 0 < self.hop <= self.length:
            raise ConfigError(
                f"hop_seconds={self.hop / self.sample_rate:g} must be above 0 and at most the "
                f"window's {self.length / self.sample_rate:g} s"
            )

    def starts(self, samples: int) -> Int[np.ndarray, "W"]:
        """The first sample of each window of a sound."""
        if not self.length:
            return np.zeros(1, np.int64)
        return window_starts(samples, self.length, self.hop)

    def starts_seconds(self, samples: int) -> Float[np.ndarray, "W"]:
        return self.starts(samples) / self.sample_rate

    def cut(self, sound: Float[Tensor, "B N"]) -> Float[Tensor, "B W L"]:
        """The windows of each sound, all complete: zeros follow where the sound ends."""
        samples = sound.shape[1]
        length = self.length or max(samples, self.shortest)
        end = int(self.starts(samples)[-1]) + length
        sound = F.pad(sound, (0, max(end - samples, 0)))[:, :end]
        return sound.unfold(1, length, self.hop if self.length else length)


def spectra(
    sound: Float[Tensor, "*B N"], *, window: int, hop: int, fft: int
) -> Float[Tensor, "*B T F"]:
    """Magnitudes of the Fourier transforms of Hann-windowed frames, the first at sample 0."""
    hann = torch.hann_window(window, periodic=True, device=sound.device)
    return torch.fft.rfft(sound.unfold(-1, window, hop) * hann, fft).abs()


def htk_mel_matrix(
    *, sample_rate: int, fft: int, bins: int, low_hz: float, high_hz: float
) -> Float[Tensor, "F M"]:
    """Triangles of height 1 that are straight in mel.

    Source: HTK's mel scale, as in the AudioSet models' `mel_features`.
    """

    def mel(hz: Float[np.ndarray, "_"]) -> Float[np.ndarray, "_"]:
        return 1127.0 * np.log1p(hz / 700.0)

    low, high = mel(np.array([low_hz, high_hz]))
    edges = np.linspace(low, high, bins + 2)
    bands = _triangles(mel(np.linspace(0, sample_rate / 2, fft // 2 + 1)), edges)
    return torch.from_numpy(bands).float()


def slaney_mel_matrix(
    *, sample_rate: int, fft: int, bins: int, low_hz: float, high_hz: float
) -> Float[Tensor, "F M"]:
    """Triangles of equal area that are straight in Hz.

    Source: Slaney (1998), Auditory Toolbox: linear to 1 kHz (3 mel per 200 Hz), then 27 steps per
    factor of 6.4; the default of librosa.
    """
    step = np.log(6.4) / 27
    low, high = (
        15 + np.log(hz / 1000) / step if hz >= 1000 else hz * 3 / 200 for hz in (low_hz, high_hz)
    )
    mels = np.linspace(low, high, bins + 2)
    edges = np.where(mels >= 15, 1000 * np.exp((mels - 15) * step), mels * 200 / 3)
    bands = _triangles(np.linspace(0, sample_rate / 2, fft // 2 + 1), edges)
    return torch.from_numpy(bands * 2 / (edges[2:] - edges[:-2])).float()


def _triangles(
    at: Float[np.ndarray, "F"], edges: Float[np.ndarray, "M_plus_2"]
) -> Float[np.ndarray, "F M"]:
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (at[:, None] - low) / (centre - low)
    falling = (high - at[:, None]) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling))
