"""All that one call scores, row by row: projections, modes, heads and draws of episodes.

Shapes: V = clips, E = episodes, C = classes.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from learn.data.clips import Clips
from learn.evaluation.confusion import NOTHING, tally
from learn.evaluation.evaluation_set import NONE, EvaluationSet, modalities_of, vectors_of
from learn.evaluation.results import Inflation, Result
from learn.fewshot import modes, statistics
from learn.fewshot.heads import Context, ExtraShotsHead, Head
from learn.fewshot.metrics import View, measure
from learn.fewshot.scoring import scorer
from learn.fewshot.tasks import Episodes, draw_again
from learn.training.runs import Run
from store.errors import ConfigError, InputError, NotEnoughClips

if TYPE_CHECKING:
    from store import Feature

TUNING = 600  # episodes of the val split


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scoring:
    """All that is to be scored."""

    heads: Mapping[str, Mapping[str, Head]]  # by projection, as the next two
    runs: Mapping[str, Run | None]
    cells: Mapping[str, Sequence[tuple[str, str]]]  # by projection: pairs of modes it can compare
    features: Mapping[str, "Feature"]
    side: EvaluationSet
    base: EvaluationSet | None
    draws: Sequence[Episodes]
    memory: int
    val: EvaluationSet | None  # of the same kind as `side`, to choose settings on
    ids: frozenset[str]  # of the clips scored, as their stores have them

    @property
    def size(self) -> int:
        each = (len(self.cells[name]) * len(heads) for name, heads in self.heads.items())
        return sum(each) * len(self.draws)

    def results(self, ci: str) -> Iterator[Result]:
        """Row by row; vectors are made once per projection, tables of products once per head."""
        queries = sum(draw.query.size for draw in self.draws)
        balanced = all(draw.balanced for draw in self.draws)
        tuned = self._tuned()
        for projection, run in self.runs.items():
            vectors = vectors_of(self.side.rows, run)
            of_val = vectors_of(self.val.rows, run) if self.val and tuned else None
            of_base = vectors_of(self.base.rows, run) if self.base else None
            heads = self.heads[projection]
            names = self._names(heads.values(), run)
            seen = len(run.trained_on & self.ids) if run else 0
            for cell in self.cells[projection]:
                pair = modes.pair(vectors, *cell, common=run is not None)
                pair = pair if names is None else pair.with_names(names)
                base = modes.pair(of_base, *cell, common=run is not None) if of_base else None
                val = modes.pair(of_val, *cell, common=run is not None) if of_val else None
                notes = (self.features[modality].notes for modality in modalities_of([cell]))
                untrained = any(bool(of_feature.get("untrained")) for of_feature in notes)
                for spec, head in heads.items():
                    begun = time.monotonic()
                    context = context_of(pair, base, balanced)
                    score = None
                    if any(draw.measure == "accuracy" for draw in self.draws):
                        score = scorer(head, pair, context, queries=queries, memory=self.memory)
                    for i, draw in enumerate(self.draws):
                        found = measure(
                            self.side.clips, draw, View(head, pair, context), score=score,
                            tuned=(tuned[i], View(head, val, context)) if tuned and val else None,
                        )  # fmt: skip
                        right, predictions = found.of_episodes, found.predictions
                        yield Result(
                            head=spec,
                            projection=projection,
                            support=cell[0],
                            query=cell[1],
                            ways=draw.ways,
                            shots=draw.sampling()["shots"],
                            queries=draw.sampling()["queries"],
                            episodes=len(draw),
                            accuracy=float(right.mean()),
                            ci95=statistics.ci95(right, ci),
                            ci_method=ci,
                            clips=len(self.side.clips),
                            seconds=round(time.monotonic() - begun, 3),
                            untrained=untrained,
                            transductive=head.transductive,
                            centred_by=head.centred_by,
                            seen_in_training=seen,
                            trained=modes.mode_of(run.features) if run else NONE,
                            metric=draw.measure,
                            parts=found.parts,
                            of_episodes=right,
                            answers=NOTHING
                            if predictions is None
                            else tally(self.side.clips, draw, predictions),
                        )
                        begun = time.monotonic()

    def _tuned(self) -> list[Episodes]:
        """Episodes of the val split, one draw for each of ours; none where it has too few clips."""
        if self.val is None:
            return []
        try:
            return [
                draw_again(self.val.clips, draw, episodes=min(TUNING, len(draw)))
                for draw in self.draws
            ]
        except NotEnoughClips:
            return []

    def _names(self, heads: Iterable[Head], run: Run | None) -> Float[Tensor, "C E"] | None:
        """Vectors of the classes, where a head wants them and the run can give them."""
        wanted = makes_use(heads, "names")
        if run is None or not wanted or not run.knows_names:
            return None
        return run.class_embeddings(self.side.clips.classes)


def possible(
    runs: Mapping[str, Run | None], cells: Sequence[tuple[str, str]], side: EvaluationSet
) -> dict[str, list[tuple[str, str]]]:
    """The cells of each projection, found by one clip.

    Raises:
        InputError: a projection has none, or a cell has no projection.
    """
    found, reasons = {}, dict[tuple[str, str], str]()
    one = side.keep(np.arange(len(side.clips)) < 1)
    for projection, run in runs.items():
        known = vectors_of(one.rows, run)
        why = {c: modes.refusal(known, *c, common=run is not None) for c in cells}
        found[projection] = [cell for cell in cells if not why[cell]]
        reasons |= {cell: told for cell, told in why.items() if told}
        if not found[projection]:
            raise InputError(next(told for told in why.values() if told))
    for cell in cells:
        if not any(cell in able for able in found.values()):
            raise InputError(reasons[cell])
    return found


def makes_use(heads: Iterable[Head], what: str) -> bool:
    """Does one of them learn from this beside the shots?"""
    return any(isinstance(head, ExtraShotsHead) and what in head.extra_shots for head in heads)


def check_guard(clips: Clips, draw: Episodes) -> None:
    """Raises:
    ConfigError: there is no guard whose worth could be told.
    """
    if clips.groups is None:
        raise ConfigError(
            "--inflation needs to know which clips are of one source: give the manifest a column "
            "'group', or name one with --group"
        )
    if draw.facts.get("groups") == "mixed":
        raise ConfigError("--inflation is against groups apart; leave out --groups mixed")


def worth_of_guard(task: Scoring, guarded: Sequence[Result], ci: str) -> list[Inflation]:
    """What each result would gain if groups could meet: other episodes of the same classes."""
    found = []
    for draw in task.draws:
        side = task.side
        drawn = np.isin(side.clips.class_ids, np.unique(draw.classes))
        if side.clips.targets is None and not drawn.all():
            side = side.keep(drawn)
        mixed = draw_again(side.clips, draw, groups="mixed")
        own = (row for row in guarded if row.shots == draw.sampling()["shots"])
        for one, other in zip(
            own, replace(task, side=side, draws=[mixed]).results(ci), strict=True
        ):
            both = one.ci95, other.ci95
            found.append(
                Inflation(
                    head=one.head,
                    projection=one.projection,
                    support=one.support,
                    query=one.query,
                    shots=one.shots,
                    guarded=one.accuracy,
                    mixed=other.accuracy,
                    inflation=other.accuracy - one.accuracy,
                    ci95=None if None in both else hypot(*(half or 0.0 for half in both)),
                )
            )
    return found


def context_of(pair: modes.Pair, base: modes.Pair | None, balanced: bool = True) -> Context:
    return Context(
        balanced=balanced,
        modality_dims=pair.modality_dims,
        support_mean=None if base is None else base.support.mean(0),
        query_mean=None if base is None else base.query.mean(0),
        origin=pair.support.mean(0),
    )
