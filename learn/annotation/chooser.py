"""What to show next and what to propose, made anew behind the page whenever labels were added.

A fit reads the labels of a column, has the default head of `learn predict` judge every candidate,
and lets a strategy put the next few clips in order. Pages read the last fit, which is replaced
whole, so an answer to a key waits for no fit.

Two estimates say when to stop, both of clips of the classes named so far. Checked: the share of
clips that nobody has chosen (`learn/annotation/estimate.py`) that the other labels tell. Expected:
the mean confidence about the clips that are left; as it is fitted on clips that were chosen for
being hard, it is rather low.

Shapes: P = candidates, k = classes proposed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from learn.annotation.annotations import Annotations
from learn.annotation.background import Background
from learn.annotation.estimate import sample_of, told_right
from learn.annotation.pool import Pool, Source
from learn.annotation.strategies import Candidates, Strategy
from learn.inference.embed import EmbeddedBatch
from learn.inference.examples import Examples, join
from learn.inference.labeller import Labeller, LabellerSettings
from learn.inference.settings import HEADS
from store.errors import MicroshotError

TOP = 9  # classes proposed: as many as there are digits
AHEAD = 24  # clips put in order by a fit
PAUSE_SECONDS = 0.1  # between an answer and its fit
DRAWN_AHEAD = 3  # clips that nobody chooses, which are judged with the candidates
EARLIER = 8  # points of the curve that are made again when a file of labels is gone on with

Proposal = tuple[str, float]  # a class, and the confidence in it; NaN where there is none
Groups = Callable[[Sequence[str]], Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How well the head does, as far as the labels of one moment say."""

    clips: int  # with a class
    classes: int
    expected: float | None  # the mean confidence about candidates
    checked: float | None  # the accuracy on clips that nobody has chosen, told by the others
    checks: int  # such clips


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the labels of one moment gave for one column."""

    column: str
    acts: int  # that were done when it was begun; -1: none was made yet
    queue: tuple[str, ...] = ()
    proposals: Mapping[str, tuple[Proposal, ...]] = field(default_factory=dict)  # of the queue
    novelty: Mapping[str, float] = field(default_factory=dict)
    candidates: int = 0
    calibrated: bool = False  # do enough clips left out stand behind the confidences?
    seconds: float = 0.0
    fault: str = ""  # why there is no proposal


@dataclass(slots=True)
class _Judged:
    """What the head says of candidates."""

    classes: Sequence[str]
    class_ids: Int64[Tensor, "P k"]  # -1 where there are fewer
    confidence: Float[Tensor, "P k"]
    novelty: Float[Tensor, "P"]
    margin: Float[Tensor, "P"] | None
    estimate: Estimate
    calibrated: bool


class Chooser(Background):
    """Fits, one after another, on a thread of its own."""

    def __init__(
        self, source: Source, pool: Pool, annotations: Annotations, strategy: Strategy, *,
        groups: Groups = lambda clips: None, drawn: Sequence[str] = (), seed: int = 0,
    ) -> None:  # fmt: skip
        """`groups` numbers the sources of clips, which are kept apart where confidence is fitted;
        `drawn` is the order of those that nobody chooses."""
        super().__init__("annotate-fit")
        self._source, self._pool, self._annotations = source, pool, annotations
        self._strategy, self._groups, self.drawn = strategy, groups, tuple(drawn)
        self._generator = torch.Generator().manual_seed(seed)
        self._fits = {c: Fit(column=c, acts=-1) for c in annotations.columns}
        self._curves: dict[str, list[Estimate]] = {c: [] for c in annotations.columns}
        self._wanted: dict[str, None] = dict.fromkeys(annotations.columns)
        self._earlier = [(c, n) for c in annotations.columns for n in self._counts(c)]
        self._fitting = Lock()

    def want(self, column: str) -> None:
        """Ask for a fit of what is known now."""
        with self._wake:
            self._wanted[column] = None
            self._wake.notify()

    def fit_of(self, column: str) -> Fit:
        """The last fit of a column."""
        return self._fits[column]

    def curve(self, column: str) -> tuple[Estimate, ...]:
        """The estimates of all fits so far, by labelled clips."""
        return tuple(self._curves[column])

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._wanted or self._earlier or self._closed):
                    self._wake.wait()
                if self._wanted:  # the answer to the key goes out first
                    self._wake.wait_for(lambda: self._closed, timeout=PAUSE_SECONDS)
                if self._closed:
                    return
                column, count = next(iter(self._wanted), ""), 0
                if column:
                    del self._wanted[column]
                else:
                    column, count = self._earlier.pop()
            try:
                if count:
                    with self._fitting:
                        self._look_back(column, count)
                else:
                    self.fit(column)
            except (MicroshotError, OSError, MemoryError) as error:
                acts = self._annotations.acts
                self._fits[column] = Fit(column=column, acts=acts, fault=str(error))

    def fit(self, column: str) -> Fit:
        """Fit on what is known of a column now, and keep it as the last."""
        with self._fitting:
            return self._fit(column)

    def _fit(self, column: str) -> Fit:
        begun, acts = time.monotonic(), self._annotations.acts
        named = self._annotations.named(column)
        clips = self._pool.candidates(self._annotations.answered(column))
        if named:
            self._pool.of(list(named))  # so that they lie in memory with the candidates
        answered = self._annotations.answered(column)
        drawn = list(islice((c for c in self.drawn if c not in answered), DRAWN_AHEAD))
        clips = list(dict.fromkeys([*clips, *drawn]))
        if not clips:
            self._fits[column] = Fit(column=column, acts=acts)
            return self._fits[column]
        judged, fault = None, ""
        try:
            judged = self._judge(column, named, self._pool.of(clips))
        except MicroshotError as error:
            fault = str(error)
        chosen = self._pick(clips, list(named), judged)
        queue = tuple(clips[i] for i in chosen)
        at = {clip: i for i, clip in enumerate(clips)}
        told = list(dict.fromkeys([*chosen, *(at[clip] for clip in drawn)]))
        fit = Fit(
            column=column, acts=acts, queue=queue, candidates=len(clips), fault=fault,
            proposals=_proposals([clips[i] for i in told], told, judged),
            novelty={}
            if judged is None
            else dict(zip((clips[i] for i in told), judged.novelty[told].tolist(), strict=True)),
            calibrated=judged is not None and judged.calibrated,
            seconds=time.monotonic() - begun,
        )  # fmt: skip
        if judged is not None:
            self._add(column, judged.estimate)
        self._fits[column] = fit
        return fit

    def _counts(self, column: str) -> list[int]:
        """Numbers of labelled clips, evenly below those that there are now."""
        now = len(self._annotations.named(column))
        return sorted({now * i // (EARLIER + 1) for i in range(1, EARLIER + 1)} - {0})

    def _look_back(self, column: str, count: int) -> None:
        """The point of the curve at which so many clips were labelled."""
        named = dict(list(self._annotations.named(column).items())[:count])
        clips = self._pool.candidates(self._annotations.answered(column))
        if clips and (judged := self._judge(column, named, self._pool.of(clips))) is not None:
            self._add(column, judged.estimate)

    def _add(self, column: str, estimate: Estimate) -> None:
        """Put a point on the curve; of equally many clips the later one holds."""
        of = {point.clips: point for point in self._curves[column]} | {estimate.clips: estimate}
        self._curves[column] = [of[clips] for clips in sorted(of)]

    def _pick(
        self, clips: Sequence[str], named: Sequence[str], judged: _Judged | None
    ) -> list[int]:
        """The positions of the next clips among the candidates."""
        stored = None in self._source.selection.runs.values()
        seen = self._pool.seen_as(self._source.parts, stored=stored)
        candidates = Candidates(
            vectors=seen[self._pool.positions(clips)],
            labelled=seen[self._pool.positions(named)],
            margin=None if judged is None else judged.margin,
        )
        picked: list[int] = self._strategy.pick(candidates, AHEAD, self._generator).tolist()
        return picked

    def _judge(self, column: str, named: Mapping[str, str], batch: EmbeddedBatch) -> _Judged | None:
        """What the default head says; None of fewer than two classes."""
        if len(set(named.values())) < 2:
            return None
        labeller = self._labeller(column, named)
        count = len(batch.ids)
        class_ids = torch.full((count, TOP), -1)
        confidence = torch.zeros(count, TOP).double()
        novelty = torch.full((count,), torch.nan).double()
        most, enough = 0, False
        for _, clips, found, calibration in labeller.judged(batch):
            confidence[clips] = found.probabilities
            novelty[clips] = found.novelty
            class_ids[clips] = found.class_ids
            if calibration.clips > most:
                most, enough = calibration.clips, calibration.enough
        first = confidence[:, 0]
        checked, checks = self._checked(column, named)
        return _Judged(
            classes=labeller.classes, class_ids=class_ids, confidence=confidence, novelty=novelty,
            margin=(first - confidence[:, 1]).nan_to_num(0).float(),
            calibrated=enough,
            estimate=Estimate(
                clips=len(named),
                classes=len(labeller.classes),
                expected=None if bool(first.isnan().all()) else float(first.nanmean()),
                checked=checked,
                checks=checks,
            ),
        )  # fmt: skip

    def _checked(self, column: str, named: Mapping[str, str]) -> tuple[float | None, int]:
        """The accuracy on clips that nobody has chosen, and how many they are."""
        in_sample = sample_of(self.drawn, self._annotations.in_order(column))
        clips = list(named)
        position = {clip: i for i, clip in enumerate(clips)}
        sample = torch.tensor([position[c] for c in in_sample if c in position], dtype=torch.int64)
        if not len(sample):
            return None, 0
        number = {name: i for i, name in enumerate(sorted(set(named.values())))}
        class_ids = torch.tensor([number[named[clip]] for clip in clips], dtype=torch.int64)
        right = told_right(self._source.judges, self._examples(clips), class_ids, sample)
        return float(right.double().mean()), len(sample)

    def _labeller(self, column: str, named: Mapping[str, str]) -> Labeller:
        """What `learn predict` would answer with on these shots."""
        clips = list(named)
        settings = LabellerSettings(
            head=HEADS[0],
            judges=self._source.judges,
            inverted=None,
            top=TOP,
            abstain_below=0.0,
            centred=None in self._source.selection.runs.values(),
        )
        return Labeller(column, [named[c] for c in clips], self._examples(clips), settings)

    def _examples(self, clips: Sequence[str]) -> Examples:
        return join([self._pool.of(clips)], self._source.parts, self._groups(clips))


def _proposals(
    queue: Sequence[str], chosen: Sequence[int], judged: _Judged | None
) -> dict[str, tuple[Proposal, ...]]:
    if judged is None:
        return {}
    ids, confidence = judged.class_ids[chosen].tolist(), judged.confidence[chosen].tolist()
    return {
        clip: tuple((judged.classes[c], p) for c, p in zip(*of_clip, strict=True) if c >= 0)
        for clip, *of_clip in zip(queue, ids, confidence, strict=True)
    }
