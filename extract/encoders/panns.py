"""PANNs: CNNs on log-mel spectrograms, trained on AudioSet; one row a window of sound.

Shapes: B = sounds, N = samples, W = windows of a sound, R = B * W, T = frames, M = 64 mel bins,
C, K = channels in and out, t, m = map size, D = embedding size.

Source: Kong et al. (2020), "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern
Recognition". Names of the weights are those of the published files (Zenodo 3987831), which load as
they are, front end included.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._network import Frozen
from extract.encoders._spectrogram import Windows, slaney_mel_matrix, spectra
from extract.weights import loading as weight_files
from store.errors import ConfigError
from store.settings import Settings, setting

NAME = "panns"
REVISION = 1  # raise when our numbers change
BINS = 64
LOW_HZ = 50.0
FLOOR = 1e-10
FEWEST_FRAMES = 32  # five halvings of the map
MOBILE = (  # channels and stride of MobileNetV1's blocks
    (32, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The settings in which the networks of the family differ."""

    channels: tuple[int, ...] = ()  # of the blocks of a plain CNN; none: MobileNetV1
    kernel: int = 3  # 3: two such convolutions a block; 5: one
    sample_rate: int = 32_000  # Hz
    fft: int = 1024  # samples
    hop: int = 320
    high_hz: float = 14_000.0
    narrow: int = 1  # channels are a so-manieth of the published

    @property
    def dim(self) -> int:
        """The size of a row."""
        return (self.channels or MOBILE[-1])[-1 if self.channels else 0] // self.narrow

    @property
    def shortest(self) -> int:
        """The least samples the network takes."""
        return (FEWEST_FRAMES - 1) * self.hop


SMALL = (64, 128, 256, 512)
VARIANTS = {
    "cnn6": Variant(channels=SMALL, kernel=5),
    "cnn10": Variant(channels=SMALL),
    "cnn14": Variant(channels=(*SMALL, 1024, 2048)),
    "cnn14_16k": Variant(
        channels=(*SMALL, 1024, 2048), sample_rate=16_000, fft=512, hop=160, high_hz=8000.0
    ),
    "mobilenetv1": Variant(),
}
LICENCE = "CC BY 4.0 (PANNs, Kong et al. 2020, doi:10.5281/zenodo.3987831); trained on AudioSet"
DESCRIPTION = Description(
    modality="audio", dims={name: v.dim for name, v in VARIANTS.items()}, licence=LICENCE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `panns`."""

    variant: str = setting("cnn14", among=tuple(VARIANTS), main=True)
    weights: str = ""  # a published .pth, or its tensors as safetensors
    untrained: bool = False
    seed: int = 0  # of untrained weights
    # channels are a so-manieth of the variant's: small networks to train; none are published
    narrow: int = setting(1, among=(1, 2, 4, 8))
    window_seconds: float = 2.0  # 0: one window over the whole sound
    hop_seconds: float = 1.0

    def check(self) -> None:
        """Refuse settings that do not go together."""
        variant = variant_of(self)
        shortest_seconds = variant.shortest / variant.sample_rate
        if self.window_seconds and self.window_seconds < shortest_seconds:
            raise ConfigError(
                f"{NAME}: window_seconds={self.window_seconds:g} is shorter than the network's "
                f"{shortest_seconds:g} s; give at least that, or 0 for the whole sound"
            )


def variant_of(config: Config) -> Variant:
    """The variant that the settings name."""
    return replace(VARIANTS[config.variant], narrow=config.narrow)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions or one 5x5, and an average over squares of `pool`."""

    def __init__(self, channels: int, out: int, kernel: int, pool: int) -> None:
        super().__init__()
        # Each batch norm right after its convolution: that is how they are found and folded.
        self.conv1 = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.twice = kernel == 3
        if self.twice:
            self.conv2 = nn.Conv2d(out, out, kernel, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(out)
        self.pool = pool

    def forward(self, x: Float[Tensor, "R C t m"]) -> Float[Tensor, "R K _ _"]:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x))) if self.twice else x
        return F.avg_pool2d(x, self.pool) if self.pool > 1 else x


