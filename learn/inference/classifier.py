"""A classifier for any number of classes with a few clips each: classes, confidence, novelty.

A clip's score for a class is its product with the class's prototype, or with the nearest of the
class's clips. Confidence is a softmax over the best classes, its temperature fitted by leaving
support clips out: what is held against a clip then never holds the clip itself, nor another of its
group (clips of one source). Adding a class is adding its clips: nothing is trained.

Novelty is the share of support clips, each left out in turn, that look more familiar than the clip
does: above .95, the clip is stranger than 19 in 20 clips of known classes.

Shapes: S = support clips, C = classes, Q = queries, D = size of a vector, I = items of the index,
J = items found, n = clips left out in turn, M = classes that share the confidence, k = answers.

Source: Guo et al., 2017, "On calibration of modern neural networks" (temperature); Platt, 1999
(targets that a few clips cannot drive to certainty); Vovk et al., 2005 (novelty as a rank).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from learn.inference.vector_index import Inverted, VectorIndex
from store.errors import ConfigError, choices

HEADS = ("prototypes", "nearest")
SHARING = 32  # classes that share the confidence; the rest of a thousand would get next to nothing
ITEMS_A_CLASS = 4  # clips fetched for each of those classes, where clips are the items
LEFT_OUT = 4000  # clips left out in turn, at most
ENOUGH = 20  # clips left out, for a confidence that is called calibrated
UNCALIBRATED = 0.1  # the temperature where no class has two clips apart
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Accuracy and confidence on the support clips when each was left out."""

    clips: int  # left out in turn; 0: no class has two clips apart
    enough: bool  # whether so many say anything of clips to come
    apart: str  # what was left out with a clip: "group", "clip" or "nothing"
    temperature: float
    accuracy: float | None
    confidence: float | None  # mean confidence in the first answer: near the accuracy


class Predictions(NamedTuple):
    """Classes, best first; -1 with probability 0 where there are fewer than asked for."""

    class_ids: Int64[Tensor, "Q k"]
    probabilities: Float64[Tensor, "Q k"]
    novelty: Float64[Tensor, "Q"]  # NaN where nothing could be left out


class _LeftOut(NamedTuple):
    """Scores of support clips against everything but themselves and their group."""

    scores: Float64[Tensor, "n M"]  # best first, of the classes that share the confidence
    correct: Bool[Tensor, "n M"]  # which of those is the clip's class
    own: Float64[Tensor, "n"]  # the score of the clip's class, whether among them or not


class Classifier:
    """Predicts the classes of clips, fitted by `fit`; `calibration` says how far to trust them."""

    def __init__(
        self,
        index: VectorIndex,
        item_classes: Int64[Tensor, "I"],
        calibration: Calibration,
        familiarity: Float64[Tensor, "n"],
    ) -> None:
        self.index = index
        self.calibration = calibration
        self._item_classes = item_classes
        classes = len(torch.unique(item_classes))
        self._one_each = len(item_classes) == classes
        self._sharing = min(SHARING, classes)
        per_class = 1 if self._one_each else ITEMS_A_CLASS
        self.neighbours = min(len(item_classes), self._sharing * per_class)
        self._familiarity = familiarity

    def predict(self, queries: Float[Tensor, "Q D"], top: int) -> Predictions:
        """The `top` best classes of each query; `queries` are unit vectors, joined."""
        k = max(self.neighbours, min(top, len(self._item_classes)))
        nearest = self.index.search(queries, k)
        class_ids = torch.where(nearest.indices < 0, -1, self._item_classes[nearest.indices])
        scores = nearest.scores.double()
        if not self._one_each:
            class_ids, scores = _best_of_each(class_ids, scores, max(self._sharing, top))
        shared = (scores[:, : self._sharing] / self.calibration.temperature).softmax(-1)
        shared = shared.nan_to_num(0)  # an approximate index may find nothing at all
        probabilities = F.pad(shared, (0, max(0, scores.shape[1] - self._sharing)))
        short = max(0, top - class_ids.shape[1])
        return Predictions(
            F.pad(class_ids, (0, short), value=-1)[:, :top],
            F.pad(probabilities, (0, short))[:, :top],
            self._novelty(scores[:, 0].contiguous()),
        )

    def _novelty(self, best: Float64[Tensor, "Q"]) -> Float64[Tensor, "Q"]:
        n = len(self._familiarity)
        if not n:
            return torch.full_like(best, torch.nan)
        return ((n - torch.searchsorted(self._familiarity, best)) / (n + 1)).double()


