"""A classifier for any number of classes with a few clips each: classes, confidence, novelty.

A clip's score for a class is its product with the class's prototype, or with the nearest of the
class's clips. Confidence is a softmax over the best classes, its temperature fitted by leaving
support clips out: what is held against a clip then never holds the clip itself, nor another of its
group (clips of one source); of a small support the mean that is subtracted is made without them
too. Adding a class is adding its clips: nothing is trained.

An approximate index may miss the right class. Clips left out are then held against what the index
finds for them, and confidence is at most the share of them whose class was found. Of one class
there is no confidence: there is nothing that it could be mistaken for.

Novelty is the share of support clips, each left out in turn, that look more familiar than the clip
does: above .95, the clip is stranger than 19 in 20 clips of known classes. Of n clips left out it
is n / (n + 1) at most.

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
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from learn.data.devices import CPU
from learn.inference.left_out import (
    ITEMS_A_CLASS,
    SHARING,
    LeftOut,
    Support,
    joined_parts,
    leave_out,
    sums_of,
    unit_parts,
)
from learn.inference.settings import HEADS as HEADS
from learn.inference.settings import Inverted, check_head
from learn.inference.vector_index import VectorIndex

ENOUGH = 20  # clips left out, for a confidence that is called calibrated
UNCALIBRATED = 0.1  # the temperature where no class has two clips apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Accuracy and confidence on the support clips when each was left out."""

    clips: int  # left out in turn; 0: no class has two clips apart
    enough: bool  # whether so many say anything of clips to come
    apart: str  # what was left out with a clip: "group", "clip" or "nothing"
    temperature: float
    accuracy: float | None  # None where nothing was left out, or there is one class
    confidence: float | None  # mean confidence in the first answer: near the accuracy
    classes: int  # that may be answers
    found: float | None  # share of clips whose class an approximate index found; None: exact
    novelty_at_most: float | None  # None where nothing was left out
    exact: bool  # is every class looked at?

    @property
    def has_confidence(self) -> bool:
        """Whether there is anything to be confident of, and a way to know how far."""
        return self.classes > 1 and (self.exact or self.found is not None)


class Predictions(NamedTuple):
    """Classes, best first; -1 with probability 0 where there are fewer than asked for."""

    class_ids: Int64[Tensor, "Q k"]
    probabilities: Float64[Tensor, "Q k"]  # NaN where there is no confidence
    novelty: Float64[Tensor, "Q"]  # NaN where nothing could be left out


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
        if not self.calibration.has_confidence:
            shared = torch.full_like(shared, torch.nan)
        elif self.calibration.found is not None:
            shared = shared * self.calibration.found
        probabilities = F.pad(shared, (0, max(0, scores.shape[1] - self._sharing)))
        short = max(0, top - class_ids.shape[1])
        return Predictions(
            F.pad(class_ids, (0, short), value=-1)[:, :top],
            F.pad(probabilities, (0, short))[:, :top],
            self._novelty(scores[:, 0].contiguous()),
        )

    def novelty(self, queries: Float[Tensor, "Q D"]) -> Float64[Tensor, "Q"]:
        """The share of support clips that look more familiar than each query does."""
        return self._novelty(self.index.search(queries, 1).scores[:, 0].double().contiguous())

    def _novelty(self, best: Float64[Tensor, "Q"]) -> Float64[Tensor, "Q"]:
        n = len(self._familiarity)
        if not n:
            return torch.full_like(best, torch.nan)
        as_familiar = torch.searchsorted(self._familiarity, best, right=True)
        return ((n - as_familiar) / (n + 1)).double()


def fit(
    support: Support,
    *,
    head: str = HEADS[0],
    index: Inverted | None = None,
    device: torch.device = CPU,
) -> Classifier:
    """A classifier from the support alone, which is searched on the device.

    Raises:
        ConfigError: `head` is neither prototypes nor nearest.
    """
    check_head(head)
    if head == "prototypes":
        sums, counts = sums_of(support, support.class_ids, support.classes)
        items, present = joined_parts(unit_parts(sums), tuple(count > 0 for count in counts))
        item_classes = torch.nonzero(present)[:, 0]
        items = items[present]
    else:
        items, _ = joined_parts(support.vectors, support.present)
        item_classes = support.class_ids
    searched = VectorIndex(items, index, device)
    left_out, apart = leave_out(support, head, None if searched.exact else searched)
    return Classifier(
        searched,
        item_classes,
        calibrated(left_out, apart, len(torch.unique(item_classes)), exact=searched.exact),
        left_out.scores[:, 0].sort().values,
    )


def calibrated(left_out: LeftOut, apart: str, classes: int, *, exact: bool) -> Calibration:
    """How far scores can be trusted, by clips that were left out."""
    clips = len(left_out.own)
    is_found = left_out.correct.any(1)
    # One more that was found and one more that was not: a few clips prove neither.
    found = None if exact or not clips else (int(is_found.sum()) + 1) / (clips + 2)
    known = left_out if exact else LeftOut(*(x[is_found] for x in left_out))
    temperature = _temperature(known)
    probabilities = (left_out.scores / temperature).softmax(-1).nan_to_num(0)
    measured = clips > 0 and classes > 1
    confidence = float(probabilities[:, 0].mean()) if measured else None
    return Calibration(
        clips=clips,
        enough=clips >= ENOUGH,
        apart=apart,
        temperature=temperature,
        accuracy=float(left_out.correct[:, 0].double().mean()) if measured else None,
        confidence=confidence if confidence is None or found is None else confidence * found,
        classes=classes,
        found=found,
        novelty_at_most=clips / (clips + 1) if clips else None,
        exact=exact,
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


def _temperature(left_out: LeftOut) -> float:
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