def plain_layers(variant: Variant) -> dict[str, nn.Module]:
    """The blocks of Cnn6, Cnn10 and Cnn14; the sixth keeps the size of its map."""
    channels = [count // variant.narrow for count in variant.channels]
    before = (1, *channels)
    return {
        f"conv_block{i + 1}": ConvBlock(before[i], out, variant.kernel, 1 if i == 5 else 2)
        for i, out in enumerate(channels)
    }


def mobile_layers(narrow: int) -> dict[str, nn.Module]:
    """MobileNetV1, whose strides are averages between a convolution and its batch norm."""
    blocks, channels = [], 1
    for i, (wide, stride) in enumerate(MOBILE):
        out = wide // narrow
        first = out if i == 0 else channels  # a full convolution, then depthwise ones
        groups = 1 if i == 0 else channels
        block = [
            nn.Conv2d(channels, first, 3, padding=1, groups=groups, bias=False),
            nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        ]
        if i:
            block += [nn.Conv2d(first, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        blocks.append(nn.Sequential(*block))
        channels = out
    return {"features": nn.Sequential(*blocks)}


class CNN(nn.Module):
    """Normalised log-mel to the embedding before the classes."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        layers = plain_layers(variant) if variant.channels else mobile_layers(variant.narrow)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.layers = tuple(layers)
        self.fc1 = nn.Linear(variant.dim, variant.dim)

    def forward(self, x: Float[Tensor, "R 1 T M"]) -> Float[Tensor, "R D"]:
        for name in self.layers:
            x = self.get_submodule(name)(x)
        x = x.mean(3)
        return F.relu(self.fc1(x.amax(2) + x.mean(2)))


class LogMel(nn.Module):
    """Sound to log-mel in dB; frames are centred on multiples of the hop, mirrored at the ends."""

    melW: Tensor  # noqa: N815 (the published name)

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.register_buffer("melW", torch.empty(variant.fft // 2 + 1, BINS))
        self.fft, self.hop = variant.fft, variant.hop

    def forward(self, sound: Float[Tensor, "R N"]) -> Float[Tensor, "R T M"]:
        sound = F.pad(sound[:, None], (self.fft // 2, self.fft // 2), mode="reflect")[:, 0]
        power = spectra(sound, window=self.fft, hop=self.hop, fft=self.fft) ** 2
        return 10 * torch.log10((power @ self.melW).clamp_min(FLOOR))


class FrontEnd(nn.Module):
    """Sound to log-mel, normalised per mel bin. Always fp32."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.logmel_extractor = LogMel(variant)
        self.bn0 = nn.BatchNorm2d(BINS)

    def forward(self, sound: Float[Tensor, "R N"]) -> Float[Tensor, "R 1 T M"]:
        by_mel = self.logmel_extractor(sound).permute(0, 2, 1)[..., None]
        return self.bn0(by_mel).permute(0, 3, 2, 1)


class PANNsEncoder:
    """A PANNs network as an encoder of sound."""

    name = NAME
    modality = "audio"

    def __init__(
        self,
        front: FrontEnd,
        network: Frozen,
        slug: str,
        windows: Windows,
        config: Config,
        *,
        identity: Mapping[str, Any],
        notes: Mapping[str, Any],
    ) -> None:
        variant = variant_of(config)
        self.slug, self.identity, self.notes = slug, identity, notes
        self.dim, self.sample_rate = variant.dim, variant.sample_rate
        self.window_seconds, self.hop_seconds = config.window_seconds, config.hop_seconds
        self.front = front.eval().requires_grad_(False).to(network.device)
        self.device = network.device
        self._network, self._windows = network, windows

    def window_starts_seconds(self, samples: int) -> Float[np.ndarray, "W"]:
        """The second at which each window of a sound starts."""
        return self._windows.starts_seconds(samples)

    def preprocess(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "R 1 T M"]:
        """The normalised log-mel spectrogram of every window of every sound."""
        with torch.inference_mode():
            return self.front(self._windows.cut(self._network.take(x)).flatten(0, 1))

    def forward(self, x: Float[Tensor, "R 1 T M"]) -> Float[Tensor, "R D"]:
        """Rows of a preprocessed batch."""
        return self._network(x)

    def __call__(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "R D"]:
        """Rows of frames or sounds as they were decoded."""
        return self.forward(self.preprocess(x))


def fill(front: FrontEnd, cnn: CNN, config: Config, weights: weight_files.Weights | None) -> None:
    """Give front end and CNN their tensors; a file holds both under one roof."""
    whole = nn.Module()
    for name, child in (*front.named_children(), *cnn.named_children()):
        whole.add_module(name, child)
    variant = variant_of(config)
    mel = slaney_mel_matrix(
        sample_rate=variant.sample_rate,
        fft=variant.fft,
        bins=BINS,
        low_hz=LOW_HZ,
        high_hz=variant.high_hz,
    )
    if weights:
        # A published file brings the matrix it was trained with, which differs in last bits.
        tensors = {"logmel_extractor.melW": mel, **weights.tensors}
        weight_files.load(
            whole,
            replace(weights, tensors=tensors),
            ignore=("spectrogram_extractor.", "fc_audioset."),
        )
        return
    weight_files.initialise(whole, seed=config.seed, gain=2.0)
    front.logmel_extractor.melW.copy_(mel)
    # Without statistics every input would be some -50 dB in all bins and every row alike.
    statistics = front.bn0.state_dict()
    statistics["running_mean"].fill_(-40)
    statistics["running_var"].fill_(20**2)


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> PANNsEncoder:
    """The encoder, with weights from a file or random ones that were asked for."""
    variant = variant_of(config)
    windows = Windows(
        sample_rate=variant.sample_rate,
        length=round(config.window_seconds * variant.sample_rate),
        hop=round(config.hop_seconds * variant.sample_rate),
        shortest=variant.shortest,
    )
    weights = weight_files.choose(NAME, config.weights, config.untrained)
    with torch.device("meta"):
        front, cnn = FrontEnd(variant), CNN(variant)
    fill(front, cnn, config, weights)
    identity = {
        "network": NAME,
        "revision": REVISION,
        "variant": config.variant,
        **({"narrow": config.narrow} if config.narrow > 1 else {}),
        "output": "embedding",
        "weights": weight_files.identity(weights, config.seed),
        "precision": precision,
        "preprocessing": {
            "sample_rate": variant.sample_rate,
            "stft": [variant.fft, variant.hop],
            "mel": {"scale": "slaney", "bins": BINS, "low_hz": LOW_HZ, "high_hz": variant.high_hz},
            "floor": FLOOR,
        },
        "window_seconds": config.window_seconds,
        "hop_seconds": config.hop_seconds if config.window_seconds else 0.0,
    }
    # Processors are a tenth to a third slower with so many channels on small maps held last.
    deep_on_cpu = len(variant.channels) > len(SMALL) and device == "cpu"
    return PANNsEncoder(
        front,
        Frozen(cnn, device=device, precision=precision, last=not deep_on_cpu),
        f"{NAME}-{config.variant}"
        + (f"-narrow{config.narrow}" if config.narrow > 1 else "")
        + ("-untrained" if weights is None else ""),
        windows,
        config,
        identity=identity,
        notes=weight_files.notes(weights, LICENCE),
    )
