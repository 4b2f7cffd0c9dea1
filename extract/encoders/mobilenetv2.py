"""MobileNetV2: a light ImageNet classifier, before its last layer; one row a frame.

Shapes: B = frames, H, W = frame size, C, K = channels in and out, h, w = map size, D = 1280.

Source: Sandler et al. (2018), "MobileNetV2: Inverted Residuals and Linear Bottlenecks".

Names of the weights: `op{NN}.{conv,dw}.{weight,bias}`, NN counting convolutions in order;
batch norm is folded into them, padding is TensorFlow's 'SAME'. `op52` (the classes) is not used.

The whole frame is squashed to 224x224, whatever its shape: bilinear, antialiased, rounded to 8 bits
after each pass. That is what the network's publishers feed it (Pillow's resize of the full image).
"""

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
from store.settings import Settings

NAME = "mobilenetv2"
REVISION = 1  # raise when our numbers change
SIDE = 224  # pixels
DIM = 1280
STAGES = (  # expansion, channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LICENCE = "Apache-2.0 (google-coral/test_data, TensorFlow Authors); trained on ImageNet"
# In bf16 its published weights reach a cosine of .996 only: rounding what the first convolution
# gives costs half of that, rounding the weights of the others the rest (docs/decisions.md).
DESCRIPTION = Description(modality="visual", dims={"": DIM}, licence=LICENCE, precisions=("fp32",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `mobilenetv2`."""

    weights: str = ""
    untrained: bool = False
    seed: int = 0  # of untrained weights


class Op(nn.Module):
    """One convolution, named `conv` or, where channels stay apart, `dw`."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        stride: int = 1,
        *,
        depthwise: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.layer_name = "dw" if depthwise else "conv"
        groups = channels if depthwise else 1
        self.add_module(self.layer_name, SameConv2d(channels, out, kernel, stride, groups=groups))
        self.linear = linear

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K _ _"]:
        x = self.get_submodule(self.layer_name)(x)
        return x if self.linear else x.clamp(0, 6)


class MobileNetV2(nn.Module):
    """The convolutions, as a flat list of ops, and which of them form a residual block."""

    def __init__(self) -> None:
        super().__init__()
        ops = [Op(3, 32, 3, 2)]
        self.residual_ends: dict[int, int] = {}  # last op of a block -> its first
        channels = 32
        for expansion, out, blocks, first_stride in STAGES:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                first, wide = len(ops), channels * expansion
                if expansion > 1:
                    ops.append(Op(channels, wide, 1))
                ops.append(Op(wide, wide, 3, stride, depthwise=True))
                ops.append(Op(wide, out, 1, linear=True))
                if stride == 1 and channels == out:
                    self.residual_ends[len(ops) - 1] = first
                channels = out
        ops.append(Op(channels, DIM, 1))
        for i, op in enumerate(ops):
            self.add_module(f"op{i:02d}", op)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        starts = set(self.residual_ends.values())
        entered = x
        for i, op in enumerate(self.children()):
            entered = x if i in starts else entered
            x = op(x)
            x = x + entered if i in self.residual_ends else x
        return x.mean((2, 3), dtype=torch.float32)


class MobileNetV2Encoder:
    """MobileNetV2 as an encoder of frames."""

    name = NAME
    modality = "visual"
    short_side = side = SIDE
    dim = DIM

    def __init__(
        self, network: Frozen, slug: str, *, identity: Mapping[str, Any], notes: Mapping[str, Any]
    ) -> None:
        self.slug, self.identity, self.notes = slug, identity, notes
        self._network, self.device = network, network.device

    def preprocess(self, x: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 S S"]:
        """The whole frame at 224x224, -1..1."""
        with torch.inference_mode():
            x = self._network.take(x).permute(0, 3, 1, 2).float()
            x = resize(x, SIDE, SIDE, kernel="bilinear", eight_bits=True)
            return (x - 128) / 128

    def scaled(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Pixels of 0..1 as the network takes them."""
        return (255 * x - 128) / 128

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Rows of a preprocessed batch."""
        return self._network(x)

    def __call__(self, x: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Rows of frames or sounds as they were decoded."""
        return self.forward(self.preprocess(x))


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> MobileNetV2Encoder:
    """The encoder, with weights from a file or random ones that were asked for."""
    weights = weight_files.choose(NAME, config.weights, config.untrained)
    with torch.device("meta"):
        network = MobileNetV2()
    if weights:
        weight_files.load(network, weights, ignore=("op52.",))
    else:
        weight_files.initialise(network, seed=config.seed, gain=2.0)
    identity = {
        "network": NAME,
        "revision": REVISION,
        "output": "mean_of_last_map",
        "weights": weight_files.identity(weights, config.seed),
        "precision": precision,
        "preprocessing": {
            "crop": "none",
            "side": SIDE,
            "resize": "squash_bilinear_antialias_8bit",
            "range": [-1, 127 / 128],
        },
    }
    return MobileNetV2Encoder(
        Frozen(network, device=device, precision=precision),
        NAME + ("-untrained" if weights is None else ""),
        identity=identity,
        notes=weight_files.notes(weights, LICENCE),
    )
