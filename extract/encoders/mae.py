"""MAE: a vision transformer pretrained by painting in what was masked; one row a frame.

Shapes: B = frames, H, W = frame size, S = 224, T = 1 + 196 tokens, D = 768.

Source: He et al. (2021), "Masked Autoencoders Are Scalable Vision Learners"; the ViT-B/16 encoder
of Dosovitskiy et al. (2020). Names of the weights are those of the published
`mae_pretrain_vit_base.pth`, which loads as it is. Nothing is masked here.

`pool=cls` is the class token after the last norm, `pool=mean` the mean of all other tokens.

The short side is scaled to 256 pixels (bicubic, antialiased, rounded to 8 bits after each pass, as
Pillow does); the central 224 pixels are standardised with ImageNet's mean and deviation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._network import Frozen
from extract.encoders._resize import kept, resize, resize_window, seen
from extract.weights import loading as weight_files
from store.errors import ConfigError
from store.settings import Settings, setting

NAME = "mae"
REVISION = 1  # raise when our numbers change
DIM, DEPTH, OF_HEAD = 768, 12, 64  # OF_HEAD: numbers of a token that one head of attention has
SIDE, SHORT_SIDE, PATCH = 224, 256, 16  # pixels
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of 0..1
POOLS = ("cls", "mean")
LICENCE = "CC BY-NC 4.0 (MAE, He et al. 2021, facebookresearch/mae); trained on ImageNet"
DESCRIPTION = Description(modality="visual", dims={"": DIM}, licence=LICENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `mae`."""

    weights: str = ""  # the published .pth, or its tensors as safetensors
    untrained: bool = False
    seed: int = 0  # of untrained weights
    pool: str = setting("cls", among=POOLS)  # or mean
    # Small networks and inputs, to be trained; none but the defaults are published.
    width: int = setting(DIM, at_least=OF_HEAD)  # numbers of a token
    depth: int = setting(DEPTH, at_least=1)  # blocks
    side: int = setting(SIDE, at_least=PATCH, at_most=1024)  # pixels, of the input

    def check(self) -> None:
        """Refuse sizes that do not divide."""
        for name, of in (("width", OF_HEAD), ("side", PATCH)):
            if getattr(self, name) % of:
                raise ConfigError(f"{NAME}: {name}={getattr(self, name)} is no multiple of {of}")


