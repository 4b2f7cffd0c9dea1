"""The mean over rows, then hidden layers with ReLU and dropout."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.models.projections import mean_of_rows
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the projection."""

    dim_out: int = setting(128, at_least=1)
    hidden: int = setting(512, at_least=1)
    layers: int = setting(1, at_least=1)  # hidden ones
    dropout: float = setting(0.1, at_least=0, below=1)
    batch_norm: bool = False  # behind every hidden layer
    relu_out: bool = False  # a last ReLU


class MLP(nn.Module):
    """A perceptron over the mean of a clip's rows."""

    def __init__(self, config: Config, dim_in: int) -> None:
        super().__init__()
        self.dim_out = config.dim_out
        layers: list[nn.Module] = []
        for size_in in (dim_in, *[config.hidden] * (config.layers - 1)):
            layers.append(nn.Linear(size_in, config.hidden))
            if config.batch_norm:
                layers.append(nn.BatchNorm1d(config.hidden))
            layers += [nn.ReLU(), nn.Dropout(config.dropout)]
        layers.append(nn.Linear(config.hidden, config.dim_out))
        self.layers = nn.Sequential(*layers, *([nn.ReLU()] if config.relu_out else []))

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        """The mean of each clip's rows, through the hidden layers."""
        return self.layers(mean_of_rows(rows, mask))


def build(config: Config, dim_in: int) -> MLP:
    """The projection with these settings."""
    return MLP(config, dim_in)
