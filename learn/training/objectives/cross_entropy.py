"""Cross-entropy of one classifier that all modalities share, or of one for each.

Sharing it is what brings the modalities together: the same weights must name a clip's class from
what is seen and from what is heard. It is linear, or has a layer of `hidden` numbers with GELU. The
cost is the mean over modalities.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from store.settings import Settings, setting

TRAITS = Traits(supervised=True, several_features=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    label_smoothing: float = setting(0.0, at_least=0, below=1)
    hidden: int = setting(0, at_least=0)  # 0: the classifier is linear
    shared: bool = True


class CrossEntropy(Objective):
    """A classifier of all modalities or one of each, and their cross-entropy."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        classes = len(context.classes)
        if config.shared:
            self.classifier = _classifier(config, context.dim, classes)
        else:
            self.classifiers = nn.ModuleDict(
                {name: _classifier(config, size, classes) for name, size in context.outputs.items()}
            )

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The cross-entropy of each output, as a share of their mean."""
        smoothing, share = self.config.label_smoothing, 1 / len(batch.embeddings)
        return {
            name: share * F.cross_entropy(x, batch.labels, label_smoothing=smoothing)
            for name, x in self.classify(batch.embeddings).items()
        }

    def classify(
        self, embeddings: Mapping[str, Float[Tensor, "B _"]]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Logits of the training's classes, from each output."""
        if self.config.shared:
            return {name: self.classifier(x) for name, x in embeddings.items()}
        return {name: self.classifiers[name](x) for name, x in embeddings.items()}


def _classifier(config: Config, dim: int, classes: int) -> nn.Module:
    if not config.hidden:
        return nn.Linear(dim, classes)
    return nn.Sequential(
        nn.Linear(dim, config.hidden), nn.GELU(), nn.Linear(config.hidden, classes)
    )


def build(config: Config, context: ObjectiveContext) -> CrossEntropy:
    """The objective with these settings."""
    return CrossEntropy(config, context)
