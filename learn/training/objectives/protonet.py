"""ProtoNet: a query belongs to the class whose mean of shots is nearest.

The cost is the cross-entropy of minus the squared distances times `scale`, of vectors of length 1,
as those of a run are: so prototypes in episodes ask what was learnt. With length 1, squared
distances are 4 at most; the published ones are of any length and have no scale.

Source: Snell et al., NeurIPS 2017, "Prototypical networks for few-shot learning".
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learn.training.objectives import ObjectiveContext, Traits
from learn.training.objectives._episodic import Episodic, cross_entropy
from store.settings import Settings, setting

TRAITS = Traits(supervised=True, of_class=True, several_features=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    scale: float = setting(8.0, above=0)
    # of a class for each query, while training; 0: all that the batch has
    shots: int = setting(5, at_least=0)


class ProtoNet(Episodic):
    """Distances of queries from the means of classes' shots."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.shots = config, config.shots

    def compare(
        self,
        query: Float[Tensor, "E M D"],
        support: Float[Tensor, "E N K D"],
        shown: Bool[Tensor, "E M N K"] | None = None,
    ) -> Float[Tensor, "E M N"]:
        """Minus the scaled squared distances to the means of each class's shots (Snell et al.,
        2017)."""
        q, s = F.normalize(query, dim=-1), F.normalize(support, dim=-1)
        if shown is None:
            mean = s.mean(2)[:, None]
        else:
            share = shown / shown.sum(-1, keepdim=True).clamp_min(1)
            mean = torch.einsum("emnk,enkd->emnd", share.to(s.dtype), s)
        return -self.config.scale * (q[:, :, None] - mean).square().sum(-1)

    def cost(
        self, scores: Float[Tensor, "M N"], target: Int[Tensor, "M"], present: Bool[Tensor, "M N"]
    ) -> Float[Tensor, ""]:
        """The cross-entropy of the scores."""
        return cross_entropy(scores, target, present)


def build(config: Config, context: ObjectiveContext) -> ProtoNet:
    """The objective with these settings."""
    _ = context.dim  # distances need one size
    return ProtoNet(config)
