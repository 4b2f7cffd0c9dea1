"""A head of `learn episodes` on the labelled clips of one question, and how far to trust it.

The labelled clips are the shots of one episode of all classes: the same head, fusion and clips give
the same answers there and here. Classes may have different numbers of clips. What a labelled clip
lacks of a sense says nothing: it stands where the mean of all shots does.

Calibration leaves clips out in turn, an even share of every class at a time, as a class that lacks
one more clip than the others would look the worse for it; clips of one class and group go together.

Shapes: S = labelled clips, N = classes that have any, K = clips of the largest, Q = clips asked
about, B = blocks (views of a clip), C = all classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from learn.fewshot.fusions import Fusion, PredictFused, Prior, View, WeighingFusion
from learn.fewshot.fusions._views import of_one_view
from learn.fewshot.guard import NAMES, STORED, of_senses, origin_of
from learn.fewshot.heads import Context, Head, RaggedHead
from learn.fewshot.heads._transform import known_of, taken_apart
from learn.inference.classifier import Predictions, calibrated
from learn.inference.left_out import LeftOut, ranked
from store.errors import ConfigError, InputError

FOLDS = 10  # shares that each class is left out in, at most
WEIGHED_CLASSES, WEIGHED_CLIPS = 64, 16  # classes, and clips of each, that tell the weights
NUMBERS_AT_ONCE = 20_000_000
KEPT_NUMBERS = 20_000_000  # scores of clips left out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judge:
    """A head, what joins the senses it sees, and where their weights begin."""

    head: Head
    fusion: Fusion | None  # None: one block
    prior: Prior | None  # of a fusion that weighs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """Vectors of labelled clips by name, and who has them; `stored …` names belong to the guard."""

    vectors: Mapping[str, Float[Tensor, "S _"]]
    present: Mapping[str, Bool[Tensor, "S"]]  # by sense
    class_ids: Int64[Tensor, "S"]
    groups: Int64[Tensor, "S"] | None = None

    def keep(self, wanted: Int64[Tensor, "_"]) -> "Labelled":
        """Only these clips."""
        return Labelled(
            vectors={name: x[wanted] for name, x in self.vectors.items()},
            present={name: x[wanted] for name, x in self.present.items()},
            class_ids=self.class_ids[wanted],
            groups=None if self.groups is None else self.groups[wanted],
        )


class FittedHead:
    """The head on its labelled clips: scores of classes for clips, and the senses' weights."""

    def __init__(self, judge: Judge, shots: Labelled, memory_bytes: int) -> None:
        """Fit; every clip has one of the senses at least.

        Raises:
            ConfigError: the head does not learn from classes of different numbers of clips.
            InputError: the largest class is too large for classes to lie in memory side by side.
        """
        self._judge = judge
        self.classes, positions = torch.unique(shots.class_ids, return_inverse=True)
        order, valid = _beside_each_other(positions, len(self.classes))
        views, masks = self._views(shots, order, valid)
        numbers = order.numel() * sum(view.as_shots.shape[1] for view in views)
        if 16 * numbers > memory_bytes:
            raise InputError(
                f"{len(self.classes)} classes of up to {order.shape[1]} clips take "
                f"{16 * numbers >> 20} MiB side by side, and {memory_bytes >> 20} MiB are allowed; "
                "name fewer clips of the largest class, or use `by` prototypes"
            )
        check_uneven(judge.head, valid)
        contexts = [
            replace(
                known_of(view.as_shots, view.modality_dims),
                mask=None if bool(mask.all()) else mask[None],
            )
            for view, mask in zip(views, masks, strict=True)
        ]
        blocks = [view.as_shots[order][None] for view in views]
        self.weights: list[float] | None = None  # of senses
        self.origin = ""  # of these weights
        if judge.fusion is None:
            ((only,), (context,)) = blocks, contexts
            self._predict: PredictFused = of_one_view(judge.head, [only], [context])
            return
        weights = None
        if isinstance(judge.fusion, WeighingFusion) and judge.prior is not None:
            few = _spread(valid)
            weights = judge.fusion.weigh(
                judge.head, [x[:, few][:, :, :WEIGHED_CLIPS] for x in blocks],
                [_cut(context, few) for context in contexts], judge.prior,
            )  # fmt: skip
            of_all = of_senses(weights, judge.prior)
            self.weights = None if of_all is None else of_all[0].tolist()
            self.origin = origin_of(judge.prior)
        self._predict = judge.fusion.fit(judge.head, blocks, contexts, weights)

    @torch.inference_mode()
    def scores(self, vectors: Mapping[str, Float[Tensor, "Q _"]]) -> Float64[Tensor, "Q N"]:
        """The score of each of `classes` for each clip, which has all senses."""
        views = _views_of(self._judge.fusion, vectors)
        size = max(1, NUMBERS_AT_ONCE // max(len(self.classes), 1))
        count = len(views[0].vectors)
        parts = [
            self._predict([x.vectors[None, first : first + size] for x in views], None)[0].double()
            for first in range(0, count, size)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, len(self.classes)).double()

    def _views(
        self, shots: Labelled, order: Int64[Tensor, "N K"], valid: Bool[Tensor, "N K"]
    ) -> tuple[Sequence[View], list[Bool[Tensor, "N K"]]]:
        """The blocks of every clip, and who has each."""
        views = _views_of(self._judge.fusion, shots.vectors)
        present = [shots.present[name] for name in shots.present]
        count = len(views) - (NAMES in shots.vectors)
        if count % len(present):  # joined before the head: of those that have all
            there = [torch.stack(present).all(0)] * count
        else:
            there = present * (count // len(present))
        if count < len(views):  # a class's name is known of every clip
            there = [*there, torch.ones_like(present[0])]
        return views, [has[order] & valid for has in there]


class HeadClassifier:
    """Predictions of a fitted head; `calibration` says how far to trust them."""

    def __init__(self, judge: Judge, shots: Labelled, memory_bytes: int) -> None:
        """Fit the head, and leave clips out in turn.

        Raises:
            ConfigError, InputError: as `FittedHead`.
        """
        self.fitted = FittedHead(judge, shots, memory_bytes)
        left_out, apart = leave_out(judge, shots, memory_bytes)
        self.calibration = calibrated(left_out, apart, len(self.fitted.classes), exact=True)

    def predict(self, vectors: Mapping[str, Float[Tensor, "Q _"]], top: int) -> Predictions:
        """The `top` best classes of each clip, of equals the first; no novelty."""
        scores = self.fitted.scores(vectors)
        best, order = scores.sort(dim=-1, descending=True, stable=True)
        shared = (best / self.calibration.temperature).softmax(-1)  # of all classes
        if not self.calibration.has_confidence:
            shared = torch.full_like(shared, torch.nan)
        lacking = max(0, top - order.shape[1])
        return Predictions(
            F.pad(self.fitted.classes[order[:, :top]], (0, lacking), value=-1),
            F.pad(shared, (0, max(0, top - shared.shape[1])))[:, :top],
            best.new_full((len(best),), torch.nan),
        )


def leave_out(judge: Judge, shots: Labelled, memory_bytes: int) -> tuple[LeftOut, str]:
    """Scores of labelled clips that have every sense (of some, where all by all classes are too
    many numbers), each against a head fitted without it and its share of every class; and what was
    left out with a clip."""
    whole = torch.stack(list(shots.present.values())).all(0)
    count = int(shots.class_ids.max()) + 1
    attempts = [("clip", torch.arange(len(shots.class_ids)))]
    if shots.groups is not None:
        attempts.insert(0, ("group", shots.groups))
    for apart, groups in attempts:
        fold = _folds(shots.class_ids, groups)
        found = []
        for number in range(int(fold.max()) + 1):
            left, rest = torch.nonzero(fold != number)[:, 0], (fold == number) & whole
            asked = torch.nonzero(rest)[:, 0][:: max(1, int(whole.sum()) * count // KEPT_NUMBERS)]
            if not len(asked):
                continue
            fitted = FittedHead(judge, _kept(judge.head, shots, left), memory_bytes)
            of_fold = fitted.scores({name: x[asked] for name, x in shots.vectors.items()})
            scores = of_fold.new_full((len(asked), count), -torch.inf)
            scores[:, fitted.classes] = of_fold
            found.append(ranked(scores, shots.class_ids[asked], count))
        if found:
            return LeftOut(*(torch.cat(parts) for parts in zip(*found, strict=True))), apart
    return ranked(torch.zeros(0, count).double(), shots.class_ids[:0]), "nothing"


def _kept(head: Head, shots: Labelled, left: Int64[Tensor, "_"]) -> Labelled:
    """The clips that are left, as many of each class where the head wants that."""
    if not takes_uneven(head):
        ids = shots.class_ids[left]
        rank = torch.zeros_like(ids)
        for class_id in torch.unique(ids).tolist():
            rank[ids == class_id] = torch.arange(int((ids == class_id).sum()))
        left = left[rank < int(torch.bincount(ids)[torch.unique(ids)].min())]
    return shots.keep(left)


def takes_uneven(head: Head) -> bool:
    """Whether the head learns from classes of different numbers of clips."""
    return isinstance(head, RaggedHead) and head.ragged


def check_uneven(head: Head, valid: Bool[Tensor, "N K"]) -> None:
    """Refuse classes of different numbers of clips to a head that does not learn from them.

    Raises:
        ConfigError: names the head.
    """
    if not bool(valid.all()) and not takes_uneven(head):
        name = type(taken_apart(head)[0]).__module__.rpartition(".")[2]
        counts = valid.sum(1)
        raise ConfigError(
            f"{name} needs equally many labelled clips of each class, and these have "
            f"{int(counts.min())} to {int(counts.max())}; use a head such as default or prototypes"
        )


def _views_of(fusion: Fusion | None, vectors: Mapping[str, Float[Tensor, "V _"]]) -> Sequence[View]:
    if fusion is not None:
        return fusion.views(vectors)
    ((_, x),) = ((name, x) for name, x in vectors.items() if not name.startswith(STORED))
    return (View(vectors=x, modality_dims=(x.shape[1],)),)


def _beside_each_other(
    positions: Int64[Tensor, "S"], classes: int
) -> tuple[Int64[Tensor, "N K"], Bool[Tensor, "N K"]]:
    """The clips of each class in a row, padded with its first; and which are no padding."""
    counts = torch.bincount(positions, minlength=classes)
    by_class = positions.argsort(stable=True)
    first = counts.cumsum(0) - counts
    column = torch.arange(int(counts.max()))
    valid = column < counts[:, None]
    return by_class[first[:, None] + torch.where(valid, column, 0)], valid


def _spread(valid: Bool[Tensor, "N K"]) -> Int64[Tensor, "_"]:
    """Some classes, evenly over all: enough to weigh senses by."""
    step = max(1, -(-len(valid) // WEIGHED_CLASSES))
    return torch.arange(0, len(valid), step)


def _cut(context: Context, classes: Int64[Tensor, "_"]) -> Context:
    if context.mask is None:
        return context
    return replace(context, mask=context.mask[:, classes, :WEIGHED_CLIPS])


def _folds(class_ids: Int64[Tensor, "S"], groups: Int64[Tensor, "S"]) -> Int64[Tensor, "S"]:
    """The turn in which each clip is left out; -1 where its class would have nothing left."""
    fold = np.full(len(class_ids), -1)
    ids, sources = class_ids.numpy(), groups.numpy()
    for class_id in np.unique(ids):
        members = np.flatnonzero(ids == class_id)
        units = np.unique(sources[members], return_inverse=True)[1]
        if units.max() > 0:
            fold[members] = units % FOLDS
    return torch.from_numpy(fold)
