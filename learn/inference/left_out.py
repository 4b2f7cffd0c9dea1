"""Support clips left out in turn, each held against what a classifier would hold without it.

Shapes: S = support clips, C = classes, Q = queries, D = size of a vector, I = items of the index,
n = clips left out in turn, M = classes that share the confidence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from learn.inference.vector_index import VectorIndex

SHARING = 32  # classes that share the confidence; the rest of a thousand would get next to nothing
ITEMS_A_CLASS = 4  # clips fetched for each of those classes, where clips are the items
LEFT_OUT = 4000  # clips left out in turn, at most
RECENTRED = 256  # support clips at most, for a mean of its own for each clip left out
NUMBERS_AT_ONCE = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Support:
    """Unit vectors of labelled clips per modality, zero where a clip lacks one.

    Every clip must be present in one of the modalities; queries, in all of them.
    """

    vectors: tuple[Float[Tensor, "S _"], ...]
    present: tuple[Bool[Tensor, "S"], ...]
    class_ids: Int64[Tensor, "S"]
    classes: int  # some may have no clip here: they are never an answer
    groups: Int64[Tensor, "S"] | None = None
    uncentred: tuple[Float[Tensor, "S _"], ...] | None = None  # before a mean was subtracted, if so


class LeftOut(NamedTuple):
    """Scores of support clips against everything but themselves and their group."""

    scores: Float64[Tensor, "n M"]  # best first, of the classes that share the confidence
    correct: Bool[Tensor, "n M"]  # which of those is the clip's class
    own: Float64[Tensor, "n"]  # the score of the clip's class, whether among them or not


def leave_out(support: Support, head: str, approximate: VectorIndex | None) -> tuple[LeftOut, str]:
    """Scores of every support clip (4,000 of more) against the others, without its group if it has
    one, and what was left out with it; against what the index finds, if it is approximate."""
    score: Callable[[Support, Int64[Tensor, "S"]], LeftOut]
    small = len(support.class_ids) <= RECENTRED
    if approximate is not None:
        score = partial(_found_without, head=head, index=approximate)
    elif support.uncentred is not None and small:
        score = partial(_recentred_without, head=head)
    else:
        score = _prototypes_without if head == "prototypes" else _clips_without
    each_clip = torch.arange(len(support.class_ids))
    attempts = [("clip", each_clip)]
    if support.groups is not None:
        attempts.insert(0, ("group", support.groups))
    for apart, groups in attempts:
        mates = _class_and_group(support.class_ids, groups)
        left_out = score(support, mates)
        if len(left_out.own):
            return left_out, apart
    return left_out, "nothing"


def _class_and_group(
    class_ids: Int64[Tensor, "S"], groups: Int64[Tensor, "S"]
) -> Int64[Tensor, "S"]:
    """Equal numbers for clips of one class and group."""
    return torch.unique(torch.stack([class_ids, groups]), dim=1, return_inverse=True)[1]


def _to_leave_out(support: Support, items: int) -> tuple[Int64[Tensor, "_"], ...]:
    """Clips present in every modality, as the queries will be, in chunks."""
    whole = torch.nonzero(torch.stack(support.present).all(0))[:, 0]
    chosen = whole[:: max(1, -(-len(whole) // LEFT_OUT))]
    return torch.split(chosen, max(1, NUMBERS_AT_ONCE // max(1, items)))


def _prototypes_without(support: Support, mates: Int64[Tensor, "S"]) -> LeftOut:
    """Scores against the prototypes, the clip's own made without its mates."""
    sums, counts = sums_of(support, support.class_ids, support.classes)
    mate_sums, mate_counts = sums_of(support, mates, int(mates.max()) + 1)
    items, known = joined_parts(unit_parts(sums), tuple(count > 0 for count in counts))
    joined = torch.cat(support.vectors, -1)
    chunks = []
    for clips in _to_leave_out(support, len(items)):
        class_ids, mate = support.class_ids[clips], mates[clips]
        rest = tuple(s[class_ids] - m[mate] for s, m in zip(sums, mate_sums, strict=True))
        left = tuple((c[class_ids] - m[mate]) > 0 for c, m in zip(counts, mate_counts, strict=True))
        own, present = joined_parts(unit_parts(rest), left)
        scores = (joined[clips] @ items.T).masked_fill(~known, -torch.inf)
        scores.scatter_(1, class_ids[:, None], (joined[clips] * own).sum(-1, keepdim=True))
        chunks.append(ranked(scores[present], class_ids[present]))
    return LeftOut(*(torch.cat(x) for x in zip(*chunks, strict=True)))


