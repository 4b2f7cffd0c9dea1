"""The mean over rows, then hidden layers with ReLU and dropout.

With `residual` the last layer starts at zero and adds to what is stored (`_residual.py`): before
the first step clips are as alike as their stored rows are, and `penalty` times the last layer's
squared size is the price of leaving that.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.models.projections import Traits, mean_of_rows
from learn.models.projections._residual import Start
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(of_means=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the projection."""

    # same: as many as the rows have; of several modalities, the sum
    dim_out: int = setting(0, at_least=0, words={"same": 0})
    hidden: int = setting(512, at_least=1)
    layers: int = setting(1, at_least=1)  # hidden ones
    dropout: float = setting(0.1, at_least=0, below=1)
    batch_norm: bool = False  # behind every hidden layer
    relu_out: bool = False  # a last ReLU; only without residual
    residual: bool = True
    penalty: float = setting(0.0, at_least=0)  # of the squared size of what is added

    def check(self) -> None:
        """Refuse a last ReLU behind stored rows, which it would cut off."""
        if self.relu_out and self.residual:
            raise ConfigError("mlp: relu_out cuts off stored rows; set residual=false")


class MLP(nn.Module):
    """A perceptron over the mean of a clip's rows, or the same beside the rows themselves."""

    def __init__(self, config: Config, dim_in: int) -> None:
        super().__init__()
        self.dim_out = config.dim_out or dim_in
        self.penalty = config.penalty
        layers: list[nn.Module] = []
        for size_in in (dim_in, *[config.hidden] * (config.layers - 1)):
            layers.append(nn.Linear(size_in, config.hidden))
            if config.batch_norm:
                layers.append(nn.BatchNorm1d(config.hidden))
            layers += [nn.ReLU(), nn.Dropout(config.dropout)]
        last = nn.Linear(config.hidden, self.dim_out)
        layers.append(last)
        self.layers = nn.Sequential(*layers, *([nn.ReLU()] if config.relu_out else []))
        self.start = (
            Start(dim_in, self.dim_out, identity=not config.dim_out) if config.residual else None
        )
        self._last = (last,)  # in a tuple, so that it is no second module
        if self.start:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        """The mean of each clip's rows, through the hidden layers."""
        mean = mean_of_rows(rows, mask)
        learnt = self.layers(mean)
        return learnt if self.start is None else self.start(mean) + learnt

    def distance(self) -> Float[Tensor, ""]:
        """The squared size of the layer that is added to the start."""
        return self._last[0].weight.square().sum()


def build(config: Config, dim_in: int) -> MLP:
    """The projection with these settings."""
    return MLP(config, dim_in)
