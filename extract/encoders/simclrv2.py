"""SimCLRv2: self-supervised ResNets on images; one row a frame.

Shapes: B = frames, H, W = frame size, C, K = channels in and out, h, w = map size, D = embedding.

Source: Chen et al. (2020), "Big Self-Supervised Models are Strong Semi-Supervised Learners", with
the ResNet-D stem and shortcuts of He et al. (2019) and Selective Kernels of Li et al. (2019).

Names of the weights. Batch norms have weight, bias, running_mean, running_var; kernels are OIHW:

    stem.{i}.{conv,bn}                     i = 0, or 0..2 with selective kernels
    block_group{1..4}.{b}.shortcut.{conv,bn}                          the first block of a group
    block_group{g}.{b}.{reduce,spatial,expand}.{conv,bn}              1x1, 3x3, 1x1
    block_group{g}.{b}.spatial.{streams,squeeze}.{conv,bn}, .mix      in place of the 3x3, with sk1
    head.nl_{0..2}.{dense,bn}              optional; nl_2.bn.bias is zero

Outputs: `block_group{1..4}` are means over the map of each group; the last is `final_avg_pool`, the
usual embedding. `h1`, `h2`, `h3` come after one, two and three layers of the projection head
(`nl_0` to `nl_2` in files); the paper fine-tunes from `h1`.

Modules are registered in the order in which the original program creates its variables (a block's
shortcut first), so counting convolutions and batch norms gives the original's names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._network import Frozen, same_padding
from extract.encoders._resize import kept, separable, smooth_matrix, tensorflow_bicubic_matrix
from extract.weights import loading as weight_files
from store.errors import ConfigError
from store.settings import Settings, setting

NAME = "simclrv2"
REVISION = 1  # raise when our numbers change
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
VARIANTS = (
    *(f"r{depth}_{width}x_sk{sk}" for depth, width, sk in product(BLOCKS, (1, 2), (0, 1))),
    "r152_3x_sk1",
)
GROUPS = tuple(f"block_group{i}" for i in range(1, 5))
HEAD = ("h1", "h2", "h3")
HEAD_DIM = 128  # of its last layer
OUTPUTS = ("final_avg_pool", *GROUPS, *HEAD)
RESIZES = ("tf2", "tf1")
SIDE = 224  # pixels
CROP = 0.875
LICENCE = "Apache-2.0 (google-research/simclr); trained on ImageNet"
DESCRIPTION = Description(
    modality="visual",
    dims={variant: 2048 * int(variant.split("_")[1][0]) for variant in VARIANTS},
    licence=LICENCE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `simclrv2`."""

    variant: str = setting("r50_1x_sk1", among=tuple(VARIANTS), main=True)
    weights: str = ""  # a safetensors file with the names above
    untrained: bool = False
    seed: int = 0  # of untrained weights
    output: str = setting("final_avg_pool", among=OUTPUTS)
    resize: str = setting("tf2", among=RESIZES)  # of evaluation; tf1 is that of training
    antialias: bool = False  # for frames much larger than 256 pixels; the original does not
    side: int = setting(SIDE, at_least=32, at_most=1024)  # pixels, of the input
    # channels are a so-manieth of the variant's: small networks to train; none are published
    narrow: int = setting(1, among=(1, 2, 4, 8))

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.antialias and self.resize == "tf1":
            raise ConfigError(f"{NAME}: resize=tf1 has no antialias; drop one of the two")


class ConvNorm(nn.Module):
    """Convolution and batch norm. Padding is explicit and symmetric, as the original's."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-5)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K _ _"]:
        return self.bn(self.conv(x))


class SelectiveKernel(nn.Module):
    """Two 3x3 streams, mixed by what the whole map holds. Takes the place of a 3x3 and its ReLU."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        middle = max(int(out * 0.0625), 32)
        self.streams = ConvNorm(channels, 2 * out, 3, stride)
        self.squeeze = ConvNorm(out, middle, 1)
        self.mix = nn.Conv2d(middle, 2 * out, 1, bias=False)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K _ _"]:
        first, second = F.relu(self.streams(x)).chunk(2, 1)
        everywhere = (first + second).mean((2, 3), keepdim=True)
        logits = self.mix(F.relu(self.squeeze(everywhere)))
        share_first, share_second = logits.unflatten(1, (2, -1)).softmax(1).unbind(1)
        return first * share_first + second * share_second


