"""InfoNCE between two modalities: each clip must find its partner among the batch.

`symmetric=mean` is the half-sum of both directions, `symmetric=sum` their sum.
`negatives=exclude_same_class` leaves clips of the anchor's own class out of the denominator; clips
without a label exclude nothing. `learn_temperature` makes the temperature a parameter that starts
at `temperature` and never falls below 1/100.

Source: van den Oord et al., 2018; Radford et al., 2021 (CLIP's half-sum and learnt temperature).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=False, several_features=True)
HIGHEST = math.log(100)  # of the logits' learnt scale, so that training stays stable


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    temperature: float = setting(0.07, above=0)
    learn_temperature: bool = False
    symmetric: str = setting("mean", among=("mean", "sum"))
    negatives: str = setting("all", among=("all", "exclude_same_class"))


class InfoNCE(Objective):
    """Contrast of two modalities within a batch."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        scale = torch.tensor(-math.log(config.temperature))
        self.log_scale = nn.Parameter(scale) if config.learn_temperature else None

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The cross-entropy of finding each clip's partner, in both directions."""
        left, right = (F.normalize(x, dim=-1) for x in batch.embeddings.values())
        if self.log_scale is None:
            similarity_BB = left @ right.T / self.config.temperature
        else:
            similarity_BB = left @ right.T * self.log_scale.exp()
        if self.config.negatives == "exclude_same_class":
            similarity_BB = similarity_BB.masked_fill(_false_negatives(batch.labels), -torch.inf)
        partner_B = torch.arange(len(left), device=left.device)
        share = 0.5 if self.config.symmetric == "mean" else 1.0
        return {
            "forth": share * F.cross_entropy(similarity_BB, partner_B),
            "back": share * F.cross_entropy(similarity_BB.T, partner_B),
        }

    def after_step(self, batch: Batch) -> None:
        """Keep the learnt temperature at 1/100 or above."""
        if self.log_scale is not None:
            with torch.no_grad():
                self.log_scale.clamp_(max=HIGHEST)


def _false_negatives(labels: Int[Tensor, "B"]) -> Bool[Tensor, "B B"]:
    same = (labels[:, None] == labels) & (labels >= 0)
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def build(config: Config, context: ObjectiveContext) -> InfoNCE:
    """The objective with these settings."""
    if len(context.outputs) != 2:
        given = ", ".join(context.outputs)
        raise ConfigError(f"infonce pairs two modalities, not {len(context.outputs)}: {given}")
    return InfoNCE(config)
