"""The guard: a projection beside the stored vectors it was made from, so that it cannot lose much.

The same clips are seen from two sides, stored and projected, in the same mode. Inner products of
both are mixed, (1 - b) stored + b projected, b of every episode. Where b begins is told by classes
that the training did not see; without any it is 0, and one or two shots leave it there. More shots
speak for themselves (`learn/fewshot/fusions/_evidence.py`). In mode av each side weighs its senses
as it would alone.

Shapes: as in `learn.fewshot.fusions`, the stored side's blocks first; S = shots of an episode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learn.fewshot import modes
from learn.fewshot.fusions import Fusion, PredictFused, Prior, View
from learn.fewshot.fusions.late import Late
from learn.fewshot.fusions.weighted import (
    any_of,
    fit_joined,
    products_of_shots,
    weigh_products,
)
from learn.fewshot.heads import Context, ExtraShotsHead, Head

STORED = "stored "  # before the names of stored vectors, among those of both sides
ONE_SIDE = (1.0,)  # the weights of a side that has one block
STAND_BACK = Prior(
    value=(1.0, 0.0), origin="stored vectors alone: no classes that training did not see",
    alone_until=2,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardPrior(Prior):
    """Where the weights of both sides begin, and those of each side's senses."""

    stored: Prior
    projected: Prior
    sides: Prior  # stored, projected

    @classmethod
    def of(cls, stored: Prior | None, projected: Prior | None, sides: Prior) -> "GuardPrior":
        """The prior of both sides; None for a side of one block."""
        one = Prior(value=ONE_SIDE, origin="")
        stored, projected = stored or one, projected or one
        parts = zip(sides.value, (stored.value, projected.value), strict=True)
        return cls(
            value=tuple(share * w for share, value in parts for w in value),
            origin=sides.origin,
            stored=stored,
            projected=projected,
            sides=sides,
        )


def both_sides(
    projected: Mapping[str, Float[Tensor, "V _"]], stored: Mapping[str, Float[Tensor, "V _"]] | None
) -> dict[str, Float[Tensor, "V _"]]:
    """Vectors of the same clips, projected and stored, by names that tell them apart."""
    return {**projected, **{f"{STORED}{name}": x for name, x in (stored or {}).items()}}


def refusal(head: Head, fusion: Fusion | None) -> str:
    """Why stored vectors can't stand beside projected ones; "" where they can."""
    if isinstance(head, ExtraShotsHead):
        return "this head learns from what only a common space has"
    if isinstance(fusion, Late):
        return "late fusion mixes no vectors"
    return ""


def of_senses(weights: Float[Tensor, "E B"], prior: Prior) -> Float[Tensor, "E _"] | None:
    """The weights of senses, each counted on both sides; None where the sides have not the same
    senses, or one alone."""
    if not isinstance(prior, GuardPrior):
        return weights
    senses = len(prior.stored.value)
    if senses == 1 or senses != len(prior.projected.value):
        return None
    return weights.view(len(weights), 2, senses).sum(1)


def silent(prior: Prior, shots: int) -> frozenset[int]:
    """The blocks that count nothing in any episode of so many shots, whatever these say."""
    if not isinstance(prior, GuardPrior) or shots > prior.sides.alone_until:
        return frozenset()
    count = len(prior.stored.value)
    blocks = range(count), range(count, len(prior.value))
    pairs = zip(blocks, prior.sides.value, strict=True)
    return frozenset(b for of_side, share in pairs if share == 0 for b in of_side)


class Guarded:
    """Both sides of one mode; a fusion for each side that has several senses."""

    weighs = True

    def __init__(self, mode: str, stored: Fusion | None, projected: Fusion | None) -> None:
        self.mode = mode
        self.stored = stored
        self.projected = projected

    def views(self, vectors: Mapping[str, Float[Tensor, "V _"]]) -> tuple[View, ...]:
        """The blocks of the stored side, then those of the projected one."""
        stored = {n.removeprefix(STORED): x for n, x in vectors.items() if n.startswith(STORED)}
        projected = {name: x for name, x in vectors.items() if not name.startswith(STORED)}
        sides = ((self.stored, stored, False), (self.projected, projected, True))
        return tuple(view for side in sides for view in self._side(*side))

    def _side(
        self, fusion: Fusion | None, vectors: Mapping[str, Float[Tensor, "V _"]], common: bool
    ) -> tuple[View, ...]:
        if fusion is not None:
            return fusion.views(vectors)
        pair = modes.pair(vectors, self.mode, self.mode, common=common)
        return (View(vectors=pair.support, modality_dims=pair.modality_dims),)

    def lacks(self, known: Mapping[str, object]) -> str | None:
        """Both sides of the mode."""
        stored = [name.removeprefix(STORED) for name in known if name.startswith(STORED)]
        return modes.refusal(stored, self.mode, self.mode, common=False)

    def weigh(
        self,
        head: Head,
        shots: Sequence[Float[Tensor, "E N K _"]],
        contexts: Sequence[Context],
        prior: Prior,
    ) -> Float[Tensor, "E B"]:
        """The weights of both sides' blocks in each episode."""
        products = products_of_shots(head, shots, contexts)
        masks = [context.mask for context in contexts]
        return self.weigh_products(products, shots[0].shape[1], prior, masks)

    def weigh_products(
        self,
        products: Sequence[Float[Tensor, "E S S"]],
        ways: int,
        prior: Prior,
        masks: Sequence[Bool[Tensor, "E N K"] | None] = (),
    ) -> Float[Tensor, "E B"]:
        """The senses' weights within each side, then the sides'."""
        assert isinstance(prior, GuardPrior)
        count = len(prior.stored.value)
        sides = (products[:count], prior.stored), (products[count:], prior.projected)
        of_sides = masks[:count], masks[count:]
        weights = [
            weigh_products(blocks, ways, of_side, known)
            if len(blocks) > 1
            else blocks[0].new_ones(len(blocks[0]), 1)
            for (blocks, of_side), known in zip(sides, of_sides, strict=True)
        ]
        mixed = [
            torch.stack([w * x for w, x in zip(of_side.T[..., None, None], blocks, strict=True)])
            .sum(0)
            for of_side, (blocks, _) in zip(weights, sides, strict=True)
        ]  # fmt: skip
        union = any_of(masks) if masks else None
        shares = weigh_products(mixed, ways, prior.sides, [union, union])
        return torch.cat([shares[:, :1] * weights[0], shares[:, 1:] * weights[1]], dim=1)

    def fit(
        self,
        head: Head,
        shots: Sequence[Float[Tensor, "E N K _"]],
        contexts: Sequence[Context],
        weights: Float[Tensor, "E B"] | None = None,
    ) -> PredictFused:
        """The head's core on all blocks joined, each as its weight says."""
        return fit_joined(head, shots, contexts, weights)
