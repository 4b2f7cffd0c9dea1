"""TCaF: a class token gathers what rows of one modality see in the rows of the other.

Rows go through layers of their modality, are joined with marks of modality and time (Fourier
features of real seconds), and through a transformer in which a row attends to the class token and
to the other modality's rows only; the token attends to all. The token gives `av`.

Defaults are those published for UCF: two layers with batch norm for each modality, random
frequencies, one layer norm for both halves of a block, heads of 64. Batch norms see real rows only.

A clip that lacks a modality still has its token and its rows. The published code normalises rows
over time, takes their batch norms over padding too, and drops their times when it tests; here times
are always real.

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
    heads: int = setting(8, at_least=1)
    head_dim: int = setting(64, at_least=0)  # 0: width / heads
    layers: int = setting(6, at_least=1)
    feedforward: int = setting(128, at_least=1)
    dropout: float = setting(0.3, at_least=0, below=1)
    norms: int = setting(1, among=(1, 2))  # layer norms of a block
    # size between a modality's two layers, with batch norms; 0: one layer with a layer norm
    encoder: int = setting(512, at_least=0)
    encoder_dropout: float = setting(0.3, at_least=0, below=1)
    mark_dropout: float = setting(0.2, at_least=0, below=1)  # behind the joining with marks
    # size between the token's last two layers, with batch norms; 0: one layer behind a layer norm
    out_hidden: int = setting(512, at_least=0)
    out_dropout: float = setting(0.1, at_least=0, below=1)
    within: bool = False  # rows also attend to those of their own modality
    # of the random frequencies of the time features, in Hz; 0: fixed ones up to `max_hz`
    fourier_scale: float = setting(10.0, at_least=0)
    max_hz: float = setting(2.0, above=0)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if not self.head_dim and self.width % self.heads:
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
        self.enter = nn.ModuleDict({m: _encoder(config, dims[m]) for m in MODALITIES})
        size = 1.0 if config.fourier_scale else 0.02
        self.marks = nn.ParameterDict(
            {m: nn.Parameter(size * torch.randn(config.marks)) for m in MODALITIES}
        )
        self.register_buffer("rates", _rates(config))
        self.time = nn.Linear(config.marks, config.marks)
        self.joined = nn.ModuleDict(
            {m: nn.Linear(config.width + config.marks, config.width) for m in MODALITIES}
        )
        self.token = nn.Parameter(torch.randn(config.width) / config.width**0.5)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.mark_dropout = nn.Dropout(config.mark_dropout)
        self.out = (
            _layers(config.width, config.out_hidden, config.dim_out, config.out_dropout)
            if config.out_hidden
            else nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.dim_out))
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
        rows = x.rows.new_zeros(*x.rows.shape[:2], self.config.width)
        rows[x.mask] = self.enter[modality](x.rows[x.mask])
        seconds = x.seconds.masked_fill(~x.mask, 0)
        angle = 2 * torch.pi * seconds[..., None] * self.rates
        marks = self.time(torch.cat([angle.sin(), angle.cos()], dim=-1)) + self.marks[modality]
        return self.mark_dropout(self.joined[modality](torch.cat([rows, marks], dim=-1)))

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


def _encoder(config: Config, dim_in: int) -> nn.Sequential:
    """The layers of one modality's rows."""
    if config.encoder:
        return _layers(dim_in, config.encoder, config.width, config.encoder_dropout)
    return nn.Sequential(
        nn.Linear(dim_in, config.width), nn.LayerNorm(config.width), nn.ReLU(),
        nn.Dropout(config.encoder_dropout),
    )  # fmt: skip


def _layers(size_in: int, hidden: int, size_out: int, dropout: float) -> nn.Sequential:
    """Two linear layers, each with batch norm, ReLU and dropout."""
    layers: list[nn.Module] = []
    for before, after in ((size_in, hidden), (hidden, size_out)):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def _rates(config: Config) -> Float[Tensor, "_"]:
    """The frequencies of the time features, in Hz."""
    count = config.marks // 2
    if config.fourier_scale:
        return config.fourier_scale * torch.randn(2, count).sum(0)  # as published: of two draws
    rates = torch.logspace(0, 1, count) * config.max_hz / 256
    return rates * (config.max_hz / rates[-1])


class _Layer(nn.Module):
    """Attention and a feed-forward network, each behind a layer norm and beside a shortcut."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, 0.0 if config.head_dim else config.dropout
        inner = config.heads * config.head_dim or config.width
        self.before = nn.LayerNorm(config.width)
        self.between = nn.LayerNorm(config.width) if config.norms == 2 else None
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.merge = nn.Linear(inner, config.width)
        # As published dropout is of what attention gives; in the smaller form, of its weights.
        self.after = nn.Dropout(config.dropout if config.head_dim else 0.0)
        self.feedforward = nn.Sequential(
            nn.Linear(config.width, config.feedforward), nn.GELU(), nn.Dropout(config.dropout),
            nn.Linear(config.feedforward, config.width), nn.Dropout(config.dropout),
        )  # fmt: skip

    def forward(
        self, x: Float[Tensor, "B N W"], sees: Bool[Tensor, "B N N"]
    ) -> Float[Tensor, "B N W"]:
        clips, length, _ = x.shape
        parts = self.qkv(self.before(x)).view(clips, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, sees[:, None], dropout)
        x = x + self.after(self.merge(mixed.transpose(1, 2).reshape(clips, length, -1)))
        return x + self.feedforward((self.between or self.before)(x))


def build(config: Config, dims: Mapping[str, int]) -> TCaF:
    """The network with these settings."""
    if set(dims) != set(MODALITIES):
        raise ConfigError(f"tcaf needs visual and audio features, not {', '.join(dims)}")
    return TCaF(config, dims)
