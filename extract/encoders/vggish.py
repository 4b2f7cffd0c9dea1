"""VGGish: a VGG on log-mel patches, trained on videos' tags; one row a window of sound.

Shapes: B = sounds, N = samples, W = windows of a sound, R = B * W, P = patches of a window,
Q = patches of a batch, D = 128.

Source: Hershey et al. (2017), "CNN Architectures for Large-Scale Audio Classification". Names of
the weights are those of torchvggish's file, which loads as it is: `features.{0,3,6,8,11,13}` and
`embeddings.{0,2,4}`, each with weight and bias.

A row is what comes before the last activation, as TensorFlow's VGGish gives it since 2020; a ReLU
there would lose every negative number. `pca=FILE` (`vggish_pca_params`) makes AudioSet's released
features of it: 128 whole numbers 0..255.

A patch is 96 frames of log-mel, 0.96 s (15600 samples, as frames overlap); patches do not overlap.
A window's row is the mean over the patches inside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._network import Frozen
from extract.encoders._pca import Pca, read_pca
from extract.encoders._spectrogram import Windows, htk_mel_matrix, spectra
from extract.weights import loading as weight_files
from store.errors import ConfigError
from store.settings import Settings

NAME = "vggish"
REVISION = 1  # raise when our numbers change
DIM = 128
SAMPLE_RATE = 16_000  # Hz
FRAME, HOP, FFT = 400, 160, 512  # samples
BINS, LOW_HZ, HIGH_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.01
PATCH_FRAMES = 96
PATCH_SECONDS = 0.96
PATCHES = Windows(
    sample_rate=SAMPLE_RATE, length=FRAME + (PATCH_FRAMES - 1) * HOP, hop=PATCH_FRAMES * HOP
)
CHANNELS: tuple[int | None, ...] = (64, None, 128, None, 256, 256, None, 512, 512, None)
WIDTHS = (6 * 4 * 512, 4096, 4096, DIM)
LICENCE = "Apache-2.0 (VGGish, tensorflow/models, by way of torchvggish); trained on YouTube-8M"
DESCRIPTION = Description(modality="audio", dims={"": DIM}, licence=LICENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `vggish`."""

    weights: str = ""  # torchvggish's .pth, or its tensors as safetensors
    untrained: bool = False
    seed: int = 0  # of untrained weights
    pca: str = ""  # vggish_pca_params, .npz or .pth; none: the embedding itself
    window_seconds: float = PATCH_SECONDS  # 0: one window over the whole sound
    hop_seconds: float = PATCH_SECONDS

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.window_seconds and self.window_seconds < PATCH_SECONDS:
            raise ConfigError(
                f"{NAME}: window_seconds={self.window_seconds:g} is shorter than a patch; "
                f"give at least {PATCH_SECONDS}, or 0 for the whole sound"
            )


class VGGish(nn.Module):
    """Log-mel patches to their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        maps: list[nn.Module] = []
        channels = 1
        for out in CHANNELS:  # None: halve the map
            if out is None:
                maps.append(nn.MaxPool2d(2))
            else:
                maps += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()]
                channels = out
        self.features = nn.Sequential(*maps)
        rows: list[nn.Module] = []
        for width, out in pairwise(WIDTHS):
            rows += [nn.Linear(width, out), nn.ReLU()]
        self.embeddings = nn.Sequential(*rows[:-1])

    def forward(self, x: Float[Tensor, "Q 1 96 64"]) -> Float[Tensor, "Q D"]:
        x = self.features(x)
        return self.embeddings(x.permute(0, 2, 3, 1).flatten(1))  # TensorFlow's order: NHWC


class VGGishEncoder:
    """VGGish as an encoder of sound."""

    name = NAME
    modality = "audio"
    dim = DIM
    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        network: Frozen,
        pca: Pca | None,
        slug: str,
        windows: Windows,
        config: Config,
        *,
        identity: Mapping[str, Any],
        notes: Mapping[str, Any],
    ) -> None:
        self.slug, self.identity, self.notes = slug, identity, notes
        self.window_seconds, self.hop_seconds = config.window_seconds, config.hop_seconds
        self.device = network.device
        self._network, self._pca, self._windows = network, pca, windows
        mel = htk_mel_matrix(
            sample_rate=SAMPLE_RATE, fft=FFT, bins=BINS, low_hz=LOW_HZ, high_hz=HIGH_HZ
        )
        self._mel = mel.to(network.device)

    def window_starts_seconds(self, samples: int) -> Float[np.ndarray, "W"]:
        """The second at which each window of a sound starts."""
        return self._windows.starts_seconds(samples)

    def preprocess(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "R P 96 64"]:
        """The log-mel patches of every window of every sound."""
        with torch.inference_mode():
            windows = self._windows.cut(self._network.take(x)).flatten(0, 1)
            mel = spectra(PATCHES.cut(windows), window=FRAME, hop=HOP, fft=FFT) @ self._mel
            return torch.log(mel + LOG_OFFSET)

    def forward(self, x: Float[Tensor, "R P 96 64"]) -> Float[Tensor, "R D"]:
        """Rows of a preprocessed batch."""
        rows = self._network(x.flatten(0, 1)[:, None])
        rows = self._pca(rows) if self._pca else rows
        return rows.reshape(*x.shape[:2], DIM).mean(1)

    def __call__(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "R D"]:
        """Rows of frames or sounds as they were decoded."""
        return self.forward(self.preprocess(x))


def windows_of(config: Config) -> Windows:
    """Windows that hold whole patches, the last sample of the last patch included."""
    extra = int(config.window_seconds / PATCH_SECONDS - 1 + 1e-6)
    return Windows(
        sample_rate=SAMPLE_RATE,
        length=PATCHES.length + extra * PATCHES.hop if config.window_seconds else 0,
        hop=round(config.hop_seconds * SAMPLE_RATE),
        shortest=PATCHES.length,
    )


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> VGGishEncoder:
    """The encoder, with weights from a file or random ones that were asked for."""
    windows = windows_of(config)
    weights = weight_files.choose(NAME, config.weights, config.untrained)
    pca = read_pca(Path(config.pca)) if config.pca else None
    with torch.device("meta"):
        network = VGGish()
    if weights:
        weight_files.load(network, weights)
    else:
        weight_files.initialise(network, seed=config.seed, gain=2.0)
    identity = {
        "network": NAME,
        "revision": REVISION,
        "output": "embedding_before_activation",
        "pca": {"sha256": pca.sha256} if pca else None,
        "weights": weight_files.identity(weights, config.seed),
        "precision": precision,
        "preprocessing": {
            "sample_rate": SAMPLE_RATE,
            "stft": [FRAME, HOP, FFT],
            "mel": {"scale": "htk", "bins": BINS, "low_hz": LOW_HZ, "high_hz": HIGH_HZ},
            "log_offset": LOG_OFFSET,
            "patch": [PATCHES.length, PATCHES.hop],
        },
        "window_seconds": config.window_seconds,
        "hop_seconds": config.hop_seconds if config.window_seconds else 0.0,
    }
    return VGGishEncoder(
        Frozen(network, device=device, precision=precision),
        pca,
        NAME + ("-pca" if pca else "") + ("-untrained" if weights is None else ""),
        windows,
        config,
        identity=identity,
        notes=weight_files.notes(weights, LICENCE),
    )
