"""Masked autoencoding: an encoder sees a quarter of a picture, a decoder paints the rest.

The encoder gets the patches that are left and nothing else. The decoder gets its tokens, and one
learnt token in each hidden place, and is thrown away. What it must give are the pixels of hidden
patches, each patch with mean 0 and deviation 1; the cost is their mean squared error. Positions
are fixed waves in both.

Shapes: B = frames, S = side of the input, P = patches, K = those left, D = size of a token, C =
numbers of a patch.

Source: He et al., 2021, "Masked Autoencoders Are Scalable Vision Learners", and the authors' code:
75 % hidden, a decoder of 8 blocks of 512 numbers and 16 heads.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from learn.finetuning.protocols import Learner, Patched
from learn.finetuning.recipe import MaskedSettings
from store.errors import ConfigError

EPSILON = 1e-6


class Decoder(nn.Module):
    """Tokens of some patches to the pixels of all."""

    def __init__(self, dim: int, patched: Patched, settings: MaskedSettings) -> None:
        super().__init__()
        width = settings.width
        self.positions: Tensor
        self.register_buffer("positions", patched.positions(width), persistent=False)
        self.embed = nn.Linear(dim, width)
        self.hidden = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, settings.heads, 4 * width, 0.0, "gelu", EPSILON, batch_first=True,
                norm_first=True,
            )
            for _ in range(settings.depth)
        )  # fmt: skip
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.paint = nn.Linear(width, 3 * patched.patch**2)
        nn.init.normal_(self.hidden, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self, tokens: Float[Tensor, "B _ D"], kept: Int[Tensor, "B K"]
    ) -> Float[Tensor, "B P C"]:
        """The pixels of every patch; the first token is the class's."""
        x = self.embed(tokens)
        everywhere = self.hidden.to(x.dtype).expand(len(x), self.positions.shape[1] - 1, -1)
        places = kept[..., None].expand(-1, -1, x.shape[2])
        x = torch.cat([x[:, :1], everywhere.scatter(1, places, x[:, 1:])], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.paint(self.norm(x))[:, 1:]


class Masked:
    """The cost of painting in what an encoder does not see."""

    def __init__(self, learners: Mapping[str, Learner], settings: MaskedSettings) -> None:
        learner = learners.get("visual")
        if learner is None or len(learners) > 1 or not isinstance(learner.module, Patched):
            raise ConfigError(
                "masked autoencoding is of one encoder that sees pictures patch by patch; name it "
                "with `visual`, such as mae"
            )
        self.network, self.settings = learner.module, settings
        self.network.pos_embed.requires_grad_(False)  # fixed, as published
        self.decoder = Decoder(learner.dim, self.network, settings)

    def __call__(self, x: Float[Tensor, "B 3 S S"], seed: int, start: int) -> Float[Tensor, ""]:
        """The mean squared error of the hidden patches of the frames of a step from `start` on."""
        generator = torch.Generator().manual_seed(seed)
        patches = self.network.grid**2
        left = max(1, int(patches * (1 - self.settings.share)))
        # Drawn for the frames before them too: parts of a step hide what the whole one does.
        order = torch.rand(start + len(x), patches, generator=generator)[start:].argsort(1)
        kept = order[:, :left].to(x.device)
        painted = self.decoder(self.network.visible(x, kept), kept)
        wanted = pixels(x, self.network.patch, normalise=self.settings.normalise)
        hidden = torch.ones(len(x), patches, device=x.device).scatter(1, kept, 0.0)
        errors = (painted.float() - wanted).square().mean(2)
        return (errors * hidden).sum() / hidden.sum()


def pixels(x: Float[Tensor, "B 3 S S"], patch: int, *, normalise: bool) -> Float[Tensor, "B P C"]:
    """The pixels of every patch, row by row, its channels side by side in each pixel."""
    grid = x.shape[2] // patch
    cut = x.reshape(len(x), 3, grid, patch, grid, patch)
    flat = cut.permute(0, 2, 4, 3, 5, 1).reshape(len(x), grid**2, -1)
    if not normalise:
        return flat
    mean, variance = flat.mean(2, keepdim=True), flat.var(2, keepdim=True)
    return (flat - mean) / (variance + EPSILON).sqrt()
