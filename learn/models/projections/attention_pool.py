"""Attention pooling: learnt queries pick rows by what they hold; no row sees another, nor its time.

Each learnt query takes a weighted mean of the rows' values; its weights are a softmax over the
clip's real rows. The means are joined and mapped to the answer. With all scores alike that is the
mean over rows; with a sharp one it is a single row. A clip without rows pools to zeros.

Shapes: B = clips, T = rows (padded), D = stored size, Q = queries, E = embedding size.

Source: Lee et al., 2019, "Set Transformer", section 3.2 (pooling by attention), without its
feed-forward layers.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the projection."""

    dim_out: int = setting(128, at_least=1)
    queries: int = setting(4, at_least=1)
    width: int = setting(128, at_least=1)  # of keys, and of values
    dropout: float = setting(0.1, at_least=0, below=1)  # on the pooled values


class AttentionPool(nn.Module):
    """Learnt queries that pool a clip's rows."""

    def __init__(self, config: Config, dim_in: int) -> None:
        super().__init__()
        self.dim_out = config.dim_out
        # No bias: the same score added to every row would change no weight.
        self.to_keys = nn.Linear(dim_in, config.width, bias=False)
        self.to_values = nn.Linear(dim_in, config.width)
        self.queries = nn.Parameter(torch.randn(config.queries, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.queries * config.width, config.dim_out)

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        """The rows that the queries pick, through one linear map."""
        rows = rows.masked_fill(~mask[..., None], 0)
        pooled = self.weights(rows, mask) @ self.to_values(rows)
        return self.output(self.dropout(pooled.flatten(1)))

    def weights(
        self, rows: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B Q T"]:
        """The attention weights of each query over the rows: they sum to 1, and padding has 0."""
        scores = self.queries @ self.to_keys(rows).mT / self.queries.shape[1] ** 0.5
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        lowest = torch.finfo(wide.dtype).min  # finite: no NaN even on the way
        weights = wide.masked_fill(~mask[:, None], lowest).softmax(-1)
        return weights.masked_fill(~mask[:, None], 0).to(scores.dtype)


def build(config: Config, dim_in: int) -> AttentionPool:
    """The projection with these settings."""
    return AttentionPool(config, dim_in)
