"""Cross-entropy of one linear classifier that all modalities share.

Sharing it is what brings the modalities together: the same weights must name a clip's class from
what is seen and from what is heard. The cost is the mean over modalities.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    label_smoothing: float = setting(0.0, at_least=0, below=1)


class CrossEntropy(Objective):
    """One linear classifier of all modalities, and its cross-entropy."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.classifier = nn.Linear(context.dim, len(context.classes))

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The classifier's cross-entropy on each output, as a share of their mean."""
        smoothing, share = self.config.label_smoothing, 1 / len(batch.embeddings)
        return {
            name: share * F.cross_entropy(x, batch.labels, label_smoothing=smoothing)
            for name, x in self.classify(batch.embeddings).items()
        }

    def classify(
        self, embeddings: Mapping[str, Float[Tensor, "B _"]]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Logits of the training's classes, from each output."""
        return {name: self.classifier(x) for name, x in embeddings.items()}


def build(config: Config, context: ObjectiveContext) -> CrossEntropy:
    """The objective with these settings."""
    if len(context.classes) < 2:
        raise ConfigError(
            f"cross_entropy needs two classes to tell apart, not {len(context.classes)}"
        )
    return CrossEntropy(config, context)
