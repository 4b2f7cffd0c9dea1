"""The mean over rows, then hidden layers with ReLU and dropout."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.models.projections import mean_of_rows
from store.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    dim_out: int = 128
    hidden: int = 512
    layers: int = 1  # hidden ones
    dropout: float = 0.1
    batch_norm: bool = False  # behind every hidden layer
    relu_out: bool = False  # no negative numbers come out

    def __post_init__(self) -> None:
        for key in ("dim_out", "hidden", "layers"):
            if getattr(self, key) < 1:
                raise ConfigError(f"mlp: {key}={getattr(self, key)} is less than 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"mlp: dropout={self.dropout} is not in [0, 1)")


class MLP(nn.Module):
    def __init__(self, config: Config, dim_in: int) -> None:
        super().__init__()
        self.dim_out = config.dim_out
        blocks: list[nn.Module] = []
        for size_in in (dim_in, *[config.hidden] * (config.layers - 1)):
            blocks.append(nn.Linear(size_in, config.hidden))
            if config.batch_norm:
                blocks.append(nn.BatchNorm1d(config.hidden))
            blocks += [nn.ReLU(), nn.Dropout(config.dropout)]
        blocks.append(nn.Linear(config.hidden, config.dim_out))
        self.layers = nn.Sequential(*blocks, *([nn.ReLU()] if config.relu_out else []))

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        return self.layers(mean_of_rows(rows, mask))


def build(config: Config, dim_in: int) -> MLP:
    return MLP(config, dim_in)