class Attention(nn.Module):
    """Multi-head self-attention of a vision transformer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = dim // OF_HEAD
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The feed-forward half of a transformer's block."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and a small network for each token, each added to what came in."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """A picture cut into patches, each mapped to a vector."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, PATCH)

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B _ D"]:
        return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """The encoder: of whole pictures, or of the patches that a mask leaves."""

    def __init__(self, pool: str, dim: int = DIM, depth: int = DEPTH, side: int = SIDE) -> None:
        super().__init__()
        self.patch, self.grid = PATCH, side // PATCH
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid**2, dim))
        self.patch_embed = PatchEmbed(dim)
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pool = pool

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        x = self._tokens(self.patch_embed(x) + self.pos_embed[:, 1:])
        return x[:, 0] if self.pool == "cls" else x[:, 1:].mean(1, dtype=torch.float32)

    def visible(
        self, x: Float[Tensor, "B 3 S S"], kept: Int[Tensor, "B K"]
    ) -> Float[Tensor, "B _ D"]:
        """The class token and those of the patches `kept`, which see nothing of the others."""
        patches = self.patch_embed(x) + self.pos_embed[:, 1:]
        return self._tokens(patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2])))

    def _tokens(self, patches: Float[Tensor, "B K D"]) -> Float[Tensor, "B _ D"]:
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        x = torch.cat([first, patches], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def positions(self, dim: int) -> Float[Tensor, "1 T dim"]:
        """Waves of another size for the same tokens, as a decoder needs them."""
        return wave_positions(dim, self.grid)


class MAE:
    """The encoder of a masked autoencoder as an encoder of frames."""

    name = NAME
    modality = "visual"

    def __init__(
        self,
        network: Frozen,
        slug: str,
        config: Config,
        *,
        identity: Mapping[str, Any],
        notes: Mapping[str, Any],
    ) -> None:
        self.slug, self.identity, self.notes = slug, identity, notes
        self.dim, self.side = config.width, config.side
        self.short_side = short_side_of(config.side)
        self._network, self.device = network, network.device

    def preprocess(self, x: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 S S"]:
        """The centre of the frame at 224 pixels, standardised."""
        with torch.inference_mode():
            height, width = x.shape[1:3]
            short = min(height, width)
            rows, columns = (self.short_side * side // short for side in (height, width))
            if self.device.type == "cpu":
                x = x.permute(0, 3, 1, 2).float()
                x = resize(x, rows, columns, kernel="bicubic", crop=self.side, eight_bits=True)
                x = x / 255
            else:
                x = self._copied_middle(x, (rows, columns)) / 255
            return self.scaled(x)

    def scaled(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Pixels of 0..1 as the network takes them."""
        mean, deviation = (kept(x.device, torch.tensor, v) for v in (MEAN, DEVIATION))
        return (x - mean[:, None, None]) / deviation[:, None, None]

    def _copied_middle(
        self, x: UInt8[Tensor, "B H W 3"], target: tuple[int, int]
    ) -> Float[Tensor, "B 3 S S"]:
        """The centre on another device, which gets no more of the frame than it is made of."""
        source = (x.shape[1], x.shape[2])
        down, across = (
            seen(of, to, kernel="bicubic", crop=self.side)
            for of, to in zip(source, target, strict=True)
        )
        middle = self._network.take(x[:, down, across]).permute(0, 3, 1, 2).float()
        return resize_window(middle, source, target, kernel="bicubic", crop=self.side)

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        return self._network(x)

    def __call__(self, x: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        return self.forward(self.preprocess(x))


def short_side_of(side: int) -> int:
    """The size to which the short side is scaled before the middle is cut out."""
    return SHORT_SIDE * side // SIDE


def wave_positions(dim: int = DIM, size: int = SIDE // PATCH) -> Float[Tensor, "1 T D"]:
    """Sines and cosines of column and row, zeros for the class token: where training begins.

    Source: Vaswani et al. (2017), in two dimensions as in MAE.
    """
    rate = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    turns = torch.arange(size, dtype=torch.float64)[:, None] * rate
    line = torch.cat([turns.sin(), turns.cos()], 1)
    grid = torch.cat([line.repeat(size, 1), line.repeat_interleave(size, 0)], 1)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), grid]).float()[None]


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> MAE:
    """The encoder, with weights from a file or random ones that were asked for."""
    weights = weight_files.choose(NAME, config.weights, config.untrained)
    with torch.device("meta"):
        network = ViT(config.pool, config.width, config.depth, config.side)
    if weights:
        weight_files.load(network, weights, ignore=("decoder_", "mask_token"))
    else:
        weight_files.initialise(network, seed=config.seed, gain=1.0)
        nn.init.zeros_(network.cls_token)
        with torch.no_grad():
            network.pos_embed.copy_(network.positions(config.width))
    small = (config.width, config.depth) != (DIM, DEPTH)
    identity = {
        "network": f"{NAME}-vit_b16",
        "revision": REVISION,
        **({"width": config.width, "depth": config.depth} if small else {}),
        "output": config.pool,
        "weights": weight_files.identity(weights, config.seed),
        "precision": precision,
        "preprocessing": {
            "short_side": short_side_of(config.side),
            "side": config.side,
            "resize": "bicubic_antialias_8bit",
            "mean": list(MEAN),
            "deviation": list(DEVIATION),
        },
    }
    return MAE(
        Frozen(network, device=device, precision=precision),
        NAME + (f"-{config.width}x{config.depth}" if small else "")
        + ("-untrained" if weights is None else ""),
        config,
        identity=identity,
        notes=weight_files.notes(weights, LICENCE),
    )  # fmt: skip
