"""YAMNet: MobileNetV1 on log-mel patches, trained on AudioSet; one row a window of sound.

Shapes: B = sounds, N = samples, W = windows of a sound, R = B * W, P = patches of a window,
C, K = channels in and out, h, w = map size, D = 1024.

Source: Plakal and Ellis (2020), YAMNet, tensorflow/models; Howard et al. (2017), MobileNets.

Names of the weights: `layer1.conv`, `layer{2..14}.{depthwise,pointwise}`, each with weight and
bias; batch norm is folded into them. ReLU6 throughout, padding is TensorFlow's 'SAME'. `logits` is
not used.

A patch is 96 frames of log-mel, 0.96 s (15600 samples, as frames overlap); patches start 0.48 s
apart. A window's row is the mean over the patches inside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._network import Frozen, SameConv2d
from extract.encoders._spectrogram import Windows, htk_mel_matrix, spectra
from extract.weights import loading as weight_files
from store.errors import ConfigError
from store.settings import Settings

NAME = "yamnet"
REVISION = 1  # raise when our numbers change
DIM = 1024
SAMPLE_RATE = 16_000  # Hz
FRAME, HOP, FFT = 400, 160, 512  # samples
BINS, LOW_HZ, HIGH_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.001
PATCH_FRAMES = 96
PATCHES = Windows(
    sample_rate=SAMPLE_RATE, length=FRAME + (PATCH_FRAMES - 1) * HOP, hop=PATCH_FRAMES // 2 * HOP
)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
LICENCE = "Apache-2.0 (tensorflow/models, The TensorFlow Authors); trained on AudioSet"
DESCRIPTION = Description(modality="audio", dims={"": DIM}, licence=LICENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `yamnet`."""

    weights: str = ""
    untrained: bool = False
    seed: int = 0  # of untrained weights
    window_seconds: float = 0.96  # 0: one window over the whole sound
    hop_seconds: float = 0.48

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.window_seconds and self.window_seconds < 0.96:
            raise ConfigError(
                f"{NAME}: window_seconds={self.window_seconds:g} is shorter than a patch; "
                f"give at least 0.96, or 0 for the whole sound"
            )


class Block(nn.Module):
    """A depthwise and a pointwise convolution."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.depthwise = SameConv2d(channels, channels, 3, stride, groups=channels)
        self.pointwise = nn.Conv2d(channels, out, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K _ _"]:
        return self.pointwise(self.depthwise(x).clamp(0, 6)).clamp(0, 6)


class Stem(nn.Module):
    """The first convolution, with its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = SameConv2d(1, 32, 3, 2)

    def forward(self, x: Float[Tensor, "B 1 h w"]) -> Float[Tensor, "B K _ _"]:
        return self.conv(x).clamp(0, 6)


class YAMNet(nn.Module):
    """Log-mel patches of a window to the mean of their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = Stem()
        channels = (32, *CHANNELS)
        for i, (out, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True)):
            self.add_module(f"layer{i + 2}", Block(channels[i], out, stride))

    def forward(self, x: Float[Tensor, "R P 96 64"]) -> Float[Tensor, "R D"]:
        windows, patches = x.shape[:2]
        x = x.flatten(0, 1)[:, None]
        for layer in self.children():
            x = layer(x)
        rows = x.mean((2, 3), dtype=torch.float32)
        return rows.reshape(windows, patches, -1).mean(1)


class YAMNetEncoder:
    """YAMNet as an encoder of sound."""

    name = NAME
    modality = "audio"
    dim = DIM
    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        network: Frozen,
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
        self._network, self._windows = network, windows
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
        return self._network(x)

    def __call__(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "R D"]:
        """Rows of frames or sounds as they were decoded."""
        return self.forward(self.preprocess(x))


def windows_of(config: Config) -> Windows:
    """Windows that hold whole patches, the last sample of the last patch included."""
    extra = int((config.window_seconds - 0.96) / 0.48 + 1e-6)
    return Windows(
        sample_rate=SAMPLE_RATE,
        length=PATCHES.length + extra * PATCHES.hop if config.window_seconds else 0,
        hop=round(config.hop_seconds * SAMPLE_RATE),
        shortest=PATCHES.length,
    )


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> YAMNetEncoder:
    """The encoder, with weights from a file or random ones that were asked for."""
    windows = windows_of(config)
    weights = weight_files.choose(NAME, config.weights, config.untrained)
    with torch.device("meta"):
        network = YAMNet()
    if weights:
        weight_files.load(network, weights, ignore=("logits.",))
    else:
        weight_files.initialise(network, seed=config.seed, gain=2.0)
    identity = {
        "network": NAME,
        "revision": REVISION,
        "output": "mean_of_last_map",
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
    return YAMNetEncoder(
        Frozen(network, device=device, precision=precision),
        NAME + ("-untrained" if weights is None else ""),
        windows,
        config,
        identity=identity,
        notes=weight_files.notes(weights, LICENCE),
    )
