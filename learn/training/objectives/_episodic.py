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
        """Scores of the classes, from the shots shown to each query; of a class without any they
        are finite and mean nothing."""

    @abstractmethod
    def cost(
        self, scores: Float[Tensor, "M N"], answer: Int[Tensor, "M"], there: Bool[Tensor, "M N"]
    ) -> Float[Tensor, ""]:
        """Of these scores, among the classes that are there for each query."""

    def numbers(self, queries: int, ways: int, shots: int) -> int:
        """How many an episode makes at once: decides how many episodes go together."""
        return queries * ways * shots

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        classes, answer = torch.unique(batch.labels, return_inverse=True)
        shots, mask = _of_classes(answer, len(classes))
        itself = shots == torch.arange(len(batch), device=shots.device)[:, None, None]
        chance = dice(batch)[:, shots]
        pairs = [(q, s) for q in batch.embeddings for s in batch.embeddings]
        found = {}
        for query, support in pairs:
            shown = mask & ~itself if query == support else mask.expand(len(batch), -1, -1)
            if self.shots:
                rank = chance.masked_fill(~shown, torch.inf).argsort(2).argsort(2)
                shown = shown & (rank < self.shots)
            there = shown.any(2)
            asked = there.gather(1, answer[:, None])[:, 0]
            scores = self.compare(
                batch.embeddings[query][None], batch.embeddings[support][shots][None], shown[None]
            )[0]
            cost = self.cost(scores[asked], answer[asked], there[asked])
            found[f"{query}_{support}"] = cost / len(pairs)
        return found

    def head(self) -> Head:
        return OwnHead(self)


class OwnHead:
    """Each modality's block is compared by itself; the scores of both count alike."""

    transductive = False
    centred_by = "none"
    AT_ONCE = 8_000_000  # numbers

    def __init__(self, objective: Episodic) -> None:
        self.objective = objective

    @torch.no_grad()
    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        blocks = list(context.modality_dims)
        shots = torch.split(support, blocks, -1)

        @torch.no_grad()
        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            one = self.objective.numbers(query.shape[1], *support.shape[1:3])
            few = max(1, self.AT_ONCE // one)
            found = []
            for q, s in zip(torch.split(query, blocks, -1), shots, strict=True):
                parts = zip(torch.split(q, few), torch.split(s, few), strict=True)
                found.append(torch.cat([self.objective.compare(*part) for part in parts]))
            return torch.stack(found).mean(0)

        return predict


def check_frames_and_classes(name: str, scene: ObjectiveContext, frames: int) -> None:
    """Refuse embeddings that are not so many frames, and a single class.

    Raises:
        ConfigError: says which projection makes frames.
    """
    if scene.dim % frames:
        raise ConfigError(
            f"{name}: embeddings of {scene.dim} numbers are no {frames} frames; set "
            f"projection.name=frames and projection.frames={frames}"
        )
    if len(scene.classes) < 2:
        raise ConfigError(f"{name} needs two classes, not {len(scene.classes)}")


def cross_entropy(
    scores: Float[Tensor, "M N"], answer: Int[Tensor, "M"], there: Bool[Tensor, "M N"]
) -> Float[Tensor, ""]:
    """The mean over queries; 0 where there are none."""
    total = F.cross_entropy(scores.masked_fill(~there, NEVER), answer, reduction="sum")
    return total / max(1, len(scores))


def _of_classes(
    answer: Int[Tensor, "B"], classes: int
) -> tuple[Int[Tensor, "N K"], Bool[Tensor, "N K"]]:
    """Places of each class's clips, and which of them are no padding."""
    sizes = answer.bincount(minlength=classes)
    rank = torch.arange(int(sizes.max()), device=answer.device)
    mask = rank < sizes[:, None]
    places = answer.argsort(stable=True)
    first = sizes.cumsum(0) - sizes
    return places[torch.where(mask, first[:, None] + rank, 0)], mask
