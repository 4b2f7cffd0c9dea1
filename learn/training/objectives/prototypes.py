"""Cross-modal prototypes: a clip's picture is near the centroid its sound belongs to, and back.

Every `every` epochs both modalities' embeddings are clustered, at the very first what is stored;
then

    -log exp(v_i . c_a[y_i] / tau) / sum_k exp(v_i . c_a[k] / tau)

with c_a the audio clusters' mean directions and y_i the cluster of clip i's sound, plus the mirror,
halved. Centroids take no gradient.

Source: the contrast of prototypes of Li et al., 2021 (PCL), between modalities clustered as in
Alwassel et al., 2020 (XDC).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.training.objectives import Batch, EpochStart, ObjectiveContext, Traits
from learn.training.objectives._clusters import Clustered, two_modalities
from store.settings import Settings, setting

TRAITS = Traits(supervised=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    clusters: int = setting(64, at_least=2)
    temperature: float = setting(0.1, above=0)
    every: int = setting(1, at_least=1)  # epochs between clusterings


class Prototypes(Clustered):
    """Contrast of each clip with the other modality's centroids."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__(context, config.clusters)
        self.config = config

    def prepare(self, start: EpochStart) -> dict[str, float]:
        """Recluster every `every` epochs; returns the cluster metrics."""
        if start.epoch % self.config.every:
            return {}
        return self.recluster(start, stored=start.epoch == start.round == 0)

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The cross-entropy of each modality against the other one's centroids, halved."""
        terms = {}
        for name, other in (self.names, self.names[::-1]):
            similarity = F.normalize(batch.embeddings[name], dim=-1) @ self.centres(other).T
            cost = F.cross_entropy(
                similarity / self.config.temperature, self.class_ids(batch, other)
            )
            terms[name] = cost / 2
        return terms


def build(config: Config, context: ObjectiveContext) -> Prototypes:
    """The objective with these settings."""
    two_modalities("prototypes", context)
    _ = context.dim  # directions of one size
    return Prototypes(config, context)