def _clips_without(support: Support, mates: Int64[Tensor, "S"]) -> LeftOut:
    """Scores against the nearest clip of each class, mates left out."""
    items, _ = joined_parts(support.vectors, support.present)
    joined = torch.cat(support.vectors, -1)
    chunks = []
    for clips in _to_leave_out(support, len(items)):
        products = joined[clips] @ items.T
        products.masked_fill_(mates[clips][:, None] == mates, -torch.inf)
        scores = products.new_full((len(clips), support.classes), -torch.inf)
        scores.scatter_reduce_(1, support.class_ids.expand(len(clips), -1), products, "amax")
        class_ids = support.class_ids[clips]
        present = scores.gather(1, class_ids[:, None])[:, 0] > -torch.inf
        chunks.append(ranked(scores[present], class_ids[present]))
    return LeftOut(*(torch.cat(x) for x in zip(*chunks, strict=True)))


def _recentred_without(support: Support, mates: Int64[Tensor, "S"], *, head: str) -> LeftOut:
    """Scores as of the other two, and the mean that is subtracted made without the clip's mates.

    A mean of few classes holds enough of a clip to push it away from all classes but its own.
    """
    uncentred = support.uncentred
    assert uncentred is not None
    chunks = [ranked(torch.zeros(0, support.classes), support.class_ids[:0])]
    for clip in torch.cat(_to_leave_out(support, len(support.class_ids))).tolist():
        rest, class_ids = mates != mates[clip], support.class_ids[clip : clip + 1]
        if not bool((support.class_ids[rest] == class_ids).any()):
            continue
        vectors, query = [], []
        for x, has in zip(uncentred, support.present, strict=True):
            used = rest & has
            origin = middle(x[used], support.class_ids[used]) if bool(used.any()) else 0 * x[0]
            vectors.append(F.normalize(x[rest] - origin, dim=-1) * has[rest][:, None])
            query.append(F.normalize(x[clip] - origin, dim=-1))
        others = Support(
            vectors=tuple(vectors),
            present=tuple(has[rest] for has in support.present),
            class_ids=support.class_ids[rest],
            classes=support.classes,
        )
        scores = _class_scores(others, torch.cat(query)[None], head)
        chunks.append(ranked(scores, class_ids))
    return LeftOut(*(torch.cat(x) for x in zip(*chunks, strict=True)))


def _class_scores(
    support: Support, queries: Float[Tensor, "Q D"], head: str
) -> Float[Tensor, "Q C"]:
    """The score of each class for each query; minus infinity where it has no clip."""
    if head == "prototypes":
        sums, counts = sums_of(support, support.class_ids, support.classes)
        items, known = joined_parts(unit_parts(sums), tuple(count > 0 for count in counts))
        return (queries @ items.T).masked_fill(~known, -torch.inf)
    items, _ = joined_parts(support.vectors, support.present)
    scores = queries.new_full((len(queries), support.classes), -torch.inf)
    of_items = support.class_ids.expand(len(queries), -1)
    return scores.scatter_reduce_(1, of_items, queries @ items.T, "amax")


