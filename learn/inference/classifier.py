"""A classifier for any number of classes with a few clips each: answers, confidence, novelty.

A clip's score for a class is its product with the class's prototype, or with the nearest of the
class's clips. Confidence is a softmax over the best classes, its temperature fitted by leaving
support clips out: what is held against a clip then never holds the clip itself, nor another of its
group (clips of one source). Adding a class is adding its clips: nothing is trained.

Novelty is the share of support clips, each left out in turn, that look more familiar than the clip
does: above .95, the clip is stranger than 19 in 20 clips of known classes.

Shapes: S = support clips, C = classes, Q = queries, D = size of a vector, I = items of the gallery,
n = clips left out in turn, M = classes that share the confidence, k = answers.

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

from learn.inference.vector_index import Gallery, Inverted
from store.errors import ConfigError, choices

BY = ("prototypes", "nearest")
SHARING = 32  # classes that share the confidence; the rest of a thousand would get next to nothing
ITEMS_A_CLASS = 4  # clips fetched for each of those classes, where clips are the items
LEFT_OUT = 4000  # clips left out in turn, at most
ENOUGH = 20  # clips left out, for a confidence that is called calibrated
UNCALIBRATED = 0.1  # the temperature where no class has two clips apart
NUMBERS_AT_ONCE = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Support:
    """Unit vectors per modality, zero where a clip lacks one, and what is known of the clips.

    Every clip must be there in one of the modalities; queries, in all of them.
    """

    vectors: tuple[Float[Tensor, "S _"], ...]
    there: tuple[Bool[Tensor, "S"], ...]
    class_ids: Int64[Tensor, "S"]
    classes: int  # some may have no clip here: they are never an answer
    groups: Int64[Tensor, "S"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the support clips did when each was left out."""

    clips: int  # left out in turn; 0: no class has two clips apart
    enough: bool  # whether so many say anything of clips to come
    apart: str  # what was left out with a clip: "group", "clip" or "nothing"
    temperature: float
    accuracy: float | None
    confidence: float | None  # mean confidence in the first answer: near the accuracy


class Answers(NamedTuple):
    """Best class first; -1 with probability 0 where there are fewer classes than asked for."""

    class_ids: Int64[Tensor, "Q k"]
    probability: Float64[Tensor, "Q k"]
    novelty: Float64[Tensor, "Q"]  # NaN where nothing could be left out


class _LeftOut(NamedTuple):
    """Scores of support clips against everything but themselves and their group."""

    scores: Float64[Tensor, "n M"]  # best first, of the classes that share the confidence
    right: Bool[Tensor, "n M"]  # which of those is the clip's class
    own: Float64[Tensor, "n"]  # the score of the clip's class, whether among them or not


class Classifier:
    """`fit` gives one; `answers` and `calibration` are all there is to it."""

    def __init__(
        self,
        gallery: Gallery,
        item_codes: Int64[Tensor, "I"],
        calibration: Calibration,
        familiar: Float64[Tensor, "n"],
    ) -> None:
        self.gallery = gallery
        self.calibration = calibration
        self._codes = item_codes
        present = len(torch.unique(item_codes))
        self._one_each = len(item_codes) == present
        self._sharing = min(SHARING, present)
        per_class = 1 if self._one_each else ITEMS_A_CLASS
        self.neighbours = min(len(item_codes), self._sharing * per_class)
        self._familiar = familiar

    def answers(self, queries: Float[Tensor, "Q D"], top: int) -> Answers:
        """The `top` best classes of each query; `queries` are unit vectors, joined."""
        found = self.gallery.search(queries, max(self.neighbours, min(top, len(self._codes))))
        class_ids = torch.where(found.place < 0, -1, self._codes[found.place])
        score = found.score.double()
        if not self._one_each:
            class_ids, score = _best_of_each(class_ids, score, max(self._sharing, top))
        shared = (score[:, : self._sharing] / self.calibration.temperature).softmax(-1)
        shared = shared.nan_to_num(0)  # an approximate index may find nothing at all
        share = F.pad(shared, (0, max(0, score.shape[1] - self._sharing)))
        n = len(self._familiar)
        novelty = torch.full((len(queries),), torch.nan, dtype=torch.float64)
        if n:
            more = n - torch.searchsorted(self._familiar, score[:, 0].contiguous())
            novelty = more / (n + 1)
        short = max(0, top - class_ids.shape[1])
        return Answers(
            F.pad(class_ids, (0, short), value=-1)[:, :top],
            F.pad(share, (0, short))[:, :top],
            novelty,
        )


