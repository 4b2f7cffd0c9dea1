"""ARN: which features of a clip go together, in whatever order, compared by a small network.

Frames are weighted by an attention of 1 to 2 each. A clip becomes the mean outer product of its
frames with themselves, S = X X^T / n, whose entries are drawn apart by 2 sigmoid(100 S / tr S) - 1.
A class is the mean of its shots' matrices. The two matrices of a class and a query are the two
channels of a picture, from which a convolutional network tells how related they are. No order of
frames changes anything.

Needs embeddings that are sequences: projection `frames` of as many frames, whose linear map is the
encoder. 64 numbers a frame are the published channels, and 100 is meant for them: with few of them
every entry is drawn to its end. Layers are normalised clip by clip, where the published ones are
over the batch, so that no answer depends on what else is asked. The cost is the cross-entropy of
the classes' relations; the squared error of each relation's sigmoid against 0 or 1, as in relation
networks, saturates at one answer for everything here.

Shapes: as in `learn.training.objectives._episodic`; F = frames, W = size of a frame, P = pairs.

Source: Zhang et al., ECCV 2020, "Few-shot action recognition with permutation-invariant attention";
Sung et al., CVPR 2018 (relation network).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from learn.training.objectives import ObjectiveContext, Traits
from learn.training.objectives._episodic import Episodic, check_frames_and_classes, cross_entropy
from store.settings import Settings, setting

TRAITS = Traits(supervised=True)
CELLS = 4  # on each side of what the network looks at last


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    frames: int = setting(8, at_least=1)  # as projection.frames
    sharpness: float = setting(100.0, above=0)  # of the power normalisation
    channels: int = setting(16, at_least=1)  # of the relation network
    # of a class for each query, while training; 0: all that the batch has
    shots: int = setting(5, at_least=0)


class ARN(Episodic):
    """Relations between clips, seen through how their features go together."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config, self.shots = config, config.shots
        self.dim, wide = context.dim // config.frames, config.channels
        self.attention = nn.Sequential(
            nn.Linear(self.dim, self.dim), nn.ReLU(), nn.Linear(self.dim, 1), nn.Sigmoid()
        )
        self.relation = nn.Sequential(
            *(nn.Conv2d(2, wide, 3, padding=1), nn.GroupNorm(1, wide), nn.ReLU()),
            nn.MaxPool2d(2, ceil_mode=True),
            *(nn.Conv2d(wide, wide, 3, padding=1), nn.GroupNorm(1, wide), nn.ReLU()),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.AdaptiveAvgPool2d(CELLS),
            nn.Flatten(),
            nn.Linear(wide * CELLS**2, 1),
        )

    def compare(
        self,
        query: Float[Tensor, "E M D"],
        support: Float[Tensor, "E N K D"],
        shown: Bool[Tensor, "E M N K"] | None = None,
    ) -> Float[Tensor, "E M N"]:
        """Relation scores between each query's matrix and the mean matrix of each class's shots."""
        q, s = self._together(query), self._together(support)
        if shown is None:
            of_class = s.mean(2)[:, None].expand(-1, query.shape[1], -1, -1, -1)
        else:
            share = shown / shown.sum(-1, keepdim=True).clamp_min(1)
            of_class = torch.einsum("emnk,enkab->emnab", share.to(s.dtype), s)
        of_query = q[:, :, None].expand_as(of_class)
        pairs = torch.stack([of_class, of_query], 3)  # E M N 2 W W
        return self.relation(pairs.flatten(0, 2)).view(pairs.shape[:3])

    def cost(
        self, scores: Float[Tensor, "M N"], target: Int[Tensor, "M"], present: Bool[Tensor, "M N"]
    ) -> Float[Tensor, ""]:
        """The cross-entropy of the relation scores."""
        return cross_entropy(scores, target, present)

    def numbers(self, queries: int, ways: int, shots: int) -> int:
        """The count of numbers in an episode's pairs of matrices, by the channels made of them."""
        return queries * ways * self.dim**2 * self.config.channels

    def _together(self, x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any W W"]:
        """The matrix of a clip."""
        x = F.normalize(x, dim=-1) * x.shape[-1] ** 0.5
        x = x.view(*x.shape[:-1], self.config.frames, self.dim)
        x = x * (1 + self.attention(x))
        together = x.mT @ x / self.config.frames
        trace = together.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-12)[..., None, None]
        return 2 * (self.config.sharpness * together / trace).sigmoid() - 1


def build(config: Config, context: ObjectiveContext) -> ARN:
    """The objective with these settings."""
    check_frames_and_classes("arn", context, config.frames)
    return ARN(config, context)