def _found_without(
    support: Support, mates: Int64[Tensor, "S"], *, head: str, index: VectorIndex
) -> LeftOut:
    """Scores against those classes only that an approximate index finds.

    Whether it finds the clip's own class is asked of what is left of that class: its clips without
    the mates, or the cell of its prototype as it would be without them.
    """
    class_ids, joined = support.class_ids, torch.cat(support.vectors, -1)
    sums, counts = sums_of(support, class_ids, support.classes)
    mate_sums, mate_counts = sums_of(support, mates, int(mates.max()) + 1)
    item_classes = class_ids
    if head == "prototypes":
        item_classes = torch.nonzero(torch.stack(counts).sum(0))[:, 0]
    item_of = torch.zeros(support.classes, dtype=torch.int64)
    item_of[item_classes] = torch.arange(len(item_classes))
    chunks = []
    for clips in _to_leave_out(support, max(len(item_classes), support.classes)):
        own, mate, queries = class_ids[clips], mates[clips], joined[clips]
        left = tuple(c[own] - m[mate] for c, m in zip(counts, mate_counts, strict=True))
        rest = unit_parts(tuple(s[own] - m[mate] for s, m in zip(sums, mate_sums, strict=True)))
        prototype, apart = joined_parts(rest, tuple(n > 0 for n in left))
        per_class = 1 if head == "prototypes" else ITEMS_A_CLASS
        k = min(len(item_classes), SHARING * per_class)
        nearest = index.search(queries, k)
        found = nearest.scores.masked_fill(nearest.indices < 0, -torch.inf)
        if head == "nearest":
            is_mate = mates[nearest.indices] == mate[:, None]
            found = found.masked_fill(is_mate, -torch.inf)
        scores = queries.new_full((len(clips), support.classes), -torch.inf)
        scores.scatter_reduce_(1, item_classes[nearest.indices], found, "amax")
        if head == "prototypes":
            product = (queries * prototype).sum(-1)
            product = product.masked_fill(
                ~index.probes(queries, prototype, item_of[own]), -torch.inf
            )
            scores.scatter_(1, own[:, None], product[:, None])
        chunks.append(ranked(scores[apart], own[apart]))
    return LeftOut(*(torch.cat(x) for x in zip(*chunks, strict=True)))


def ranked(
    scores: Float[Tensor, "n C"], class_ids: Int64[Tensor, "n"], sharing: int = SHARING
) -> LeftOut:
    """The scores of the classes that share the confidence, and that of each clip's own class."""
    ranked, order = scores.double().sort(dim=-1, descending=True, stable=True)
    keep = slice(0, min(sharing, scores.shape[1]))
    own = scores.double().gather(1, class_ids[:, None])[:, 0]
    correct = (order == class_ids[:, None]) & ~ranked.isneginf()
    return LeftOut(ranked[:, keep], correct[:, keep], own)


def middle(x: Float[Tensor, "S D"], class_ids: Int64[Tensor, "S"]) -> Float[Tensor, "D"]:
    """The mean of the classes' means, so that no class weighs more for having more clips; zero of
    fewer than two classes."""
    clips = torch.bincount(class_ids)
    classes = int((clips > 0).sum())
    if classes < 2:
        return torch.zeros_like(x[0])
    weight = (1 / (classes * clips[class_ids]).double()).to(x.dtype)
    return (x * weight[:, None]).sum(0)


def unit_parts(vectors: tuple[Float[Tensor, "I _"], ...]) -> tuple[Float[Tensor, "I _"], ...]:
    return tuple(F.normalize(x, dim=-1) for x in vectors)


def sums_of(
    support: Support, sets: Int64[Tensor, "S"], size: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The sum of the vectors of each set and the number of its clips, per modality."""
    sums, counts = [], []
    for x, present in zip(support.vectors, support.present, strict=True):
        sums.append(x.new_zeros(size, x.shape[1]).index_add_(0, sets, x))
        counts.append(torch.zeros(size, dtype=torch.int64).index_add_(0, sets, present.long()))
    return tuple(sums), tuple(counts)


def joined_parts(
    vectors: tuple[Float[Tensor, "I _"], ...], present: tuple[Bool[Tensor, "I"], ...]
) -> tuple[Float[Tensor, "I D"], Bool[Tensor, "I"]]:
    """Vectors joined, each modality weighted by one over how many the item has, and a mask of the
    items that have any."""
    has = torch.stack(present).sum(0)
    weight = 1 / has.clamp_min(1)
    joined = torch.cat([x * mask[:, None] for x, mask in zip(vectors, present, strict=True)], -1)
    return joined * weight[:, None], has > 0
