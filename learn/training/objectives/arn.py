"""ARN: which features of a clip go together, in whatever order, compared by a small network.

Frames are weighted by an attention of 1 to 2 each. A clip becomes the mean outer product of its
frames with themselves, S = X X^T / n, whose entries are drawn apart by 2 sigmoid(100 S / tr S) - 1.
A class is the mean of its shots' matrices. The two matrices of a class and a query are the two
channels of a picture, from which a convolutional network tells how related they are: four layers
with shortcuts as published (`relation=residual`), or two smaller ones (`plain`). No order of frames
changes anything.

With `jigsaw` the encoder also learns from order: frames are cut into `pieces` that are put in
another order, and a perceptron names the order from all frames. It is weighted by `jigsaw`, whose
published weight is not in the code, and has no part in answers.

Needs embeddings that are sequences: projection `frames` of as many frames, whose linear map is the
encoder. 64 numbers a frame are the published channels, and 100 is meant for them: with few of them
every entry is drawn to its end. Layers are normalised clip by clip, where the published ones are
over the batch and with its statistics in tests too (momentum 1), so that no answer depends on what
else is asked. The cost is the cross-entropy of
the classes' relations; the squared error of each relation's sigmoid against 0 or 1, as in relation
networks, saturates at one answer for everything here.

Shapes: as in `learn.training.objectives._episodic`; F = frames, W = size of a frame, P = pairs.

Source: Zhang et al., ECCV 2020, "Few-shot action recognition with permutation-invariant attention";
Sung et al., CVPR 2018 (relation network).
"""

from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from learn.training.objectives import Batch, ObjectiveContext, Traits
from learn.training.objectives._episodic import Episodic, check_frames, cross_entropy
from learn.training.objectives._pairs import by_clip
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=True, of_class=True)
CELLS = 4  # on each side of what the network looks at last
HIDDEN = 8, 1024  # numbers before the last layer of the residual network, and of the jigsaw's


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    frames: int = setting(8, at_least=1)  # as projection.frames
    sharpness: float = setting(100.0, above=0)  # of the power normalisation
    relation: str = setting("plain", among=("plain", "residual"))
    channels: int = setting(16, at_least=1)  # of the relation network
    jigsaw: float = setting(0.0, at_least=0)  # weight of naming the order of a clip's pieces
    pieces: int = setting(4, at_least=2, at_most=6)
    # of a class for each query, while training; 0: all that the batch has
    shots: int = setting(5, at_least=0)

    def check(self) -> None:
        """Refuse more pieces than frames."""
        if self.jigsaw and self.pieces > self.frames:
            raise ConfigError(f"arn: {self.frames} frames are no {self.pieces} pieces")


class ARN(Episodic):
    """Relations between clips, seen through how their features go together."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config, self.shots = config, config.shots
        self.dim, wide = context.dim // config.frames, config.channels
        self.attention = nn.Sequential(
            nn.Linear(self.dim, self.dim), nn.ReLU(), nn.Linear(self.dim, 1), nn.Sigmoid()
        )
        if config.relation == "residual":
            self.relation = nn.Sequential(
                _Layer(2, wide),
                *(_Layer(wide, wide) for _ in range(3)),
                nn.AdaptiveAvgPool2d(CELLS),
                nn.Flatten(),
                *(nn.Linear(wide * CELLS**2, HIDDEN[0]), nn.ReLU(), nn.Linear(HIDDEN[0], 1)),
            )
        else:
            self.relation = nn.Sequential(
                *(nn.Conv2d(2, wide, 3, padding=1), nn.GroupNorm(1, wide), nn.ReLU()),
                nn.MaxPool2d(2, ceil_mode=True),
                *(nn.Conv2d(wide, wide, 3, padding=1), nn.GroupNorm(1, wide), nn.ReLU()),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.AdaptiveAvgPool2d(CELLS),
                nn.Flatten(),
                nn.Linear(wide * CELLS**2, 1),
            )
        self.orders: Tensor
        self.discriminator: nn.Module | None = None
        if config.jigsaw:
            orders = torch.tensor(list(permutations(range(config.pieces))))
            self.register_buffer("orders", orders, persistent=False)
            self.discriminator = nn.Sequential(
                nn.Linear(context.dim, HIDDEN[1]), nn.ReLU(), nn.Linear(HIDDEN[1], len(orders))
            )

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The relations' cost, and that of the orders of pieces where they are asked for."""
        terms = super().terms(batch)
        if self.discriminator is None:
            return terms
        drawn = torch.rand(len(batch), generator=batch.generator())
        order = (by_clip(batch, drawn) * len(self.orders)).long()
        for name, x in batch.embeddings.items():
            logits = self.discriminator(self.shuffled(x, order))
            share = self.config.jigsaw / len(batch.embeddings)
            terms[f"jigsaw_{name}"] = share * F.cross_entropy(logits, order)
        return terms

    def shuffled(self, x: Float[Tensor, "B D"], order: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """Each clip's frames with its pieces in the order of that number."""
        # Pieces differ by a frame where they must: frames are sorted by their piece's new place.
        frames = torch.arange(self.config.frames, device=x.device)
        piece = frames * self.config.pieces // self.config.frames
        place = self.orders[order].argsort(1)[:, piece].argsort(dim=1, stable=True)
        clips = F.normalize(x, dim=-1) * x.shape[-1] ** 0.5
        clips = clips.view(len(x), self.config.frames, self.dim)
        return clips.gather(1, place[..., None].expand_as(clips)).flatten(1)

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


class _Layer(nn.Module):
    """A convolution beside a shortcut where sizes allow one, and a picture of half the size."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, padding=1), nn.GroupNorm(1, channels), nn.ReLU()
        )
        self.shortcut = channels_in == channels
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x: Float[Tensor, "N _ H W"]) -> Float[Tensor, "N _ H2 W2"]:
        out = self.layer(x)
        return self.pool(x + out if self.shortcut else out)


def build(config: Config, context: ObjectiveContext) -> ARN:
    """The objective with these settings."""
    check_frames("arn", context, config.frames)
    return ARN(config, context)
