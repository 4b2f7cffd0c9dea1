"""Triplets: a clip must be nearer to a clip of its class than to one of another, by a margin.

The anchor is of one modality, both others are of the other one (of the same one, if there is but
one). A positive is any clip of the anchor's class, itself included where it is of the other
modality. Clips without a label are a class each. An anchor that has no positive or no negative, as
in a class of one clip, costs nothing; the mean is over the triplets that there are.

mining=random      one positive and one negative for each anchor, drawn by the step's seed
       semi_hard   every positive, with the nearest negative farther away than it; the farthest
                   negative where there is none
       batch_hard  the farthest positive and the nearest negative for each anchor

Source: Schroff et al., 2015 (FaceNet; semi-hard); Hermans et al., 2017 (batch-hard).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from learn.training.objectives._pairs import crossings, dice, same_class
from store.settings import Settings, setting

TRAITS = Traits(supervised=True, several_features=True)
MININGS = ("random", "semi_hard", "batch_hard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    margin: float = setting(0.5, above=0)
    mining: str = setting("semi_hard", among=MININGS)
    normalise: bool = True  # compare directions only


class Triplet(Objective):
    """Triplets of clips with a margin."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The mean triplet loss of each ordered pair of outputs."""
        same, chance = same_class(batch.labels), dice(batch)
        terms = {}
        pairs = list(crossings(batch))
        for name, left, right in pairs:
            positive = same
            if left is right:
                positive = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
            if self.config.normalise:
                left, right = F.normalize(left, dim=-1), F.normalize(right, dim=-1)
            cost = self._mined(_distances(left, right), positive, ~same, chance)
            terms[name] = cost / len(pairs)
        return terms

    def _mined(
        self,
        distance: Float[Tensor, "B B"],
        positive: Bool[Tensor, "B B"],
        negative: Bool[Tensor, "B B"],
        chance: Float[Tensor, "B B"],
    ) -> Float[Tensor, ""]:
        far, near = -torch.inf, torch.inf
        if self.config.mining == "semi_hard":
            # [anchor, positive, negative]: B^3 comparisons, of which only indices are kept
            beyond = negative[:, None, :] & (distance[:, None, :] > distance[:, :, None])
            nearest, index = distance[:, None, :].masked_fill(~beyond, near).min(2)
            farthest = distance.masked_fill(~negative, far).argmax(1)
            index = torch.where(nearest.isinf(), farthest[:, None], index)
            valid = positive & negative.any(1, keepdim=True)
            cost = (distance - distance.gather(1, index) + self.config.margin).relu()
            return torch.where(valid, cost, 0).sum() / valid.sum().clamp_min(1)
        if self.config.mining == "batch_hard":
            with_p = distance.masked_fill(~positive, far).argmax(1, keepdim=True)
            with_n = distance.masked_fill(~negative, near).argmin(1, keepdim=True)
        else:
            with_p = chance.masked_fill(~positive, far).argmax(1, keepdim=True)
            with_n = chance.masked_fill(~negative, far).argmax(1, keepdim=True)
        valid = positive.any(1) & negative.any(1)
        gap = distance.gather(1, with_p) - distance.gather(1, with_n)
        cost = (gap[:, 0] + self.config.margin).relu()
        return torch.where(valid, cost, 0).sum() / valid.sum().clamp_min(1)


def _distances(left: Float[Tensor, "B E"], right: Float[Tensor, "B E"]) -> Float[Tensor, "B B"]:
    """Euclidean distances, with a gradient where two points are one."""
    square = left.square().sum(1)[:, None] + right.square().sum(1) - 2 * left @ right.T
    return square.clamp_min(1e-12).sqrt()


def build(config: Config, context: ObjectiveContext) -> Triplet:
    """The objective with these settings."""
    if context.classes and len(context.outputs) > 1:
        _ = context.dim  # distances need one size
    return Triplet(config)
