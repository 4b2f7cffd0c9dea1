"""TCaF: a class token gathers what rows of one modality see in the rows of the other.

Rows go through a layer of their modality, are joined with marks of modality and time (Fourier
features of real seconds), and through a transformer in which a row attends to the class token and
to the other modality's rows only; the token attends to all. The token gives `av`.

A clip that lacks a modality still has its token and its rows. The published code normalises rows
over time and drops their times when it tests; here times are always real.

Source: Mercea et al., ECCV 2022, "Temporal and cross-modal attention for audio-visual zero-shot
learning".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.data.rows import Padded
from learn.models.networks._missing import MODALITIES
from store.errors import ConfigError
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the network."""

    dim_out: int = setting(64, at_least=1)
    width: int = setting(300, at_least=1)
    marks: int = setting(64, at_least=1)
    heads: int = setting(6, at_least=1)
    layers: int = setting(3, at_least=1)
    feedforward: int = setting(128, at_least=1)
    dropout: float = setting(0.1, at_least=0, below=1)
    within: bool = False  # rows also attend to those of their own modality
    max_hz: float = setting(2.0, above=0)  # of the time features

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.width % self.heads:
            raise ConfigError(f"tcaf: width={self.width} is no multiple of heads={self.heads}")
        if self.marks % 2:
            raise ConfigError(f"tcaf: marks={self.marks} is not even")


class TCaF(nn.Module):
    """Attention over the rows of both modalities in one sequence."""

    rates: Tensor

    def __init__(self, config: Config, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.outputs = {"av": config.dim_out}
        self.hidden: Mapping[str, int] = {}
        self.enter = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.Linear(dims[m], config.width), nn.LayerNorm(config.width), nn.ReLU(),
                    nn.Dropout(config.dropout),
                )
                for m in MODALITIES
            }
        )  # fmt: skip
        self.marks = nn.ParameterDict(
            {m: nn.Parameter(0.02 * torch.randn(config.marks)) for m in MODALITIES}
        )
        slowest = config.max_hz / 256
        rates = torch.logspace(0, 1, config.marks // 2) * slowest
        self.register_buffer("rates", rates * (config.max_hz / rates[-1]))
        self.time = nn.Linear(config.marks, config.marks)
        self.joined = nn.ModuleDict(
            {m: nn.Linear(config.width + config.marks, config.width) for m in MODALITIES}
        )
        self.token = nn.Parameter(torch.randn(config.width) / config.width**0.5)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.out = nn.Sequential(
            nn.LayerNorm(config.width), nn.Linear(config.width, config.dim_out)
        )

    def forward(self, inputs: Mapping[str, Padded]) -> dict[str, Float[Tensor, "B _"]]:
        """One vector from the rows of both modalities: the class token's, after all layers."""
        known = [m for m in MODALITIES if m in inputs]
        if not known:
            return {}
        clips = len(inputs[known[0]].rows)
        rows = [self._entered(m, inputs[m]) for m in known]
        x = torch.cat([self.token.expand(clips, 1, -1), *rows], dim=1)
        sees = self._sees({m: inputs[m].mask for m in known})
        for layer in self.layers:
            x = layer(x, sees)
        return {"av": self.out(x[:, 0])}

    def _entered(self, modality: str, x: Padded) -> Float[Tensor, "B T W"]:
        rows = self.enter[modality](x.rows.masked_fill(~x.mask[..., None], 0))
        seconds = x.seconds.masked_fill(~x.mask, 0)
        angle = 2 * torch.pi * seconds[..., None] * self.rates
        marks = self.time(torch.cat([angle.sin(), angle.cos()], dim=-1)) + self.marks[modality]
        return self.joined[modality](torch.cat([rows, marks], dim=-1))

    def _sees(self, mask: Mapping[str, Bool[Tensor, "B _"]]) -> Bool[Tensor, "B N N"]:
        """The mask of which token may attend to which; padding attends to the class token only."""
        masks = list(mask.values())
        clips, device = len(masks[0]), masks[0].device
        token = torch.ones(clips, 1, dtype=torch.bool, device=device)
        present = torch.cat([token, *masks], dim=1)
        of = torch.cat(
            [torch.full((m.shape[1],), i + 1, device=device) for i, m in enumerate(masks)]
        )
        of = F.pad(of, (1, 0))
        across = of[:, None] != of if not self.config.within else torch.ones_like(of[:, None] == of)
        across = across | (of == 0) | (of[:, None] == 0)
        return across & present[:, None] & (present[:, :, None] | (of == 0))


class _Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.before, self.between = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.merge = nn.Linear(config.width, config.width)
        self.feedforward = nn.Sequential(
            nn.Linear(config.width, config.feedforward), nn.GELU(), nn.Dropout(config.dropout),
            nn.Linear(config.feedforward, config.width), nn.Dropout(config.dropout),
        )  # fmt: skip

    def forward(
        self, x: Float[Tensor, "B N W"], sees: Bool[Tensor, "B N N"]
    ) -> Float[Tensor, "B N W"]:
        clips, length, width = x.shape
        parts = self.qkv(self.before(x)).view(clips, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, sees[:, None], dropout)
        x = x + self.merge(mixed.transpose(1, 2).reshape(clips, length, width))
        return x + self.feedforward(self.between(x))


def build(config: Config, dims: Mapping[str, int]) -> TCaF:
    """The network with these settings."""
    if set(dims) != set(MODALITIES):
        raise ConfigError(f"tcaf needs visual and audio features, not {', '.join(dims)}")
    return TCaF(config, dims)
