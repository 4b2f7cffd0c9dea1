"""NT-Xent: each view of a clip must find the clip's other view among all views of the batch.

With `views.copies = 2` the views are two copies of the stored rows, in every modality by itself;
with one copy they are what is seen and what is heard, and views of one modality are negatives of
each other too. Only a view itself is left out of its denominator. `reduction=mean` is the paper's
mean over 2N views; `sum` adds the means of both sides, as the published code does: twice as much.

Source: Chen et al., 2020, "A Simple Framework for Contrastive Learning", equation 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=False, several_features=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    temperature: float = setting(0.1, above=0)
    reduction: str = setting("mean", among=("mean", "sum"))


class NTXent(Objective):
    """Contrast of two views of each clip among all views of a batch."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The NT-Xent loss (Chen et al., 2020, equation 1) of each pair of views."""
        if len(batch.copies) == 2:
            first, second = batch.copies
            pairs = {name: (first[name], second[name]) for name in first}
        else:
            left, right = batch.embeddings.values()
            pairs = {"views": (left, right)}
        return {name: self._cost(*pair) / len(pairs) for name, pair in pairs.items()}

    def _cost(self, first: Float[Tensor, "B E"], second: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
        views = F.normalize(torch.cat([first, second]), dim=-1)
        itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
        similarity = (views @ views.T / self.config.temperature).masked_fill(itself, -torch.inf)
        partner = torch.arange(len(views), device=views.device).roll(len(first))
        cost = F.cross_entropy(similarity, partner)
        return cost if self.config.reduction == "mean" else 2 * cost


def build(config: Config, context: ObjectiveContext) -> NTXent:
    """The objective with these settings."""
    if context.views != 2 and len(context.outputs) != 2:
        raise ConfigError(
            f"nt_xent needs views.copies=2, or two modalities as views, not {len(context.outputs)}"
        )
    return NTXent(config)
