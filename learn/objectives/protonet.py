"""ProtoNet: a query is of the class whose mean shot is nearest, trained in episodes.

The score is minus the squared distance to the mean of a class's shots. In a batch every clip is a
query, and the shots of a class are all its other clips, or `shots` of them drawn for each query.
Vectors are of length one here, as those of a run are where it is asked, so distances are at most 4
and `scale` multiplies them; the paper leaves lengths to the network.

Where query and shots are of two modalities they are compared too, so that one space answers both.

Shapes: as in `learn.objectives._episodic`.

Source: Snell et al., 2017, "Prototypical Networks for Few-shot Learning", equations 1 and 2.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learn.objectives import Scene
from learn.objectives._episodic import Episodic, cross_entropy
from store.errors import ConfigError

SUPERVISED = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    shots: int = 0  # of a class for each query; 0: all there are
    scale: float = 8.0

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ConfigError(f"protonet: shots={self.shots} is less than 0")
        if not 0 < self.scale < float("inf"):
            raise ConfigError(f"protonet: scale={self.scale} is not above 0")


class ProtoNet(Episodic):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.shots = config.shots

    def compare(
        self,
        query: Float[Tensor, "E M D"],
        support: Float[Tensor, "E N K D"],
        shown: Bool[Tensor, "E M N K"] | None = None,
    ) -> Float[Tensor, "E M N"]:
        query, support = F.normalize(query, dim=-1), F.normalize(support, dim=-1)
        if shown is None:
            means = support.mean(2)[:, None]
            return -self.config.scale * (query[:, :, None] - means).square().sum(-1)
        weight = shown.to(support.dtype) / shown.sum(-1, keepdim=True).clamp_min(1)
        means = torch.einsum("emnk,enkd->emnd", weight, support)
        return -self.config.scale * (query[:, :, None] - means).square().sum(-1)

    def cost(
        self, scores: Float[Tensor, "M N"], answer: Int[Tensor, "M"], there: Bool[Tensor, "M N"]
    ) -> Float[Tensor, ""]:
        return cross_entropy(scores, answer, there)


def build(config: Config, scene: Scene) -> ProtoNet:
    if len(scene.classes) < 2:
        raise ConfigError(f"protonet needs two classes, not {len(scene.classes)}")
    _ = scene.dim  # one size for all modalities
    return ProtoNet(config)
