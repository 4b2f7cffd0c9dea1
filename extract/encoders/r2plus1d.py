"""R(2+1)D, MC3 and R3D: residual networks over stacks of frames; one row a stack.

Shapes: B = stacks, T = frames of a stack, H, W = frame size, S = input side, C, K = channels in and
out, t, h, w = map size, D = embedding.

Source: Tran et al. (2018), "A Closer Look at Spatiotemporal Convolutions for Action Recognition":
ResNet-18s whose convolutions span time and space (r3d), space and then time (r2plus1d), or all of
it in the first group and space alone behind it (mc3).

Names of the weights are those of torchvision's `r2plus1d_18`, `mc3_18` and `r3d_18`, whose files
load as they are; `fc` is not used. The row is the mean over the last map.

Frames are scaled until their short side is 128 pixels for an input of 112 (the same share for other
inputs; bilinear), and the central square is standardised with Kinetics' mean and deviation.
Torchvision squeezes every frame to 128 x 171 first, which is the same for pictures of 4 to 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._network import Frozen
from extract.encoders._resize import kept, resize_window, seen
from extract.weights import loading as weight_files
from store.settings import Settings, setting

NAME = "r2plus1d"
REVISION = 1  # raise when our numbers change
SIDE, SHORT_SIDE = 112, 128  # pixels
FRAMES = 16  # of a stack
RATE = 15.0  # frames a second, as torchvision trains and tests
CHANNELS = (64, 128, 256, 512)
BLOCKS = 2  # of each group
MIDDLE = 45  # channels of the stem between space and time
KINDS = {  # of the convolutions of each group of blocks
    "r2plus1d_18": ("apart", "apart", "apart", "apart"),
    "mc3_18": ("whole", "space", "space", "space"),
    "r3d_18": ("whole", "whole", "whole", "whole"),
}
MEAN, DEVIATION = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # Kinetics', of 0..1
LICENCE = "BSD-3-Clause (torchvision); trained on Kinetics-400"
DESCRIPTION = Description(
    modality="visual",
    dims={"r2plus1d_18": 512, "mc3_18": 512, "r3d_18": 512},
    licence=LICENCE,
    frames_per_second=RATE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `r2plus1d`."""

    variant: str = setting("r2plus1d_18", among=tuple(KINDS), main=True)
    weights: str = ""  # a .pth of torchvision's, or its tensors as safetensors
    untrained: bool = False
    seed: int = 0  # of untrained weights
    frames: int = setting(FRAMES, at_least=2, at_most=256)  # of a stack
    hop: int = setting(0, at_least=0)  # frames from one stack to the next; 0: stacks side by side
    side: int = setting(SIDE, at_least=32, at_most=1024)  # pixels, of the input
    # channels are a so-manieth of the variant's: small networks to train; none are published
    narrow: int = setting(1, among=(1, 2, 4, 8))