def fit(support: Support, *, head: str = HEADS[0], index: Inverted | None = None) -> Classifier:
    """A classifier from the support alone.

    Raises:
        ConfigError: `head` is neither prototypes nor nearest.
    """
    if head not in HEADS:
        raise ConfigError(f"no classifier by {head!r}; there are {choices(head, HEADS)}")
    if head == "prototypes":
        sums, counts = _sums(support, support.class_ids, support.classes)
        items, present = _join(_unit(sums), tuple(count > 0 for count in counts))
        item_classes = torch.nonzero(present)[:, 0]
        items = items[present]
    else:
        items, _ = _join(support.vectors, support.present)
        item_classes = support.class_ids
    left_out, apart = _leave_out(support, head)
    return Classifier(
        VectorIndex(items, index),
        item_classes,
        _calibration(left_out, apart),
        left_out.scores[:, 0].sort().values,
    )


def _calibration(left_out: _LeftOut, apart: str) -> Calibration:
    clips = len(left_out.own)
    temperature = _temperature(left_out)
    probabilities = (left_out.scores / temperature).softmax(-1)
    return Calibration(
        clips=clips,
        enough=clips >= ENOUGH,
        apart=apart,
        temperature=temperature,
        accuracy=float(left_out.correct[:, 0].double().mean()) if clips else None,
        confidence=float(probabilities[:, 0].mean()) if clips else None,
    )


