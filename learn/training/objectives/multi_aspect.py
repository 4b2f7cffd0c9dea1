"""Several aspects of a clip at once: a softmax classifier for each label column.

Columns are named together, `data.label=concept,affective_state`, and their labels come as
`COLUMN=LABEL`; those of one column are one aspect. The cost of an aspect is the mean cross-entropy
of the clips that have a label there, against even shares of their labels if they have several; the
whole is the mean over modalities, which share the classifiers, of the sum over aspects. A clip
without a label in one column still teaches the others.

Source: Gupta et al., CVPR 2022, "3MASSIV: Multilingual, multimodal and multi-aspect dataset of
social media short videos" (its aspects; there a network for each).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=True, several_labels=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    label_smoothing: float = setting(0.1, at_least=0, below=1)


class MultiAspect(Objective):
    """A classifier for each aspect."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.classifier = nn.Linear(context.dim, len(context.classes))
        aspects: dict[str, list[int]] = {}
        for class_id, name in enumerate(context.classes):
            column, joined, _ = name.partition("=")
            aspects.setdefault(column if joined else "label", []).append(class_id)
        self.aspects = {name: torch.tensor(ids) for name, ids in aspects.items()}

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The cross-entropy of each aspect of each output."""
        assert batch.targets is not None
        share, smoothing = 1 / len(batch.embeddings), self.config.label_smoothing
        terms = {}
        for output, logits in self.classify(batch.embeddings).items():
            for name, ids in self.aspects.items():
                wanted = batch.targets[:, ids.to(logits.device)]
                count = wanted.sum(1, keepdim=True)
                costs = F.cross_entropy(
                    logits[:, ids.to(logits.device)], wanted / count.clamp_min(1),
                    label_smoothing=smoothing, reduction="none",
                )  # fmt: skip
                told = count[:, 0] > 0
                mean = torch.where(told, costs, 0.0).sum() / told.sum().clamp_min(1)
                terms[f"{name}_{output}"] = share * mean
        return terms

    def classify(
        self, embeddings: Mapping[str, Float[Tensor, "B _"]]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Logits of all aspects' classes, from each output."""
        return {name: self.classifier(x) for name, x in embeddings.items()}


def build(config: Config, context: ObjectiveContext) -> MultiAspect:
    """The objective with these settings."""
    if not context.classes:
        raise ConfigError("multi_aspect needs labels; the columns have none")
    return MultiAspect(config, context)
