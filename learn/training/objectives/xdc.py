"""XDC: each modality learns to name the clusters that the other one's clips fall into.

Clusters are made at the start of each round, in the first of what is stored, later of what the
networks have learnt; classifiers start anew with them. The recipe's `rounds` say how often. The
cost is plain cross-entropy.

Source: Alwassel et al., 2020, "Self-Supervised Learning by Cross-Modal Audio-Video Clustering".
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.training.objectives import Batch, EpochStart, ObjectiveContext, Traits
from learn.training.objectives._clusters import Clustered, two_modalities
from store.settings import Settings, setting

TRAITS = Traits(supervised=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    clusters: int = setting(64, at_least=2)


class XDC(Clustered):
    """Classifiers of the other modality's clusters."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__(context, config.clusters)
        self.classifiers = nn.ModuleDict(
            {name: nn.Linear(dim, self.count) for name, dim in context.outputs.items()}
        )

    @torch.no_grad()
    def prepare(self, start: EpochStart) -> dict[str, float]:
        """Recluster and reset the classifiers as a round starts; returns the cluster metrics."""
        if start.epoch:
            return {}
        generator = torch.Generator().manual_seed(start.seed)
        for layer in self.classifiers.children():
            assert isinstance(layer, nn.Linear)
            bound = layer.in_features**-0.5
            for values in (layer.weight, layer.bias):
                drawn = torch.empty(values.shape).uniform_(-bound, bound, generator=generator)
                values.copy_(drawn)
        return self.recluster(start, stored=start.round == 0)

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The cross-entropy of each modality's classifier on the other one's clusters, halved."""
        return {
            name: F.cross_entropy(
                self.classifiers[name](batch.embeddings[name]), self.class_ids(batch, other)
            )
            / 2
            for name, other in (self.names, self.names[::-1])
        }


def build(config: Config, context: ObjectiveContext) -> XDC:
    """The objective with these settings."""
    two_modalities("xdc", context)
    return XDC(config, context)
