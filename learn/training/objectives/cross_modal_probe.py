"""Cross-modal linear probe: one bias-free classifier, for which every modality is more shots.

Logits are scale * x / |x| . weight of the class. All embeddings of a clip are shots of its class,
and so are the texts of the classes, where they are given: through a linear map of their own, or as
they are where they have the size of the embeddings; then the weights start at the texts.

Source: Lin et al., CVPR 2023, "Multimodality helps unimodality: Cross-modal few-shot learning with
multimodal models".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from store.settings import Settings, setting

TRAITS = Traits(supervised=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    scale: float = setting(100.0, above=0)  # exp(4.60517), as CLIP ends up with
    text: float = setting(1.0, at_least=0)  # weight of the texts' cost; clips' is 1
    unit_weights: bool = False  # cosines with the classes' weights; published: products


class CrossModalProbe(Objective):
    """One bias-free classifier of clips and class texts."""

    texts: Tensor | None

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("texts", context.texts, persistent=False)
        self.text: nn.Module = nn.Identity()
        weight = torch.randn(len(context.classes), context.dim) / context.dim**0.5
        if self.texts is not None and self.texts.shape[1] == context.dim:
            weight = F.normalize(self.texts, dim=1).clone()
        elif self.texts is not None:
            self.text = nn.Linear(self.texts.shape[1], context.dim, bias=False)
        self.weight = nn.Parameter(weight)

    def embed_texts(self, texts: Float[Tensor, "C W"]) -> Float[Tensor, "C E"]:
        """Class texts in the space of the clips."""
        return self.text(texts)

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The classifier's cross-entropy on each output, and on the class texts."""
        share = 1 / len(batch.embeddings)
        terms = {
            name: share * F.cross_entropy(x, batch.labels)
            for name, x in self.classify(batch.embeddings).items()
        }
        if self.texts is not None and self.config.text:
            class_ids = torch.arange(len(self.texts), device=self.texts.device)
            cost = F.cross_entropy(self._scores(self.embed_texts(self.texts)), class_ids)
            terms["text"] = self.config.text * cost
        return terms

    def classify(
        self, embeddings: Mapping[str, Float[Tensor, "B _"]]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Scaled products with the weights of the training's classes, from each output."""
        return {name: self._scores(x) for name, x in embeddings.items()}

    def _scores(self, x: Float[Tensor, "B E"]) -> Float[Tensor, "B C"]:
        weight = F.normalize(self.weight, dim=1) if self.config.unit_weights else self.weight
        return self.config.scale * F.normalize(x, dim=1) @ weight.T


def build(config: Config, context: ObjectiveContext) -> CrossModalProbe:
    """The objective with these settings."""
    return CrossModalProbe(config, context)
