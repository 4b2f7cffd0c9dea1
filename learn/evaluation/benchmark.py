"""All that one call scores, row by row: projections, modes, heads and draws of episodes.

Shapes: V = clips, E = episodes, C = classes.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from learn.data.clips import Clips
from learn.evaluation.confusion import EMPTY, tally
from learn.evaluation.evaluation_set import EvaluationSet
from learn.evaluation.results import Leakage, Result
from learn.fewshot import modes, statistics
from learn.fewshot.heads import Context, ExtraShotsHead, Head
from learn.fewshot.metrics import Measured, Predictor, measure
from learn.fewshot.tasks import Episodes, draw_again
from learn.inference.selection import NONE, modalities_of, vectors_of
from learn.training.runs import Run
from store.errors import ConfigError, InputError, NotEnoughClips

if TYPE_CHECKING:
    from store import Feature

TUNING = 600  # episodes of the val split

Vectors = Mapping[str, Float[Tensor, "V _"]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Benchmark:
    """Everything to be scored: heads, projections, pairs of modes, clips and episodes."""

    heads: Mapping[str, Mapping[str, Head]]  # by projection, as the next two
    runs: Mapping[str, Run | None]
    cells: Mapping[str, Sequence[tuple[str, str]]]  # by projection: pairs of modes it can compare
    features: Mapping[str, "Feature"]
    scored: EvaluationSet
    base: EvaluationSet | None
    draws: Sequence[Episodes]
    memory: int
    val: EvaluationSet | None  # of the same kind as `scored`, to choose settings on
    ids: frozenset[str]  # of the clips scored, as their stores have them

    @property
    def size(self) -> int:
        """The number of results."""
        each = (len(self.cells[name]) * len(heads) for name, heads in self.heads.items())
        return sum(each) * len(self.draws)

    def results(self, ci: str) -> Iterator[Result]:
        """The results one by one; vectors are made once per projection, tables of products once per
        head."""
        tuning = self._tuning()
        for compared in self._compared(with_val=bool(tuning)):
            for spec, head in self.heads[compared.projection].items():
                predictor = self._predictor(head, compared.pair, compared.base)
                for i, episodes in enumerate(self.draws):
                    begun = time.monotonic()
                    tuned = None
                    if tuning and compared.val:
                        tuned = tuning[i], replace(predictor, pair=compared.val)
                    measured = measure(self.scored.clips, episodes, predictor, tuned=tuned)
                    yield self._result(compared, spec, head, episodes, measured, ci, begun)

    def _compared(self, *, with_val: bool) -> Iterator["Compared"]:
        """Every projection's vectors under every pair of modes that it can compare."""
        for projection, run in self.runs.items():
            vectors = vectors_of(self.scored.rows, run)
            of_val = vectors_of(self.val.rows, run) if self.val and with_val else None
            of_base = vectors_of(self.base.rows, run) if self.base else None
            names = self._names(self.heads[projection].values(), run)
            for cell in self.cells[projection]:
                pair = modes.pair(vectors, *cell, common=run is not None)
                yield Compared(
                    projection=projection,
                    cell=cell,
                    pair=pair if names is None else pair.with_names(names),
                    base=_pair(of_base, cell, run),
                    val=_pair(of_val, cell, run),
                    caveats={
                        "untrained": self._untrained(cell),
                        "seen_in_training": len(run.trained_on & self.ids) if run else 0,
                        "trained": modes.mode_of(run.features) if run else NONE,
                    },
                )

    def _predictor(self, head: Head, pair: modes.Pair, base: modes.Pair | None) -> Predictor:
        balanced = all(episodes.balanced for episodes in self.draws)
        return Predictor(
            head=head,
            pair=pair,
            context=context_of(pair, base, balanced),
            queries=sum(episodes.query.size for episodes in self.draws),
            memory=self.memory,
        )

    def _result(
        self,
        compared: "Compared",
        spec: str,
        head: Head,
        episodes: Episodes,
        measured: Measured,
        ci: str,
        begun: float,
    ) -> Result:
        sampling, clips = episodes.sampling(), self.scored.clips
        predictions = measured.predictions
        return Result(
            head=spec,
            projection=compared.projection,
            support=compared.cell[0],
            query=compared.cell[1],
            ways=episodes.ways,
            shots=sampling["shots"],
            queries=sampling["queries"],
            episodes=len(episodes),
            accuracy=float(measured.of_episodes.mean()),
            ci95=statistics.ci95(measured.of_episodes, ci),
            ci_method=ci,
            clips=len(clips),
            seconds=round(time.monotonic() - begun, 3),
            transductive=head.transductive,
            centred_by=head.centred_by,
            metric=episodes.measure,
            parts=measured.parts,
            of_episodes=measured.of_episodes,
            tally=EMPTY if predictions is None else tally(clips, episodes, predictions),
            **compared.caveats,
        )

    def _untrained(self, cell: tuple[str, str]) -> bool:
        """Whether random weights made a feature that these modes look at."""
        return any(bool(self.features[m].notes.get("untrained")) for m in modalities_of([cell]))

    def _tuning(self) -> list[Episodes]:
        """Episodes of the val split, one draw for each scored; none where it has too few clips."""
        if self.val is None:
            return []
        try:
            return [
                draw_again(self.val.clips, episodes, episodes=min(TUNING, len(episodes)))
                for episodes in self.draws
            ]
        except NotEnoughClips:
            return []

    def _names(self, heads: Iterable[Head], run: Run | None) -> Float[Tensor, "C E"] | None:
        """Vectors of the classes, where a head wants them and the run can give them."""
        wanted = makes_use(heads, "names")
        if run is None or not wanted or not run.knows_names:
            return None
        return run.class_embeddings(self.scored.clips.classes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
    """One projection's vectors of all clips under one pair of modes."""

    projection: str
    cell: tuple[str, str]  # modes of support and query
    pair: modes.Pair
    base: modes.Pair | None  # of the clips of the train split
    val: modes.Pair | None
    caveats: Mapping[str, Any]  # what must be known of the vectors to quote a number


def _pair(vectors: Vectors | None, cell: tuple[str, str], run: Run | None) -> modes.Pair | None:
    return modes.pair(vectors, *cell, common=run is not None) if vectors else None


def possible(
    runs: Mapping[str, Run | None], cells: Sequence[tuple[str, str]], scored: EvaluationSet
) -> dict[str, list[tuple[str, str]]]:
    """The pairs of modes that each projection can compare, tried on one clip.

    Raises:
        InputError: a projection has none, or a cell has no projection.
    """
    cells_of, reasons = {}, dict[tuple[str, str], str]()
    first = scored.keep(np.arange(len(scored.clips)) < 1)
    for projection, run in runs.items():
        vectors = vectors_of(first.rows, run)
        refusals = {c: modes.refusal(vectors, *c, common=run is not None) for c in cells}
        cells_of[projection] = [cell for cell in cells if not refusals[cell]]
        reasons |= {cell: reason for cell, reason in refusals.items() if reason}
        if not cells_of[projection]:
            raise InputError(next(reason for reason in refusals.values() if reason))
    for cell in cells:
        if not any(cell in compared for compared in cells_of.values()):
            raise InputError(reasons[cell])
    return cells_of


def makes_use(heads: Iterable[Head], extra: str) -> bool:
    """Whether one of the heads learns from this beside the shots."""
    return any(isinstance(head, ExtraShotsHead) and extra in head.extra_shots for head in heads)


def check_group_separation(clips: Clips, draw: Episodes) -> None:
    """Refuse to measure leakage between groups that are not separated.

    Raises:
        ConfigError: no groups are known, or they are mixed.
    """
    if clips.groups is None:
        raise ConfigError(
            "`inflation` needs to know which clips are of one source: give the manifest a column "
            "'group', or name one with `group`"
        )
    if draw.facts.get("groups") == "mixed":
        raise ConfigError("`inflation` is against groups apart; leave out `groups` mixed")


def leakage(benchmark: Benchmark, separated: Sequence[Result], ci: str) -> list[Leakage]:
    """The gain of each result with groups not separated, on other episodes of the same classes."""
    leaks = []
    for episodes in benchmark.draws:
        scored = benchmark.scored
        drawn = np.isin(scored.clips.class_ids, np.unique(episodes.classes))
        if scored.clips.targets is None and not drawn.all():
            scored = scored.keep(drawn)
        again = draw_again(scored.clips, episodes, groups="mixed")
        separated_rows = (row for row in separated if row.shots == episodes.sampling()["shots"])
        mixed_rows = replace(benchmark, scored=scored, draws=[again]).results(ci)
        leaks += [
            _leakage(own, mixed) for own, mixed in zip(separated_rows, mixed_rows, strict=True)
        ]
    return leaks


def _leakage(separated: Result, mixed: Result) -> Leakage:
    half_widths = separated.ci95, mixed.ci95
    return Leakage(
        head=separated.head,
        projection=separated.projection,
        support=separated.support,
        query=separated.query,
        shots=separated.shots,
        guarded=separated.accuracy,
        mixed=mixed.accuracy,
        inflation=mixed.accuracy - separated.accuracy,
        ci95=None if None in half_widths else hypot(*(half or 0.0 for half in half_widths)),
    )


def context_of(pair: modes.Pair, base: modes.Pair | None, balanced: bool = True) -> Context:
    """The facts about these clips that heads may use beside the support."""
    return Context(
        balanced=balanced,
        modality_dims=pair.modality_dims,
        support_mean=None if base is None else base.support.mean(0),
        query_mean=None if base is None else base.query.mean(0),
        origin=pair.support.mean(0),
    )
