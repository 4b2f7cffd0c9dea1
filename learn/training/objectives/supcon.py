"""Supervised contrast: all views of all clips of a class are partners, whatever their modality.

Views are the embeddings of every modality, of every copy if there are two. The mean over partners
is outside the logarithm. Clips without a label have only their own views as partners.

Source: Khosla et al., 2020, "Supervised Contrastive Learning", equation 2 (L_out).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from learn.training.objectives._pairs import same_class
from store.settings import Settings, setting

TRAITS = Traits(supervised=True, of_class=True, several_features=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    temperature: float = setting(0.1, above=0)


class SupCon(Objective):
    """Contrast in which all views of a class are partners."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The supervised contrastive loss over all views of the batch."""
        copies = batch.copies if len(batch.copies) == 2 else (batch.embeddings,)
        views = [x for copy in copies for x in copy.values()]
        stacked = F.normalize(torch.cat(views), dim=-1)
        itself = torch.eye(len(stacked), dtype=torch.bool, device=stacked.device)
        similarity = stacked @ stacked.T / self.config.temperature
        others = similarity.masked_fill(itself, -torch.inf)
        log_share = similarity - others.logsumexp(1, keepdim=True)
        partners = same_class(batch.labels).repeat(len(views), len(views)) & ~itself
        count = partners.sum(1)
        cost = -torch.where(partners, log_share, 0).sum(1) / count.clamp_min(1)
        return {"supcon": cost.sum() / (count > 0).sum().clamp_min(1)}


def build(config: Config, context: ObjectiveContext) -> SupCon:
    """The objective with these settings."""
    return SupCon(config)
