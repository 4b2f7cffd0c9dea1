"""TRX: pairs and triples of a query's frames, each answered by those of a class that are like it.

Frames of a clip, with their places added as small waves, are joined to tuples in order of time, all
pairs and all triples. A tuple has a key (layer norm of a linear map) and a value (a linear map).
For each class, every tuple of the query attends to all tuples of all shots; the values so weighted
are that class's answer to it. The score is minus the mean squared distance between the query's
values and the answers, averaged over pairs and triples.

Needs embeddings that are sequences: projection `frames` of as many frames. Every clip is scaled to
one length (entries of mean square 1), as a run's vectors are.

Defaults: pairs and triples, waves times 0.1 and dropout 0.1 as published; keys and values of 64
numbers against 1,152, for frames that were made small already.

Shapes: as in `learn.training.objectives._episodic`; F = frames, W = size of a frame, T = tuples.

Source: Perrett et al., CVPR 2021, "Temporal-relational CrossTransformers".
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from learn.training.objectives import ObjectiveContext, Traits
from learn.training.objectives._episodic import (
    NEVER,
    Episodic,
    check_frames,
    cross_entropy,
)
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=True, of_class=True)
WAVES = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    frames: int = 8  # as projection.frames
    pairs: bool = True
    triples: bool = True
    width: int = setting(64, at_least=1)  # of keys and of values
    dropout: float = setting(0.1, at_least=0, below=1)
    # of a class for each query, while training; 0: all that the batch has
    shots: int = setting(5, at_least=0)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if not self.sizes:
            raise ConfigError("trx: neither pairs nor triples")
        if self.frames < max(self.sizes):
            raise ConfigError(f"trx: {self.frames} frames have no tuples of {max(self.sizes)}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the tuples."""
        return (2,) * self.pairs + (3,) * self.triples


class Tuples(nn.Module):
    """Scores from the tuples of one size."""

    places: Tensor

    def __init__(self, size: int, config: Config, dim: int) -> None:
        super().__init__()
        places = torch.tensor(list(combinations(range(config.frames), size)))
        self.register_buffer("places", places, persistent=False)
        self.to_keys = nn.Linear(size * dim, config.width)
        self.to_values = nn.Linear(size * dim, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        query: Float[Tensor, "E M F W"],
        support: Float[Tensor, "E N K F W"],
        shown: Bool[Tensor, "E M N K"] | None,
    ) -> Float[Tensor, "E M N"]:
        """Minus the squared distances between each query's tuples and each class's prototypes."""
        episodes, ways, shots = support.shape[:3]
        queries, tuples = query.shape[1], len(self.places)
        # Of frames, before they are joined: what is dropped is dropped in every tuple.
        q, s = (self.dropout(x)[..., self.places, :].flatten(-2) for x in (query, support))
        q, s = q.flatten(1, 2), s.flatten(2, 3)
        keys = self.norm(self.to_keys(s))
        similarity = self.norm(self.to_keys(q))[:, None] @ keys.mT / keys.shape[-1] ** 0.5
        if shown is not None:
            not_shown = ~shown.transpose(1, 2)[:, :, :, None, :, None]  # E N M 1 K 1
            similarity = similarity.view(episodes, ways, queries, tuples, shots, tuples)
            similarity = similarity.masked_fill(not_shown, NEVER).view(
                episodes, ways, queries * tuples, -1
            )
        prototype = similarity.softmax(-1) @ self.to_values(s)  # E N MT width
        square = (self.to_values(q)[:, None] - prototype).square().sum(-1)
        return -square.view(episodes, ways, queries, tuples).mean(-1).mT


class TRX(Episodic):
    """Tuples of a query's frames, answered by tuples of a class's frames."""

    waves: Tensor

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.shots = config.shots
        self.dim = context.dim // config.frames
        self.register_buffer("waves", waves(config.frames, self.dim), persistent=False)
        self.tuples = nn.ModuleList(Tuples(size, config, self.dim) for size in config.sizes)

    def compare(
        self,
        query: Float[Tensor, "E M D"],
        support: Float[Tensor, "E N K D"],
        shown: Bool[Tensor, "E M N K"] | None = None,
    ) -> Float[Tensor, "E M N"]:
        """Scores averaged over the tuple sizes, from the shots shown to each query."""
        q, s = self._frames(query), self._frames(support)
        return torch.stack([part(q, s, shown) for part in self.tuples]).mean(0)

    def cost(
        self, scores: Float[Tensor, "M N"], target: Int[Tensor, "M"], present: Bool[Tensor, "M N"]
    ) -> Float[Tensor, ""]:
        """The cross-entropy of the scores."""
        return cross_entropy(scores, target, present)

    def numbers(self, queries: int, ways: int, shots: int) -> int:
        """The count of numbers in the largest table of tuples by tuples of an episode."""
        most = max(comb(self.config.frames, size) for size in self.config.sizes)
        return queries * ways * shots * most**2

    def _frames(self, x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any F W"]:
        x = F.normalize(x, dim=-1) * x.shape[-1] ** 0.5
        return x.view(*x.shape[:-1], self.config.frames, self.dim) + self.waves


def waves(frames: int, dim: int) -> Float[Tensor, "F W"]:
    """Sines and cosines of a frame's position (Vaswani et al., 2017), made small."""
    position = torch.arange(frames)[:, None]
    rate = 10000 ** (-torch.arange(0, dim, 2) / dim)
    pairs = torch.stack([(position * rate).sin(), (position * rate).cos()], -1).flatten(1)
    return WAVES * pairs[:, :dim]


def build(config: Config, context: ObjectiveContext) -> TRX:
    """The objective with these settings."""
    check_frames("trx", context, config.frames)
    return TRX(config, context)
