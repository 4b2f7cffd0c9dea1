"""Several labels a clip: binary cross-entropy of one linear classifier that all modalities share.

The cost is the mean over modalities and classes. `balance` weighs the positives of a class by how
much rarer they are than its negatives in the batch, to that power: 0 leaves them as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=True, several_labels=True, several_features=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    balance: float = setting(0.5, at_least=0, at_most=1)


class MultiLabel(Objective):
    """One linear classifier of all modalities, with several labels a clip."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.classifier = nn.Linear(context.dim, len(context.classes))

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The binary cross-entropy of each output, positives weighted by `balance`."""
        assert batch.targets is not None
        positive = batch.targets.sum(0)
        rarer = (len(batch) - positive) / positive.clamp_min(1)
        weight = rarer.clamp_min(1e-3) ** self.config.balance
        share = 1 / len(batch.embeddings)
        return {
            name: share * F.binary_cross_entropy_with_logits(x, batch.targets, pos_weight=weight)
            for name, x in self.classify(batch.embeddings).items()
        }

    def classify(
        self, embeddings: Mapping[str, Float[Tensor, "B _"]]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Logits of the training's classes, from each output."""
        return {name: self.classifier(x) for name, x in embeddings.items()}


def build(config: Config, context: ObjectiveContext) -> MultiLabel:
    """The objective with these settings."""
    if not context.classes:
        raise ConfigError("multi_label needs labels; the column has none")
    return MultiLabel(config, context)
