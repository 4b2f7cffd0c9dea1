"""Late fusion: the means of both modalities, each through a layer, joined, and through an MLP.

`av` is made of both modalities, `visual` and `audio` of one and a learned token for the other, so
that all three lie in one space and a clip that lacks a modality has its place in it. While
training, `modality_dropout` of the clips lose one of the two.

Source: Neverova et al., 2016, "ModDrop" (dropping modalities); tokens for what is missing as in Lee
et al., CVPR 2023, "Multimodal prompting with missing modalities".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.data.rows import Padded
from learn.models.networks import Traits
from learn.models.networks._missing import MODALITIES, Missing
from learn.models.projections import mean_of_rows
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(of_means=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the network."""

    dim_out: int = setting(128, at_least=1)
    hidden: int = setting(512, at_least=1)
    dropout: float = setting(0.1, at_least=0, below=1)
    modality_dropout: float = setting(0.3, at_least=0, below=1)


class Concat(nn.Module):
    """One perceptron over the concatenated modalities."""

    def __init__(self, config: Config, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.outputs = dict.fromkeys((*MODALITIES, "av"), config.dim_out)
        self.hidden: Mapping[str, int] = {}
        self.enter = nn.ModuleDict({m: nn.Linear(dims[m], config.hidden) for m in MODALITIES})
        self.missing = Missing(config.hidden, config.modality_dropout)
        self.fuse = nn.Sequential(
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * config.hidden, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.dim_out),
        )

    def forward(self, inputs: Mapping[str, Padded]) -> dict[str, Float[Tensor, "B _"]]:
        """One vector each from both modalities (`av`) and from each modality given alone."""
        vectors = {m: self.enter[m](mean_of_rows(*inputs[m][:2])) for m in inputs}
        given = {m: inputs[m].mask.any(1) for m in inputs}
        none = torch.zeros_like(next(iter(given.values())))
        present = {m: given.get(m, none) for m in MODALITIES}
        outputs = {"av": self._fused(vectors, present)}
        for m in inputs:
            outputs[m] = self._fused(vectors, {**dict.fromkeys(MODALITIES, none), m: present[m]})
        return outputs

    def _fused(
        self, vectors: Mapping[str, Float[Tensor, "B H"]], present: Mapping[str, Bool[Tensor, "B"]]
    ) -> Float[Tensor, "B E"]:
        filled = self.missing(vectors, present)
        return self.fuse(torch.cat([filled[m] for m in MODALITIES], dim=1))


def build(config: Config, dims: Mapping[str, int]) -> Concat:
    """The network with these settings."""
    if set(dims) != set(MODALITIES):
        raise ConfigError(f"concat needs visual and audio features, not {', '.join(dims)}")
    return Concat(config, dims)
