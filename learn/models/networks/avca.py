"""AVCA: what is heard and what is seen look at each other before they are embedded.

    phi     D -> hidden -> width, with batch norm, ReLU, dropout, for each modality
    mixed   phi + a pre-norm transformer over the two tokens phi + mark
    theta   width -> hidden -> dim_out, likewise

`visual.before` and `audio.before` are phi. A clip that lacks a modality attends to itself only, and
in one that lacks it the other's token stays out of sight. The marks of the modalities learn here;
the published code never gave them to its optimiser.

Source: Mercea et al., CVPR 2022, "Audio-visual generalised zero-shot learning with cross-modal
attention and language".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learn.data.rows import Padded
from learn.models.networks import Traits
from learn.models.networks._missing import MODALITIES
from learn.models.projections import mean_of_rows
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(of_means=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the network."""

    dim_out: int = setting(64, at_least=1)
    hidden: int = setting(512, at_least=1)
    width: int = setting(300, at_least=1)
    heads: int = setting(3, at_least=1)
    layers: int = setting(1, at_least=1)
    feedforward: int = setting(64, at_least=1)
    dropout: float = setting(0.2, at_least=0, below=1)  # of phi and of attention
    leave_dropout: float = setting(0.3, at_least=0, below=1)  # of theta
    momentum: float = setting(0.1, above=0, at_most=1)  # of batch norms

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.width % self.heads:
            raise ConfigError(f"avca: width={self.width} is no multiple of heads={self.heads}")


class AVCA(nn.Module):
    """Two towers that attend to each other's modality."""

    def __init__(self, config: Config, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.outputs = dict.fromkeys(MODALITIES, config.dim_out)
        self.hidden = {f"{m}.before": config.width for m in MODALITIES}
        self.enter = nn.ModuleDict(
            {m: _net(config, dims[m], config.width, config.dropout) for m in MODALITIES}
        )
        self.marks = nn.Parameter(0.02 * torch.randn(2, config.width))
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feedforward, config.dropout, "gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.cross = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.leave = nn.ModuleDict(
            {
                m: _net(config, config.width, config.dim_out, config.leave_dropout)
                for m in MODALITIES
            }
        )

    def forward(self, inputs: Mapping[str, Padded]) -> dict[str, Float[Tensor, "B _"]]:
        """The vector of each modality after cross-attention, and before it as `MODALITY.before`."""
        known = [m for m in MODALITIES if m in inputs]
        if not known:
            return {}
        phi = {m: self.enter[m](mean_of_rows(*inputs[m][:2])) for m in known}
        tokens = torch.stack([phi[m] + self.marks[MODALITIES.index(m)] for m in known], dim=1)
        present = torch.stack([inputs[m].mask.any(1) for m in known], dim=1)
        # A clip without any rows attends to its own tokens: masking all of them gives NaN.
        unseen = ~present & present.any(1, keepdim=True)
        mixed = self.cross(tokens, src_key_padding_mask=unseen)
        outputs = {m: self.leave[m](phi[m] + mixed[:, i]) for i, m in enumerate(known)}
        return outputs | {f"{m}.before": phi[m] for m in known}


def _net(config: Config, size_in: int, size_out: int, dropout: float) -> nn.Sequential:
    norms = (nn.BatchNorm1d(config.hidden), nn.BatchNorm1d(size_out, momentum=config.momentum))
    layers: list[nn.Module] = []
    sizes = ((size_in, config.hidden), (config.hidden, size_out))
    for (before, after), norm in zip(sizes, norms, strict=True):
        layers += [nn.Linear(before, after), norm, nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def build(config: Config, dims: Mapping[str, int]) -> AVCA:
    """The network with these settings."""
    if set(dims) != set(MODALITIES):
        raise ConfigError(f"avca needs visual and audio features, not {', '.join(dims)}")
    return AVCA(config, dims)
