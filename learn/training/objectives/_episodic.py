"""Objectives that learn to compare a query with the shots of classes, and then do so in episodes.

In a batch every clip is a query. The shots of a class are other clips of it, `shots` of them drawn
for each query; where query and shots are of two modalities, a clip may be its own shot. A query
whose class has no shot costs nothing. So a batch of 5 classes is 5-way, and asks about every clip.

Shapes: B = clips of a batch, E = episodes, N = classes, K = shots (padded in training), M =
queries, D = size of an embedding.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict
from learn.training.objectives import Batch, Objective, ObjectiveContext
from learn.training.objectives._pairs import dice
from store.errors import ConfigError

NEVER = -1e30  # finite, so that what is masked makes no NaN on the way back


class Episodic(Objective):
    """An objective with a comparison of its own, which is the head of its run too."""

    shots: int  # of a class for each query; 0: all there are

    @abstractmethod
    def compare(
        self,
        query: Float[Tensor, "E M D"],
        support: Float[Tensor, "E N K D"],
        shown: Bool[Tensor, "E M N K"] | None = None,
    ) -> Float[Tensor, "E M N"]:
        """Scores of the classes, from the shots shown to each query.

        For a class without any they are finite and mean nothing.
        """

    @abstractmethod
    def cost(
        self, scores: Float[Tensor, "M N"], target: Int[Tensor, "M"], present: Bool[Tensor, "M N"]
    ) -> Float[Tensor, ""]:
        """The loss of these scores, among the classes that are present for each query."""

    def numbers(self, queries: int, ways: int, shots: int) -> int:
        """The count of numbers that one episode makes; it bounds how many go together."""
        return queries * ways * shots

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The cost of each pair of a query's and a support's output."""
        classes, target = torch.unique(batch.labels, return_inverse=True)
        shots, mask = _of_classes(target, len(classes))
        itself = shots == torch.arange(len(batch), device=shots.device)[:, None, None]
        chance = dice(batch)[:, shots]
        pairs = [(q, s) for q in batch.embeddings for s in batch.embeddings]
        terms = {}
        for query, support in pairs:
            shown = mask & ~itself if query == support else mask.expand(len(batch), -1, -1)
            if self.shots:
                rank = chance.masked_fill(~shown, torch.inf).argsort(2).argsort(2)
                shown = shown & (rank < self.shots)
            present = shown.any(2)
            counted = present.gather(1, target[:, None])[:, 0]
            scores = self.compare(
                batch.embeddings[query][None], batch.embeddings[support][shots][None], shown[None]
            )[0]
            cost = self.cost(scores[counted], target[counted], present[counted])
            terms[f"{query}_{support}"] = cost / len(pairs)
        return terms

    def head(self) -> Head:
        """A head that answers episodes by `compare`."""
        return OwnHead(self)


class OwnHead:
    """A head by an objective's comparison, for each modality by itself; scores are averaged."""

    transductive = False
    centred_by = "none"
    scale_free = False  # what was learnt is for vectors as the projection makes them
    AT_ONCE = 8_000_000  # numbers

    def __init__(self, objective: Episodic) -> None:
        self.objective = objective

    @torch.no_grad()
    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        modality_dims = list(context.modality_dims)
        self.objective.to(support.device)  # a run's is in memory, its vectors may be on a GPU
        shots = torch.split(support, modality_dims, -1)

        @torch.no_grad()
        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            numbers = self.objective.numbers(query.shape[1], *support.shape[1:3])
            size = max(1, self.AT_ONCE // numbers)
            scores = []
            for q, s in zip(torch.split(query, modality_dims, -1), shots, strict=True):
                parts = zip(torch.split(q, size), torch.split(s, size), strict=True)
                scores.append(torch.cat([self.objective.compare(*part) for part in parts]))
            return torch.stack(scores).mean(0)

        return predict


def check_frames(name: str, context: ObjectiveContext, frames: int) -> None:
    """Refuse embeddings that do not divide into `frames`.

    Raises:
        ConfigError: says which projection makes frames.
    """
    if context.dim % frames:
        raise ConfigError(
            f"{name}: embeddings of {context.dim} numbers are no {frames} frames; set "
            f"projection.name=frames and projection.frames={frames}"
        )


def cross_entropy(
    scores: Float[Tensor, "M N"], target: Int[Tensor, "M"], present: Bool[Tensor, "M N"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy over queries; 0 if there are none."""
    total = F.cross_entropy(scores.masked_fill(~present, NEVER), target, reduction="sum")
    return total / max(1, len(scores))


def _of_classes(
    target: Int[Tensor, "B"], classes: int
) -> tuple[Int[Tensor, "N K"], Bool[Tensor, "N K"]]:
    """Indices of each class's clips, and a mask that is false for padding."""
    sizes = target.bincount(minlength=classes)
    rank = torch.arange(int(sizes.max()), device=target.device)
    mask = rank < sizes[:, None]
    order = target.argsort(stable=True)
    first = sizes.cumsum(0) - sizes
    return order[torch.where(mask, first[:, None] + rank, 0)], mask
