"""Where the weights of senses begin: classes of the same collection that nobody asks about.

Episodes of these classes are drawn as those scored are, and the weights that make their known
answers likely are the prior, drawn towards what is shipped for the encoders the fewer classes there
are (`learn/fewshot/fusions/_evidence.py`). No label of a clip that is scored enters.

Shapes: as in `learn.fewshot.fusions`; S = labelled clips.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from learn.data.clips import UNLABELLED, Clips
from learn.fewshot.fusions import Fusion, Prior, equal
from learn.fewshot.fusions._evidence import from_classes
from learn.fewshot.fusions._shipped import Encoder, shipped
from learn.fewshot.fusions.weighted import Weighted, likelihood_of_queries
from learn.fewshot.guard import STAND_BACK, GuardPrior, Worth
from learn.fewshot.heads import Context, Head
from learn.fewshot.modes import Pair
from learn.fewshot.tasks import Episodes
from store import plugins
from store.errors import NotEnoughClips

EPISODES = 100
QUERIES = 5
WAYS = 50  # at most: more classes at once tell nothing else, and take longer
AT_ONCE = 10  # episodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Like:
    """What episodes of other classes are to be like."""

    ways: int
    shots: int
    seed: int
    groups: str  # how groups are kept apart, where they are known

    @classmethod
    def of(cls, episodes: Episodes) -> "Like":
        """As these are."""
        return cls(
            ways=episodes.ways, shots=episodes.shots, seed=episodes.seed,
            groups=episodes.facts.get("groups", "within"),
        )  # fmt: skip

    @classmethod
    def of_labelled(cls, class_ids: Int64[Tensor, "S"]) -> "Like":
        """As one episode of all classes that these labelled clips are of."""
        ways = max(1, len(torch.unique(class_ids)))
        shots = max(1, round(len(class_ids) / ways))
        return cls(ways=ways, shots=shots, seed=0, groups="within")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Apart:
    """Classes that nobody asks about, as a fusion's views show them."""

    clips: Clips
    pairs: Sequence[Pair]
    contexts: Callable[[Head], Sequence[Context]]
    unseen: bool = True  # by the training of the vectors, if there was any


@torch.inference_mode()
def likelihood(
    head: Head,
    apart: Apart,
    draw: Episodes,
    sides: Sequence[Sequence[float]] | None = None,
) -> Float[Tensor, "G T"]:
    """The mean log likelihood of a query's class, on the grid of weights (of senses, or of `sides`
    that are mixtures of them) and sharpnesses."""
    contexts, total = apart.contexts(head), None
    truth = torch.from_numpy(np.ascontiguousarray(draw.targets)).long()
    for first in range(0, len(draw), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        support, query = (
            torch.from_numpy(np.ascontiguousarray(of[part])).long()
            for of in (draw.support, draw.query)
        )
        shots = [pair.support[support] for pair in apart.pairs]
        queries = [pair.query[query] for pair in apart.pairs]
        found = likelihood_of_queries(head, shots, queries, contexts, truth, sides)
        of_part = found.double().sum(0)
        total = of_part if total is None else total + of_part
    assert total is not None
    return total / (len(draw) * len(truth))


def prior_of(
    fusion: Fusion,
    head: Head,
    encoders: Sequence[Encoder],
    apart: Apart | None,
    like: Like,
) -> Prior | None:
    """The prior of a weighing fusion for such episodes; None of one that does not weigh."""
    if not isinstance(fusion, Weighted):
        return None
    if fusion.prior == "equal":
        return equal(len(encoders))
    before = shipped(encoders)
    if fusion.prior == "shipped" or apart is None:
        return before
    draw = _draw(apart.clips, like)
    if draw is None:
        return before
    classes = len(np.unique(draw.classes))
    found = from_classes(likelihood(head, apart, draw), classes, before)
    return found if apart.unseen else replace(found, origin=f"{found.origin}; seen in training")


def guard_prior(
    head: Head,
    stored: Prior | None,
    projected: Prior | None,
    apart: Apart | None,
    like: Like,
    *,
    names: Worth | None = None,
) -> GuardPrior:
    """Where the guard's weights begin: what classes that training did not see say of the sides,
    each mixed as its own prior says; stored vectors alone where there are no such classes. Names of
    classes count as what they are worth in shots."""
    draw = None if apart is None else _draw(apart.clips, like)
    share = None if names is None else names.beside(like.shots)
    known = GuardPrior.of(stored, projected, STAND_BACK, share, str(names or ""))
    if apart is None or draw is None:
        return known
    count, rest = len(known.stored.value), len(known.projected.value)
    extra = (0.0,) * (names is not None)  # nothing of names
    blocks = [
        (*known.stored.value, *(0.0,) * rest, *extra),
        (*(0.0,) * count, *known.projected.value, *extra),
    ]
    classes = len(np.unique(draw.classes))
    before = Prior(value=STAND_BACK.value, origin="stored vectors alone")
    found = from_classes(likelihood(head, apart, draw, blocks), classes, before)
    return GuardPrior.of(stored, projected, found, share, known.names_from)


def _draw(clips: Clips, like: Like) -> Episodes | None:
    """Episodes of these classes with as many ways, shots and queries as they allow, up to those of
    the episodes scored."""
    _, sizes = np.unique(clips.class_ids[clips.class_ids != UNLABELLED], return_counts=True)
    for shots in range(like.shots, 0, -1):
        for queries in (QUERIES, 2, 1):
            ways = min(like.ways, WAYS, int((sizes >= shots + queries).sum()))
            if ways < 2:
                continue
            settings = {
                "ways": ways,
                "shots": shots,
                "queries": queries,
                "episodes": EPISODES,
                "groups": "mixed" if clips.groups is None else like.groups,
            }
            try:
                spec = plugins.Spec("n_way_k_shot", settings)
                drawn: Episodes = plugins.build("learn.fewshot.tasks", spec)(clips, seed=like.seed)
            except NotEnoughClips:
                continue
            return drawn
    return None
