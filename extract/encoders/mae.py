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
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._network import Frozen
from extract.encoders._resize import kept, resize, resize_window, seen
from extract.weights import loading as weight_files
from store.settings import Settings, setting

NAME = "mae"
REVISION = 1  # raise when our numbers change
DIM, DEPTH, HEADS, HIDDEN = 768, 12, 12, 3072
SIDE, SHORT_SIDE, PATCH = 224, 256, 16  # pixels
GRID = SIDE // PATCH
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


class Attention(nn.Module):
    """Multi-head self-attention of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        query, key, value = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The feed-forward half of a transformer's block."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(DIM, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, DIM)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and a small network for each token, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM, eps=1e-6)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(DIM, eps=1e-6)
        self.mlp = Mlp()

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """A picture cut into patches, each mapped to a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, DIM, PATCH, PATCH)

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B _ D"]:
        return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """The encoder without masking."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + GRID**2, DIM))
        self.patch_embed = PatchEmbed()
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM, eps=1e-6)
        self.pool = pool

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        patches = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 0] if self.pool == "cls" else x[:, 1:].mean(1, dtype=torch.float32)


class MAE:
    """The encoder of a masked autoencoder as an encoder of frames."""

    name = NAME
    modality = "visual"
    short_side, side = SHORT_SIDE, SIDE
    dim = DIM

    def __init__(
        self, network: Frozen, slug: str, *, identity: Mapping[str, Any], notes: Mapping[str, Any]
    ) -> None:
        self.slug, self.identity, self.notes = slug, identity, notes
        self._network, self.device = network, network.device

    def preprocess(self, x: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 S S"]:
        """The centre of the frame at 224 pixels, standardised."""
        with torch.inference_mode():
            height, width = x.shape[1:3]
            short = min(height, width)
            rows, columns = (SHORT_SIDE * side // short for side in (height, width))
            if self.device.type == "cpu":
                x = x.permute(0, 3, 1, 2).float()
                x = resize(x, rows, columns, kernel="bicubic", crop=SIDE, eight_bits=True) / 255
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
            seen(of, to, kernel="bicubic", crop=SIDE) for of, to in zip(source, target, strict=True)
        )
        middle = self._network.take(x[:, down, across]).permute(0, 3, 1, 2).float()
        return resize_window(middle, source, target, kernel="bicubic", crop=SIDE)

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        return self._network(x)

    def __call__(self, x: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        return self.forward(self.preprocess(x))


def wave_positions() -> Float[Tensor, "1 T D"]:
    """Sines and cosines of column and row, zeros for the class token: where training begins.

    Source: Vaswani et al. (2017), in two dimensions as in MAE.
    """
    rate = 10_000.0 ** -(torch.arange(DIM // 4, dtype=torch.float64) / (DIM // 4))
    turns = torch.arange(GRID, dtype=torch.float64)[:, None] * rate
    line = torch.cat([turns.sin(), turns.cos()], 1)
    grid = torch.cat([line.repeat(GRID, 1), line.repeat_interleave(GRID, 0)], 1)
    return torch.cat([torch.zeros(1, DIM, dtype=torch.float64), grid]).float()[None]


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> MAE:
    """The encoder, with weights from a file or random ones that were asked for."""
    weights = weight_files.choose(NAME, config.weights, config.untrained)
    with torch.device("meta"):
        network = ViT(config.pool)
    if weights:
        weight_files.load(network, weights, ignore=("decoder_", "mask_token"))
    else:
        weight_files.initialise(network, seed=config.seed, gain=1.0)
        nn.init.zeros_(network.cls_token)
        with torch.no_grad():
            network.pos_embed.copy_(wave_positions())
    identity = {
        "network": f"{NAME}-vit_b16",
        "revision": REVISION,
        "output": config.pool,
        "weights": weight_files.identity(weights, config.seed),
        "precision": precision,
        "preprocessing": {
            "short_side": SHORT_SIDE,
            "side": SIDE,
            "resize": "bicubic_antialias_8bit",
            "mean": list(MEAN),
            "deviation": list(DEVIATION),
        },
    }
    return MAE(
        Frozen(network, device=device, precision=precision),
        NAME + ("-untrained" if weights is None else ""),
        identity=identity,
        notes=weight_files.notes(weights, LICENCE),
    )
