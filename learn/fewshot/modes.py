"""From modalities to the vectors a head compares: one per clip for each side of an episode.

A side is seen in a mode: `v` (visual), `a` (audio), `t` (text), or several, as `av`.

    one mode on both sides   v, a, t: the clip's vector; of several modalities, each scaled to
                             length 1, joined; so are several features of one modality
    two different modes      vectors in the common space of a projection; of several, their mean

A network that makes one vector of both gives it as `av`, which then stands for that mode.

Shapes: V = clips, C = classes, D = size of a vector, E = size of the common space.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.mode_pairs import MODE_OF as MODE_OF
from learn.fewshot.mode_pairs import MODES as MODES
from learn.fewshot.mode_pairs import SINGLE as SINGLE
from learn.fewshot.mode_pairs import cells as cells
from learn.fewshot.mode_pairs import modality_of as modality_of
from learn.fewshot.mode_pairs import mode_of as mode_of
from learn.fewshot.mode_pairs import modes_of as modes_of
from learn.fewshot.mode_pairs import named as named
from learn.fewshot.mode_pairs import senses_in as senses_in
from store.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """The vectors of the same clips as support and as query, and how they divide into modalities.

    `other_modality` is the support seen in its other modality, where both share a space; `names`
    are the vectors of the classes, in the order of their ids.
    """

    support: Float[Tensor, "V D"]
    query: Float[Tensor, "V D"]
    modality_dims: tuple[int, ...]
    other_modality: Float[Tensor, "V D"] | None = None
    names: Float[Tensor, "C D"] | None = None

    def with_names(self, names: Float[Tensor, "C E"]) -> "Pair":
        """The same pair with vectors of class names, repeated for every modality of a vector."""
        return replace(self, names=names.repeat(1, len(self.modality_dims)))


def pair(
    vectors: Mapping[str, Float[Tensor, "V _"]], support: str, query: str, *, common: bool
) -> Pair:
    """The vectors of support and query, from one vector per clip and modality.

    `common`: the vectors are unit vectors in one common space.

    Raises:
        InputError: a modality is missing, or two modes meet outside a common space.
    """
    if why := refusal(vectors, support, query, common=common):
        raise InputError(why)
    support_parts, query_parts = (_vectors(vectors, mode) for mode in (support, query))
    alone = common and len(support_parts) == 1  # else it is no vector of that space
    other_modality = _left_out(vectors, support) if alone else None
    if support == query:
        side = joined(support_parts)
        modality_dims = tuple(part.shape[1] for part in support_parts)
        return Pair(
            support=side, query=side, modality_dims=modality_dims, other_modality=other_modality
        )
    support_mean, query_mean = (
        torch.stack(parts).mean(0) for parts in (support_parts, query_parts)
    )
    return Pair(
        support=support_mean,
        query=query_mean,
        modality_dims=(support_mean.shape[1],),
        other_modality=other_modality,
    )


def looked_at(
    vectors: Mapping[str, Float[Tensor, "V _"]], mode: str
) -> dict[str, Float[Tensor, "V _"]]:
    """The vectors of a mode's senses, and those that a network makes of several."""
    names = (*senses_in(mode, vectors), *(name for name in vectors if name in MODES))
    return {name: x for name, x in vectors.items() if name in names}


def joined(parts: Sequence[Float[Tensor, "V _"]]) -> Float[Tensor, "V _"]:
    """Vectors end to end; of several parts each is scaled to length 1."""
    if len(parts) > 1:
        parts = [F.normalize(part, dim=-1) for part in parts]
    return torch.cat(list(parts), dim=-1)


def common(vectors: Mapping[str, Float[Tensor, "V _"]], mode: str) -> Float[Tensor, "V _"]:
    """One vector a clip in the common space; of several modalities a network's one, or their mean.

    Raises:
        InputError: a modality is missing.
    """
    if why := refusal(vectors, mode, mode, common=True):
        raise InputError(why)
    return torch.stack(_vectors(vectors, mode)).mean(0)


def refusal(known: Collection[str], support: str, query: str, *, common: bool) -> str | None:
    """The reason why these modes cannot be compared by vectors of these names; None if they can."""
    for mode in (support, query):
        for modality in () if mode in known else MODES[mode]:
            if modality not in known:
                reason = "the projection gives none" if common else "the store has no such feature"
                return f"mode {mode} needs {modality} vectors, but {reason}"
    if support == query or common:
        return None
    return (
        f"support {support} against query {query} needs a common space; train a projection "
        "of both modalities with `learn train` and give it as `projection`"
    )


def _vectors(vectors: Mapping[str, Float[Tensor, "V _"]], mode: str) -> list[Float[Tensor, "V _"]]:
    """The vectors of each modality of the mode, or the one of all where a network makes it."""
    if mode in vectors:
        return [vectors[mode]]
    return [vectors[sense] for sense in senses_in(mode, vectors)]


def _left_out(
    vectors: Mapping[str, Float[Tensor, "V _"]], mode: str
) -> Float[Tensor, "V _"] | None:
    """The clips in the modality that the mode leaves out."""
    if len(MODES[mode]) > 1:
        return None
    return next(
        (x for name, x in vectors.items() if name in SINGLE.values() and name not in MODES[mode]),
        None,
    )