class SmoothShortcut(ConvNorm):
    """ResNet-D's projection: average over 2x2 first, then a 1x1 without stride.

    At stride 1 the average at the lower and right border is over what is there; at stride 2 an odd
    map is completed with zeros that count. Both as TensorFlow does.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__(channels, out, 1)
        self.stride = stride

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K _ _"]:
        # Repeating the border gives the average over what is there: (a + a) / 2 = a.
        x = F.pad(x, (0, 1, 0, 1), mode="replicate" if self.stride == 1 else "constant")
        return super().forward(F.avg_pool2d(x, 2, self.stride))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1, and the shortcut around them."""

    def __init__(
        self, channels: int, filters: int, stride: int, *, project: bool, sk: bool
    ) -> None:
        super().__init__()
        if project:
            self.shortcut: nn.Module = (
                SmoothShortcut(channels, 4 * filters, stride)
                if sk
                else ConvNorm(channels, 4 * filters, 1, stride)
            )
        else:
            self.shortcut = nn.Identity()
        self.reduce = ConvNorm(channels, filters, 1)
        self.spatial = (SelectiveKernel if sk else _plain)(filters, filters, stride)
        self.expand = ConvNorm(filters, 4 * filters, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K _ _"]:
        inner = self.spatial(F.relu(self.reduce(x)))
        if isinstance(self.spatial, ConvNorm):
            inner = F.relu(inner)
        return F.relu(self.expand(inner) + self.shortcut(x))


def _plain(channels: int, out: int, stride: int) -> ConvNorm:
    return ConvNorm(channels, out, 3, stride)


class HeadLayer(nn.Module):
    """One layer of the projection head."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, out, bias=False)
        self.bn = nn.BatchNorm1d(out, eps=1e-5)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B _"]:
        return self.bn(self.dense(x))


class ResNet(nn.Module):
    """The network up to where `output` is taken: some groups of blocks, or all and some head."""

    def __init__(self, depth: int, width: int, *, sk: bool, output: str, narrow: int = 1) -> None:
        super().__init__()
        first = 64 * width // narrow
        stem = ((3, first // 2, 3, 2), (first // 2, first // 2, 3, 1), (first // 2, first, 3, 1))
        self.stem = nn.ModuleList(
            ConvNorm(*layer) for layer in (stem if sk else ((3, first, 7, 2),))
        )
        channels = first
        self.groups = GROUPS[: GROUPS.index(output) + 1] if output in GROUPS else GROUPS
        for i, group in enumerate(self.groups):
            filters = first * 2**i
            layers = []
            for block in range(BLOCKS[depth][i]):
                stride = 2 if i and not block else 1
                layers.append(Bottleneck(channels, filters, stride, project=not block, sk=sk))
                channels = 4 * filters
            self.add_module(group, nn.Sequential(*layers))
        head = HEAD.index(output) + 1 if output in HEAD else 0
        sizes = (channels, channels, channels, HEAD_DIM)[: head + 1]
        self.head = nn.ModuleDict(
            {f"nl_{i}": HeadLayer(a, b) for i, (a, b) in enumerate(pairwise(sizes))}
        )
        self.dim = sizes[-1]

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        for layer in self.stem:
            x = F.relu(layer(x))
        x = same_max_pool(x)
        for group in self.groups:
            x = self.get_submodule(group)(x)
        rows = x.mean((2, 3), dtype=torch.float32)
        for name, layer in self.head.items():
            rows = layer(rows.to(x.dtype))
            rows = rows if name == "nl_2" else F.relu(rows)
        return rows


def same_max_pool(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C _ _"]:
    """3x3 maximum at stride 2 under TensorFlow's 'SAME': at even sizes only right and below."""
    (top, bottom), (left, right) = (same_padding(size, 3, 2) for size in x.shape[2:])
    return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-torch.inf), 3, 2)


class SimCLRv2:
    """A SimCLRv2 network as an encoder of frames."""

    name = NAME
    modality = "visual"

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
        self._network, self._config = network, config
        self.device, self.side = network.device, config.side
        self.short_side = int(config.side / CROP)

    def preprocess(self, x: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 S S"]:
        """The central square at the input's size, 0..1, without mean or deviation."""
        with torch.inference_mode():
            # Only the square is copied: half of a wide frame.
            x = self._network.take(central_square(x)).permute(0, 3, 1, 2).float() / 255
            matrix = kept(x.device, resize_matrix, x.shape[2], self._config)
            return self.scaled(separable(x, matrix, matrix).clamp(0, 1))

    def scaled(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Pixels of 0..1 as the network takes them: as they are."""
        return x

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        return self._network(x)

    def __call__(self, x: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        return self.forward(self.preprocess(x))


def central_square(frames: UInt8[Tensor, "B H W 3"]) -> UInt8[Tensor, "B S S 3"]:
    """The central 87.5 % of the short side; halves are rounded to even, as TensorFlow's rint."""
    height, width = frames.shape[1:3]
    side = round(CROP * min(height, width))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return frames[:, top : top + side, left : left + side]


def resize_matrix(source: int, config: Config) -> Float[Tensor, "S source"]:
    """The matrix of the bicubic resize that the settings ask for."""
    if config.antialias:
        return smooth_matrix(source, config.side, kernel="bicubic")
    return tensorflow_bicubic_matrix(source, config.side, half_pixel=config.resize == "tf2")


def network_of(variant: str, output: str = "final_avg_pool", narrow: int = 1) -> ResNet:
    """The network of a variant, its tensors not yet filled."""
    match = re.fullmatch(r"r(\d+)_(\d)x_sk([01])", variant)
    assert match, variant
    depth, width, sk = map(int, match.groups())
    with torch.device("meta"):
        return ResNet(depth, width, sk=bool(sk), output=output, narrow=narrow)


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> SimCLRv2:
    """The encoder, with weights from a file or random ones that were asked for."""
    weights = weight_files.choose(NAME, config.weights, config.untrained)
    network = network_of(config.variant, config.output, config.narrow)
    if weights:
        weight_files.load(network, weights, ignore=("head.", *GROUPS[len(network.groups) :]))
    else:
        weight_files.initialise(network, seed=config.seed, gain=1.0)
        for block in network.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.expand.bn.weight)  # blocks begin as their shortcut
    identity = {
        "network": NAME,
        "revision": REVISION,
        "variant": config.variant,
        **({"narrow": config.narrow} if config.narrow > 1 else {}),
        "output": config.output,
        "weights": weight_files.identity(weights, config.seed),
        "precision": precision,
        "preprocessing": {
            "crop": CROP,
            "side": config.side,
            "resize": config.resize + "_bicubic" + ("_antialias" if config.antialias else ""),
            "range": [0, 1],
        },
    }
    slim = f"-narrow{config.narrow}" if config.narrow > 1 else ""
    slug = f"{NAME}-{config.variant}{slim}" + ("-untrained" if weights is None else "")
    return SimCLRv2(
        Frozen(network, device=device, precision=precision),
        network.dim,
        slug,
        config,
        identity=identity,
        notes=weight_files.notes(weights, LICENCE),
    )
