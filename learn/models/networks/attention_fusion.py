"""Early fusion: one query attends to the rows of all modalities at once.

Rows go through a layer of their modality, get its mark, and are weighed by as many learned queries
as there are heads; the weighted sums are joined and mapped out. `av` looks at all rows, `visual`
and `audio` at those of one modality; a learned row stands for a modality that is not there. While
training, `modality_dropout` of the clips lose one of the two.

Source: Lee et al., ICML 2019, "Set transformer" (pooling by multihead attention).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.data.rows import Padded
from learn.models.networks._missing import MODALITIES
from store.errors import ConfigError
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the network."""

    dim_out: int = setting(128, at_least=1)
    hidden: int = setting(256, at_least=1)
    heads: int = setting(4, at_least=1)
    dropout: float = setting(0.1, at_least=0, below=1)
    modality_dropout: float = setting(0.3, at_least=0, below=1)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.hidden % self.heads:
            raise ConfigError(
                f"attention_fusion: hidden={self.hidden} is no multiple of heads={self.heads}"
            )


class AttentionFusion(nn.Module):
    """Tokens of both modalities that attend to one another."""

    def __init__(self, config: Config, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.outputs = dict.fromkeys((*MODALITIES, "av"), config.dim_out)
        self.hidden: Mapping[str, int] = {}
        self.enter = nn.ModuleDict({m: nn.Linear(dims[m], config.hidden) for m in MODALITIES})
        self.marks = nn.ParameterDict(
            {m: nn.Parameter(0.02 * torch.randn(config.hidden)) for m in MODALITIES}
        )
        self.tokens = nn.ParameterDict(
            {m: nn.Parameter(torch.randn(config.hidden) / config.hidden**0.5) for m in MODALITIES}
        )
        size = config.hidden // config.heads
        self.queries = nn.Parameter(torch.randn(config.heads, size) / size**0.5)
        self.key = nn.Linear(config.hidden, config.hidden)
        self.value = nn.Linear(config.hidden, config.hidden)
        self.out = nn.Sequential(
            nn.LayerNorm(config.hidden),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.dim_out),
        )

    def forward(self, inputs: Mapping[str, Padded]) -> dict[str, Float[Tensor, "B _"]]:
        """One vector each from all rows (`av`) and from the rows of each modality given."""
        rows, mask = {}, {}
        clips = len(next(iter(inputs.values())).rows)
        for m in MODALITIES:
            if m in inputs:
                clean = inputs[m].rows.masked_fill(~inputs[m].mask[..., None], 0)
                rows[m], mask[m] = torch.relu(self.enter[m](clean)) + self.marks[m], inputs[m].mask
            else:
                rows[m] = self.marks[m].expand(clips, 1, -1)
                mask[m] = torch.zeros(clips, 1, dtype=torch.bool, device=rows[m].device)
        none = {m: torch.zeros_like(rows_mask) for m, rows_mask in mask.items()}
        outputs = {"av": self._pooled(rows, self._thinned(mask))}
        for m in inputs:
            outputs[m] = self._pooled(rows, {**none, m: mask[m]})
        return outputs

    def _thinned(self, mask: Mapping[str, Bool[Tensor, "B _"]]) -> dict[str, Bool[Tensor, "B _"]]:
        """Drop one modality of some clips while training, if they have both."""
        if not self.training or not self.config.modality_dropout:
            return dict(mask)
        sight, sound = (mask[m] for m in MODALITIES)
        draw = torch.rand(2, len(sight), 1, device=sight.device)
        gone = sight.any(1, True) & sound.any(1, True) & (draw[0] < self.config.modality_dropout)
        blind = gone & (draw[1] < 0.5)
        return {"visual": sight & ~blind, "audio": sound & ~(gone & ~blind)}

    def _pooled(
        self, rows: Mapping[str, Float[Tensor, "B _ H"]], mask: Mapping[str, Bool[Tensor, "B _"]]
    ) -> Float[Tensor, "B E"]:
        parts, masks = [], []
        for m in MODALITIES:
            absent = ~mask[m].any(1, True)
            token = (self.tokens[m] + self.marks[m]).expand(len(absent), 1, -1)
            parts += [rows[m], token]
            masks += [mask[m], absent]
        x, mask_of_all = torch.cat(parts, dim=1), torch.cat(masks, dim=1)
        clips, length, heads = len(x), x.shape[1], self.config.heads
        keys = self.key(x).view(clips, length, heads, -1)
        values = self.value(x).view(clips, length, heads, -1)
        scores = torch.einsum("bthd,hd->bth", keys, self.queries) / keys.shape[-1] ** 0.5
        weights = scores.masked_fill(~mask_of_all[..., None], -torch.inf).softmax(1)
        return self.out(torch.einsum("bth,bthd->bhd", weights, values).flatten(1))


def build(config: Config, dims: Mapping[str, int]) -> AttentionFusion:
    """The network with these settings."""
    if set(dims) != set(MODALITIES):
        given = ", ".join(dims)
        raise ConfigError(f"attention_fusion needs visual and audio features, not {given}")
    return AttentionFusion(config, dims)