def _best_of_each(
    class_ids: Int64[Tensor, "Q J"], scores: Float64[Tensor, "Q J"], most: int
) -> tuple[Int64[Tensor, "Q M"], Float64[Tensor, "Q M"]]:
    """The best item of each class, of items best first; no more than `most` classes."""
    ranked, order = class_ids.sort(dim=-1, stable=True)
    again = torch.zeros_like(class_ids, dtype=torch.bool)
    again[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    later = torch.zeros_like(again).scatter(1, order, again) | (class_ids < 0)
    scores = scores.masked_fill(later, -torch.inf)
    order = later.to(torch.int8).sort(dim=-1, stable=True).indices[:, :most]
    unused = later.gather(1, order)
    return class_ids.gather(1, order).masked_fill(unused, -1), scores.gather(1, order)


def _unit(vectors: tuple[Float[Tensor, "I _"], ...]) -> tuple[Float[Tensor, "I _"], ...]:
    return tuple(F.normalize(x, dim=-1) for x in vectors)


def _sums(
    support: Support, sets: Int64[Tensor, "S"], size: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The sum of the vectors of each set and the number of its clips, per modality."""
    sums, counts = [], []
    for x, present in zip(support.vectors, support.present, strict=True):
        sums.append(x.new_zeros(size, x.shape[1]).index_add_(0, sets, x))
        counts.append(torch.zeros(size, dtype=torch.int64).index_add_(0, sets, present.long()))
    return tuple(sums), tuple(counts)


def _join(
    vectors: tuple[Float[Tensor, "I _"], ...], present: tuple[Bool[Tensor, "I"], ...]
) -> tuple[Float[Tensor, "I D"], Bool[Tensor, "I"]]:
    """Vectors joined, each modality weighted by one over how many the item has, and a mask of the
    items that have any."""
    has = torch.stack(present).sum(0)
    weight = 1 / has.clamp_min(1)
    joined = torch.cat([x * mask[:, None] for x, mask in zip(vectors, present, strict=True)], -1)
    return joined * weight[:, None], has > 0


def _leave_out(support: Support, head: str) -> tuple[_LeftOut, str]:
    """Scores of every support clip (4,000 of more) against the others, without its group if it has
    one, and what was left out with it."""
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


def _prototypes_without(support: Support, mates: Int64[Tensor, "S"]) -> _LeftOut:
    """Scores against the prototypes, the clip's own made without its mates."""
    sums, counts = _sums(support, support.class_ids, support.classes)
    mate_sums, mate_counts = _sums(support, mates, int(mates.max()) + 1)
    items, known = _join(_unit(sums), tuple(count > 0 for count in counts))
    joined = torch.cat(support.vectors, -1)
    chunks = []
    for clips in _to_leave_out(support, len(items)):
        class_ids, mate = support.class_ids[clips], mates[clips]
        rest = tuple(s[class_ids] - m[mate] for s, m in zip(sums, mate_sums, strict=True))
        left = tuple((c[class_ids] - m[mate]) > 0 for c, m in zip(counts, mate_counts, strict=True))
        own, present = _join(_unit(rest), left)
        scores = (joined[clips] @ items.T).masked_fill(~known, -torch.inf)
        scores.scatter_(1, class_ids[:, None], (joined[clips] * own).sum(-1, keepdim=True))
        chunks.append(_ranked(scores[present], class_ids[present]))
    return _LeftOut(*(torch.cat(x) for x in zip(*chunks, strict=True)))


def _clips_without(support: Support, mates: Int64[Tensor, "S"]) -> _LeftOut:
    """Scores against the nearest clip of each class, mates left out."""
    items, _ = _join(support.vectors, support.present)
    joined = torch.cat(support.vectors, -1)
    chunks = []
    for clips in _to_leave_out(support, len(items)):
        products = joined[clips] @ items.T
        products.masked_fill_(mates[clips][:, None] == mates, -torch.inf)
        scores = products.new_full((len(clips), support.classes), -torch.inf)
        scores.scatter_reduce_(1, support.class_ids.expand(len(clips), -1), products, "amax")
        class_ids = support.class_ids[clips]
        present = scores.gather(1, class_ids[:, None])[:, 0] > -torch.inf
        chunks.append(_ranked(scores[present], class_ids[present]))
    return _LeftOut(*(torch.cat(x) for x in zip(*chunks, strict=True)))


def _ranked(scores: Float[Tensor, "n C"], class_ids: Int64[Tensor, "n"]) -> _LeftOut:
    ranked, order = scores.double().sort(dim=-1, descending=True, stable=True)
    keep = slice(0, min(SHARING, scores.shape[1]))
    own = scores.double().gather(1, class_ids[:, None])[:, 0]
    return _LeftOut(ranked[:, keep], order[:, keep] == class_ids[:, None], own)


def _temperature(left_out: _LeftOut) -> float:
    """The temperature that makes the clips left out most likely."""
    from scipy.optimize import minimize_scalar

    if not len(left_out.own):
        return UNCALIBRATED
    missed = ~left_out.correct.any(1)
    scores = torch.cat([left_out.scores, left_out.own[:, None]], 1)
    correct = torch.cat([left_out.correct, missed[:, None]], 1)
    scores[~missed, -1] = -torch.inf
    present = scores > -torch.inf
    # Platt: n right answers of n would ask for certainty; count one more that may be any class.
    doubt = 1 / (len(left_out.own) + 2)
    others = (present & ~correct).sum(1, keepdim=True).clamp_min(1)
    target = torch.where(correct, 1 - doubt, doubt / others) * present

    def cost(log_temperature: float) -> float:
        log_probabilities = (scores / np.exp(log_temperature)).log_softmax(-1)
        return -float((target * log_probabilities.masked_fill(~present, 0)).sum(1).mean())

    best = minimize_scalar(cost, bounds=(np.log(1e-3), np.log(10.0)), method="bounded")
    return float(np.exp(best.x))
