"""A transformer over the rows of a clip, with positions from their real times.

A row's position is the time since the clip's first row in seconds, so it is the same at any frame
rate, in training and at test, and wherever in a longer video the clip was cut out: one shift of all
times changes nothing. The order in which rows are stored does not matter either: the windowed
patterns sort them by time first, and a window counts rows in that order.

`pool=cls` answers with one learnt token that sees every row. A plain window would hide most rows
from it, so it needs `attention=full` or `global_window`. `pool=mean` answers with the mean of the
real rows. Attention weights have no dropout, so all forms of a pattern agree in training too.

Shapes: B = clips, T = rows or tokens (padded), D = stored size, W = width, E = embedding size.

Source: Neimark, Bar, Zohar & Asselmann, 2021, "Video Transformer Network"; positions as in Vaswani
et al., 2017, section 3.5, over seconds.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.models.attention import Pattern, attend, path
from learn.models.projections import mean_of_rows
from store.errors import ConfigError
from store.settings import Settings, setting

SHORTEST_SECONDS = 0.1  # periods of the sinusoids: from a few frames of ordinary video …
LONGEST_SECONDS = 200.0  # … to several micro videos, so that no two rows share all phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the projection."""

    dim_out: int = setting(128, at_least=1)
    width: int = setting(256, at_least=1)
    layers: int = setting(2, at_least=1)
    heads: int = setting(4, at_least=1)
    ffn: int = setting(1024, at_least=1)
    dropout: float = setting(0.1, at_least=0, below=1)
    head_dropout: float = setting(0.1, at_least=0, below=1)  # VTN has 0.5
    norm: str = setting("pre", among=("pre", "post"))
    pool: str = setting("cls", among=("cls", "mean"))
    attention: str = setting("full", among=("full", "window", "dilated", "global_window"))
    reach: int = setting(8, at_least=0)  # rows on each side; full attention has no use for it
    # rows from one neighbour to the next: dilated and global_window only
    dilation: int = setting(1, at_least=1)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.width % (2 * self.heads):
            raise ConfigError(
                f"transformer: width={self.width} is no multiple of 2 * heads = {2 * self.heads}"
            )
        if self.pool == "cls" and self.attention in ("window", "dilated"):
            raise ConfigError(
                f"transformer: with attention={self.attention} the CLS token would see "
                f"reach={self.reach} rows only; take attention=global_window or pool=mean"
            )
        if self.dilation > 1 and self.attention in ("full", "window"):
            raise ConfigError(
                f"transformer: attention={self.attention} has no use for dilation={self.dilation}; "
                "take attention=dilated or global_window"
            )
        if self.dilation == 1 and self.attention == "dilated":
            raise ConfigError(
                "transformer: attention=dilated with dilation=1 is a window; give more"
            )


def pattern_of(config: Config) -> Pattern:
    """The attention pattern of these settings; in `global_window` the first token is global."""
    if config.attention == "full":
        return Pattern()
    global_tokens = int(config.attention == "global_window")
    return Pattern(
        one_sided_window=config.reach, dilation=config.dilation, global_tokens=global_tokens
    )


class Transformer(nn.Module):
    """A transformer over a clip's rows."""

    def __init__(self, config: Config, dim_in: int) -> None:
        super().__init__()
        self.dim_out = config.dim_out
        self.config = config
        self.pattern = pattern_of(config)
        width = config.width
        self.embed = nn.Linear(dim_in, width)
        has_cls = config.pool == "cls" or config.attention == "global_window"
        self.cls = nn.Parameter(torch.randn(width)) if has_cls else None
        self.first_norm = nn.LayerNorm(width) if config.norm == "post" else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(width, config.dim_out),
        )

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        """The pooled tokens of each clip, through the head."""
        seconds = since_first_row(seconds, mask)
        if self.pattern.one_sided_window is not None:
            rows, mask, seconds = _by_time(rows, mask, seconds)
        rows = rows.masked_fill(~mask[..., None], 0)
        tokens = self.embed(rows) + sinusoids(seconds, self.config.width).to(rows.dtype)
        if self.cls is not None:
            tokens = torch.cat([self.cls.to(tokens.dtype).expand(len(rows), 1, -1), tokens], dim=1)
            mask = torch.cat([mask.new_ones(len(rows), 1), mask], dim=1)
        tokens = self.dropout(self.first_norm(tokens))
        for layer in self.layers:
            tokens = layer(tokens, mask, self.pattern)
        return self.head(self._pooled(tokens, mask))

    def _pooled(
        self, tokens: Float[Tensor, "B T W"], mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B W"]:
        if self.config.pool == "cls":
            return tokens[:, 0]
        if self.cls is not None:
            tokens, mask = tokens[:, 1:], mask[:, 1:]
        return mean_of_rows(tokens, mask)

    def attention_path(self, rows: int) -> str:
        """The way to compute attention over `rows` padded rows: `full`, `banded` or `masked`."""
        return path(self.pattern, rows + (self.cls is not None))


class _Layer(nn.Module):
    """Attention and a feed-forward network, each beside a shortcut."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.shape = (3, config.heads, width // config.heads)
        self.pre = config.norm == "pre"
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        # No bias: the softmax takes no notice of one in the keys, and it would never learn.
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.from_heads = nn.Linear(width, width)
        self.ffn = nn.Sequential(
            nn.Linear(width, config.ffn),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.ffn, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "B T W"], mask: Bool[Tensor, "B T"], pattern: Pattern
    ) -> Float[Tensor, "B T W"]:
        if self.pre:
            x = x + self.dropout(self._attention(self.attention_norm(x), mask, pattern))
            return x + self.dropout(self.ffn(self.ffn_norm(x)))
        x = self.attention_norm(x + self.dropout(self._attention(x, mask, pattern)))
        return self.ffn_norm(x + self.dropout(self.ffn(x)))

    def _attention(
        self, x: Float[Tensor, "B T W"], mask: Bool[Tensor, "B T"], pattern: Pattern
    ) -> Float[Tensor, "B T W"]:
        qkv = self.to_qkv(x).reshape(*x.shape[:2], *self.shape)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        return self.from_heads(attend(q, k, v, mask, pattern).transpose(1, 2).flatten(2))


def since_first_row(
    seconds: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Seconds since the earliest real row of each clip, in float32 or better; padding gets 0."""
    seconds = seconds.to(torch.promote_types(seconds.dtype, torch.float32))
    never = seconds.new_full((len(seconds), 1), math.inf)  # a clip may have no row at all
    first = torch.cat([seconds.masked_fill(~mask, math.inf), never], dim=1).amin(1, keepdim=True)
    return (seconds - first).masked_fill(~mask, 0)


def sinusoids(seconds: Float[Tensor, "B T"], width: int) -> Float[Tensor, "B T {width}"]:
    """Sines and cosines of the times, with periods in a geometric row."""
    exponents = torch.linspace(0, 1, width // 2, dtype=seconds.dtype, device=seconds.device)
    periods = SHORTEST_SECONDS * (LONGEST_SECONDS / SHORTEST_SECONDS) ** exponents
    angles = 2 * math.pi * seconds[..., None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _by_time(
    rows: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], seconds: Float[Tensor, "B T"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, mask and seconds by time, padding last: a window must not span gaps of padding."""
    order = seconds.masked_fill(~mask, math.inf).argsort(dim=1, stable=True)
    return (
        rows.gather(1, order[..., None].expand_as(rows)),
        mask.gather(1, order),
        seconds.gather(1, order),
    )


def build(config: Config, dim_in: int) -> Transformer:
    """The projection with these settings."""
    return Transformer(config, dim_in)
