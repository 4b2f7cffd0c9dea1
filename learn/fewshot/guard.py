"""The guard: a projection beside the stored vectors it was made from, so that it cannot lose much.

The same clips are seen from two sides, stored and projected, in the same mode. Inner products of
both are mixed, (1 - b) stored + b projected, b of every episode. Where b begins is told by classes
that the training did not see; without any it is 0, and one or two shots leave it there. More shots
speak for themselves (`learn/fewshot/fusions/_evidence.py`), and are heard with doubt: what five
clips say of two projections is mostly noise, and a bad one lost a point by it. In mode av each side
weighs its senses as it would alone.

Where the projection has a way from the names of classes into its space, names are one more sense:
every shot is also the name of its class, with which projected queries are compared. How much they
count is what a name is worth in clips, told by classes that the way from names did not see
(`learn/training/worth_of_names.py`); the shots of an episode have no say in it, as a name always
agrees with itself.

Shapes: as in `learn.fewshot.fusions`, the stored side's blocks first and that of names last; S =
shots of an episode.
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
NAMES = "class names"  # the sense of names, and its vectors among those of both sides
STAND_BACK = Prior(
    value=(1.0, 0.0), origin="stored vectors alone: no classes that training did not see",
    alone_until=2, doubt=0.25,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardPrior(Prior):
    """Where the weights of both sides begin, and those of each side's senses."""

    stored: Prior
    projected: Prior
    sides: Prior  # stored, projected: of what names leave to them
    names: float | None = None  # the share of class names, where they are a sense
    names_from: str = ""  # where that comes from, in words

    @classmethod
    def of(
        cls,
        stored: Prior | None,
        projected: Prior | None,
        sides: Prior,
        names: float | None = None,
        names_from: str = "",
    ) -> "GuardPrior":
        """The prior of both sides; None for a side of one block."""
        one = Prior(value=ONE_SIDE, origin="")
        stored, projected = stored or one, projected or one
        parts = zip(sides.value, (stored.value, projected.value), strict=True)
        left = 1 - (names or 0)
        of_sides = tuple(left * share * w for share, value in parts for w in value)
        return cls(
            value=of_sides if names is None else (*of_sides, names),
            origin=sides.origin,
            stored=stored,
            projected=projected,
            sides=sides,
            names=names,
            names_from=names_from,
        )


def origin_of(prior: Prior) -> str:
    """Where the weights of senses begin, in words."""
    if not isinstance(prior, GuardPrior):
        return prior.origin
    of_names = "" if prior.names is None else f"{NAMES} at {prior.names_from}"
    return "; ".join(filter(None, (prior.stored.origin, of_names)))


@dataclass(frozen=True, slots=True)
class Worth:
    """What the name of a class is worth beside clips of it, before classes of the collection are
    asked."""

    clips: float = 0.0  # of a class that its name is worth
    classes: int = 0  # that told it, none of which the way from names had seen; 0: unknown

    def __str__(self) -> str:
        if not self.classes:
            return "0, as too few classes could tell what they are worth"
        if not self.clips:
            return f"0, as {self.classes} classes not seen saw no sure gain"
        return f"what {self.clips:.2g} clips are worth, by {self.classes} classes not seen"

    def beside(self, shots: int | float) -> float:
        """The share of names beside so many shots of a class."""
        return self.clips / (self.clips + shots)


def both_sides(
    projected: Mapping[str, Float[Tensor, "V _"]],
    stored: Mapping[str, Float[Tensor, "V _"]] | None,
    names: Float[Tensor, "V E"] | None = None,
) -> dict[str, Float[Tensor, "V _"]]:
    """Vectors of the same clips, projected and stored, by names that tell them apart; and those of
    the names of their classes."""
    of_names = {} if names is None else {NAMES: names}
    return {**projected, **{f"{STORED}{n}": x for n, x in (stored or {}).items()}, **of_names}


def refusal(head: Head, fusion: Fusion | None) -> str:
    """Why stored vectors can't stand beside projected ones; "" where they can."""
    if isinstance(head, ExtraShotsHead):
        return "this head learns from what only a common space has"
    if isinstance(fusion, Late):
        return "late fusion mixes no vectors"
    return ""


def of_senses(weights: Float[Tensor, "E B"], prior: Prior) -> Float[Tensor, "E _"] | None:
    """The weights of senses, each counted on both sides, and of names; None where the sides have
    not the same senses, or there is one alone."""
    if not isinstance(prior, GuardPrior):
        return weights
    senses = len(prior.stored.value)
    if senses != len(prior.projected.value) or senses + (prior.names is not None) == 1:
        return None
    of_sides = weights[:, : 2 * senses].reshape(len(weights), 2, senses).sum(1)
    return torch.cat([of_sides, weights[:, 2 * senses :]], dim=1)


def silent(prior: Prior, shots: int) -> frozenset[int]:
    """The blocks that count nothing in any episode of so many shots, whatever these say."""
    if not isinstance(prior, GuardPrior):
        return frozenset()
    count, rest = len(prior.stored.value), len(prior.projected.value)
    none = {count + rest} if prior.names == 0 else set()
    if shots > prior.sides.alone_until:
        return frozenset(none)
    blocks = range(count), range(count, count + rest)
    pairs = zip(blocks, prior.sides.value, strict=True)
    return frozenset(none.union(*(of_side for of_side, share in pairs if share == 0)))


class Guarded:
    """Both sides of one mode; a fusion for each side that has several senses."""

    weighs = True

    def __init__(
        self, mode: str, stored: Fusion | None, projected: Fusion | None, *, names: bool = False
    ) -> None:
        """With `names` those of classes are one more sense."""
        self.mode = mode
        self.stored = stored
        self.projected = projected
        self.names = names

    def views(self, vectors: Mapping[str, Float[Tensor, "V _"]]) -> tuple[View, ...]:
        """The blocks of the stored side, those of the projected one, then that of names."""
        names = vectors.get(NAMES)  # clips that are asked about have none
        vectors = {name: x for name, x in vectors.items() if name != NAMES}
        stored = {n.removeprefix(STORED): x for n, x in vectors.items() if n.startswith(STORED)}
        projected = {name: x for name, x in vectors.items() if not name.startswith(STORED)}
        sides = ((self.stored, stored, False), (self.projected, projected, True))
        found = tuple(view for side in sides for view in self._side(*side))
        if not self.names:
            return found
        seen = modes.common(projected, self.mode)
        return (*found, View(vectors=seen, modality_dims=(seen.shape[1],), shots=names))

    def _side(
        self, fusion: Fusion | None, vectors: Mapping[str, Float[Tensor, "V _"]], common: bool
    ) -> tuple[View, ...]:
        if fusion is not None:
            return fusion.views(modes.looked_at(vectors, self.mode))
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
        count, rest = len(prior.stored.value), len(prior.projected.value)
        products, masks = products[: count + rest], masks[: count + rest]  # without that of names
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
        parts = [shares[:, :1] * weights[0], shares[:, 1:] * weights[1]]
        if prior.names is not None:
            left = 1 - prior.names
            parts = [left * parts[0], left * parts[1], torch.full_like(shares[:, :1], prior.names)]
        return torch.cat(parts, dim=1)

    def fit(
        self,
        head: Head,
        shots: Sequence[Float[Tensor, "E N K _"]],
        contexts: Sequence[Context],
        weights: Float[Tensor, "E B"] | None = None,
    ) -> PredictFused:
        """The head's core on all blocks joined, each as its weight says."""
        return fit_joined(head, shots, contexts, weights)