def convolution(kind: str, channels: int, out: int, middle: int, stride: int) -> nn.Module:
    """A convolution of 3 frames by 3 x 3 pixels: whole, of space alone, or space and then time."""
    if kind == "whole":
        return nn.Conv3d(channels, out, 3, stride, 1, bias=False)
    across, after = (1, stride, stride), (stride, 1, 1)
    if kind == "space":
        return nn.Conv3d(channels, out, (1, 3, 3), across, (0, 1, 1), bias=False)
    return nn.Sequential(
        nn.Conv3d(channels, middle, (1, 3, 3), across, (0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(),
        nn.Conv3d(middle, out, (3, 1, 1), after, (1, 0, 0), bias=False),
    )


class Block(nn.Module):
    """Two convolutions and the shortcut around them."""

    def __init__(self, kind: str, channels: int, out: int, stride: int) -> None:
        super().__init__()
        # As many weights in space and time apart as in one convolution over both.
        middle = 27 * channels * out // (9 * channels + 3 * out)
        self.conv1 = nn.Sequential(
            convolution(kind, channels, out, middle, stride), nn.BatchNorm3d(out), nn.ReLU()
        )
        self.conv2 = nn.Sequential(convolution(kind, out, out, middle, 1), nn.BatchNorm3d(out))
        self.downsample: nn.Module | None = None
        if channels != out:
            strides = (1 if kind == "space" else stride, stride, stride)
            self.downsample = nn.Sequential(
                nn.Conv3d(channels, out, 1, strides, bias=False), nn.BatchNorm3d(out)
            )

    def forward(self, x: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B K _ _ _"]:
        around = x if self.downsample is None else self.downsample(x)
        return F.relu(self.conv2(self.conv1(x)) + around)


class VideoResNet(nn.Module):
    """Stacks to the means of their last maps."""

    def __init__(self, variant: str, narrow: int = 1) -> None:
        super().__init__()
        kinds = KINDS[variant]
        channels, middle = CHANNELS[0] // narrow, MIDDLE // narrow
        space, time = (1, 2, 2), (1, 1, 1)
        if kinds[0] == "apart":
            self.stem = nn.Sequential(
                nn.Conv3d(3, middle, (1, 7, 7), space, (0, 3, 3), bias=False),
                nn.BatchNorm3d(middle),
                nn.ReLU(),
                nn.Conv3d(middle, channels, (3, 1, 1), time, (1, 0, 0), bias=False),
                nn.BatchNorm3d(channels),
                nn.ReLU(),
            )
        else:
            self.stem = nn.Sequential(
                nn.Conv3d(3, channels, (3, 7, 7), space, (1, 3, 3), bias=False),
                nn.BatchNorm3d(channels),
                nn.ReLU(),
            )
        for i, kind in enumerate(kinds):
            out = CHANNELS[i] // narrow
            first = Block(kind, channels, out, stride=2 if i else 1)
            rest = (Block(kind, out, out, 1) for _ in range(BLOCKS - 1))
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *rest))
            channels = out
        self.dim = channels

    def forward(self, x: Float[Tensor, "B 3 T S S"]) -> Float[Tensor, "B D"]:
        for layer in self.children():
            x = layer(x)
        return x.mean((2, 3, 4), dtype=torch.float32)


class StackNetwork:
    """A network over stacks of frames as an encoder of frames."""

    name = NAME
    modality = "visual"
    frames_per_second = RATE

    def __init__(
        self,
        network: Frozen,
        dim: int,
        slug: str,
        config: Config,
        *,
        identity: Mapping[str, Any],
        notes: Mapping[str, Any],
    ) -> None:
        self.dim, self.slug, self.identity, self.notes = dim, slug, identity, notes
        self._network, self.device = network, network.device
        self.side, self.short_side = config.side, short_side_of(config.side)
        self.stack_frames, self.stack_hop = config.frames, config.hop or config.frames

    def preprocess(self, x: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 3 T S S"]:
        """The centres of the frames of every stack, standardised."""
        with torch.inference_mode():
            size = (int(x.shape[2]), int(x.shape[3]))
            short = min(size)
            target = (self.short_side * size[0] // short, self.short_side * size[1] // short)
            rows, columns = (
                seen(of, to, kernel="bilinear", crop=self.side)
                for of, to in zip(size, target, strict=True)
            )
            middle = self._network.take(x[:, :, rows, columns]).flatten(0, 1).permute(0, 3, 1, 2)
            found = resize_window(
                middle.float() / 255, size, target, kernel="bilinear", crop=self.side,
                eight_bits=False,
            )  # fmt: skip
            stacks = self.scaled(found).reshape(*x.shape[:2], *found.shape[1:])
            return stacks.transpose(1, 2).contiguous()

    def scaled(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Pixels of 0..1 as the network takes them."""
        mean, deviation = (kept(x.device, torch.tensor, v) for v in (MEAN, DEVIATION))
        return (x - mean[:, None, None]) / deviation[:, None, None]

    def forward(self, x: Float[Tensor, "B 3 T S S"]) -> Float[Tensor, "B D"]:
        return self._network(x)

    def __call__(self, x: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B D"]:
        return self.forward(self.preprocess(x))


def short_side_of(side: int) -> int:
    """The size to which the short side is scaled before the middle is cut out."""
    return SHORT_SIDE * side // SIDE


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> StackNetwork:
    """The encoder, with weights from a file or random ones that were asked for."""
    weights = weight_files.choose(NAME, config.weights, config.untrained)
    with torch.device("meta"):
        network = VideoResNet(config.variant, config.narrow)
    if weights:
        weight_files.load(network, weights, ignore=("fc.",))
    else:
        weight_files.initialise(network, seed=config.seed, gain=2.0)
    identity = {
        "network": NAME,
        "revision": REVISION,
        "variant": config.variant,
        **({"narrow": config.narrow} if config.narrow > 1 else {}),
        "output": "mean_of_last_map",
        "weights": weight_files.identity(weights, config.seed),
        "precision": precision,
        "stack": {"frames": config.frames, "hop": config.hop or config.frames, "short": "held"},
        "preprocessing": {
            "short_side": short_side_of(config.side),
            "side": config.side,
            "resize": "bilinear",
            "mean": list(MEAN),
            "deviation": list(DEVIATION),
        },
    }
    slim = f"-narrow{config.narrow}" if config.narrow > 1 else ""
    size = f"-{config.frames}x{config.side}"
    name = config.variant if config.variant.startswith(NAME) else f"{NAME}-{config.variant}"
    return StackNetwork(
        Frozen(network, device=device, precision=precision),
        network.dim,
        f"{name}{slim}{size}" + ("-untrained" if weights is None else ""),
        config,
        identity=identity,
        notes=weight_files.notes(weights, LICENCE),
    )