def fit(support: Support, *, by: str = BY[0], index: Inverted | None = None) -> Classifier:
    """A classifier from the support alone.

    Raises:
        ConfigError: `by` is neither prototypes nor nearest.
    """
    if by not in BY:
        raise ConfigError(f"no classifier by {by!r}; there are {choices(by, BY)}")
    if by == "prototypes":
        sums, counts = _sums(support, support.class_ids, support.classes)
        items, present = _items(_unit(sums), tuple(count > 0 for count in counts))
        item_codes = torch.nonzero(present)[:, 0]
        items = items[present]
    else:
        items, _ = _items(support.vectors, support.there)
        item_codes = support.class_ids
    left = _leave_out(support, by)
    out, apart = left
    temperature = _temperature(out)
    first = (out.scores / temperature).softmax(-1)
    calibration = Calibration(
        clips=len(out.own),
        enough=len(out.own) >= ENOUGH,
        apart=apart,
        temperature=temperature,
        accuracy=float(out.right[:, 0].double().mean()) if len(out.own) else None,
        confidence=float(first[:, 0].mean()) if len(out.own) else None,
    )
    familiar = out.scores[:, 0].sort().values
    return Classifier(Gallery(items, index), item_codes, calibration, familiar)


def _best_of_each(
    class_ids: Int64[Tensor, "Q J"], score: Float64[Tensor, "Q J"], most: int
) -> tuple[Int64[Tensor, "Q M"], Float64[Tensor, "Q M"]]:
    """Of items best first, the first of each class; no more than `most` classes."""
    ranked, order = class_ids.sort(dim=-1, stable=True)
    again = torch.zeros_like(class_ids, dtype=torch.bool)
    again[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    later = torch.zeros_like(again).scatter(1, order, again) | (class_ids < 0)
    score = score.masked_fill(later, -torch.inf)
    order = later.to(torch.int8).sort(dim=-1, stable=True).indices[:, :most]
    kept = later.gather(1, order)
    return class_ids.gather(1, order).masked_fill(kept, -1), score.gather(1, order)


def _unit(parts: tuple[Float[Tensor, "I _"], ...]) -> tuple[Float[Tensor, "I _"], ...]:
    return tuple(F.normalize(part, dim=-1) for part in parts)


def _sums(
    support: Support, place: Int64[Tensor, "S"], size: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Per modality: the sums of the vectors with the same place, and how many clips have it."""
    sums, counts = [], []
    for x, there in zip(support.vectors, support.there, strict=True):
        sums.append(x.new_zeros(size, x.shape[1]).index_add_(0, place, x))
        counts.append(torch.zeros(size, dtype=torch.int64).index_add_(0, place, there.long()))
    return tuple(sums), tuple(counts)


def _items(
    parts: tuple[Float[Tensor, "I _"], ...], there: tuple[Bool[Tensor, "I"], ...]
) -> tuple[Float[Tensor, "I D"], Bool[Tensor, "I"]]:
    """Joined, each modality weighted by one over how many the item has; and which have any."""
    has = torch.stack(there).sum(0)
    weight = 1 / has.clamp_min(1)
    joined = torch.cat([part * is_[:, None] for part, is_ in zip(parts, there, strict=True)], -1)
    return joined * weight[:, None], has > 0


def _leave_out(support: Support, by: str) -> tuple[_LeftOut, str]:
    """Every support clip (4,000 of more) against the others, without its group if it has one."""
    scored = _prototypes_without if by == "prototypes" else _clips_without
    alone = torch.arange(len(support.class_ids))
    tries = [("clip", alone)]
    if support.groups is not None:
        tries.insert(0, ("group", support.groups))
    for apart, groups in tries:
        mates = _place_of_pairs(support.class_ids, groups)
        out = scored(support, mates)
        if len(out.own):
            return out, apart
    return out, "nothing"


def _place_of_pairs(
    class_ids: Int64[Tensor, "S"], groups: Int64[Tensor, "S"]
) -> Int64[Tensor, "S"]:
    """Equal numbers for clips of one class and group."""
    return torch.unique(torch.stack([class_ids, groups]), dim=1, return_inverse=True)[1]


def _some(support: Support) -> Int64[Tensor, "n"]:
    """Clips that are there in every modality, as the queries will be."""
    whole = torch.nonzero(torch.stack(support.there).all(0))[:, 0]
    return whole[:: max(1, -(-len(whole) // LEFT_OUT))]


def _prototypes_without(support: Support, mates: Int64[Tensor, "S"]) -> _LeftOut:
    sums, counts = _sums(support, support.class_ids, support.classes)
    of_mates, mates_count = _sums(support, mates, int(mates.max()) + 1)
    items, present = _items(_unit(sums), tuple(count > 0 for count in counts))
    joined = torch.cat(support.vectors, -1)
    parts = []
    for some in torch.split(_some(support), max(1, NUMBERS_AT_ONCE // max(1, len(items)))):
        code, mate = support.class_ids[some], mates[some]
        rest = tuple(s[code] - m[mate] for s, m in zip(sums, of_mates, strict=True))
        left = tuple((c[code] - m[mate]) > 0 for c, m in zip(counts, mates_count, strict=True))
        own, there = _items(_unit(rest), left)
        score = (joined[some] @ items.T).masked_fill(~present, -torch.inf)
        score.scatter_(1, code[:, None], (joined[some] * own).sum(-1, keepdim=True))
        parts.append(_ranked(score[there], code[there]))
    return _LeftOut(*(torch.cat(x) for x in zip(*parts, strict=True)))


def _clips_without(support: Support, mates: Int64[Tensor, "S"]) -> _LeftOut:
    items, _ = _items(support.vectors, support.there)
    joined = torch.cat(support.vectors, -1)
    parts = []
    for some in torch.split(_some(support), max(1, NUMBERS_AT_ONCE // len(items))):
        score = joined[some] @ items.T
        score.masked_fill_(mates[some][:, None] == mates, -torch.inf)
        of_class = score.new_full((len(some), support.classes), -torch.inf)
        of_class.scatter_reduce_(1, support.class_ids.expand(len(some), -1), score, "amax")
        code = support.class_ids[some]
        there = of_class.gather(1, code[:, None])[:, 0] > -torch.inf
        parts.append(_ranked(of_class[there], code[there]))
    return _LeftOut(*(torch.cat(x) for x in zip(*parts, strict=True)))


def _ranked(score: Float[Tensor, "n C"], code: Int64[Tensor, "n"]) -> _LeftOut:
    ranked, order = score.double().sort(dim=-1, descending=True, stable=True)
    keep = slice(0, min(SHARING, score.shape[1]))
    own = score.double().gather(1, code[:, None])[:, 0]
    return _LeftOut(ranked[:, keep], order[:, keep] == code[:, None], own)


def _temperature(out: _LeftOut) -> float:
    """The temperature that makes the clips left out most likely."""
    from scipy.optimize import minimize_scalar

    if not len(out.own):
        return UNCALIBRATED
    missed = ~out.right.any(1)
    scores = torch.cat([out.scores, out.own[:, None]], 1)
    right = torch.cat([out.right, missed[:, None]], 1)
    scores[~missed, -1] = -torch.inf
    there = scores > -torch.inf
    # Platt: n right answers of n would ask for certainty; count one more that may be any class.
    doubt = 1 / (len(out.own) + 2)
    others = (there & ~right).sum(1, keepdim=True).clamp_min(1)
    target = torch.where(right, 1 - doubt, doubt / others) * there

    def cost(log_temperature: float) -> float:
        share = (scores / np.exp(log_temperature)).log_softmax(-1)
        return -float((target * share.masked_fill(~there, 0)).sum(1).mean())

    found = minimize_scalar(cost, bounds=(np.log(1e-3), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))
