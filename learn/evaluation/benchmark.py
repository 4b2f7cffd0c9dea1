"""All that one call scores, row by row: projections, modes, heads and draws of episodes.

Shapes: V, W and U = clips, E = episodes, C = classes.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from learn.data.clips import Clips
from learn.data.devices import CPU
from learn.data.evaluation_set import EvaluationSet
from learn.data.seen_media import seen_by_encoder
from learn.evaluation import calibration
from learn.evaluation.compared import Compared, Fusions, Way, ways_for
from learn.evaluation.confusion import EMPTY, tally
from learn.evaluation.results import Leakage, Result
from learn.fewshot import modes, statistics
from learn.fewshot.fusions import Fusion, Prior
from learn.fewshot.fusions._shipped import encoders_of
from learn.fewshot.guard import Guarded, Worth
from learn.fewshot.heads import ExtraShotsHead, Head
from learn.fewshot.kept import Kept, queries_of
from learn.fewshot.metrics import Measured, measure
from learn.fewshot.sense_prior import Like, guard_prior, prior_of
from learn.fewshot.tasks import Episodes, draw_again
from learn.inference.selection import NONE, modalities_of, vectors_of, vectors_on
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
    fusions: Fusions  # by projection: of the modes that join senses
    features: Mapping[str, "Feature"]
    scored: EvaluationSet
    base: EvaluationSet | None
    draws: Sequence[Episodes]
    memory: int
    val: EvaluationSet | None  # of the same kind as `scored`, to choose settings on
    ids: frozenset[str]  # of the clips scored, as their stores have them
    device: torch.device = CPU  # where heads answer
    apart: EvaluationSet | None = None  # clips of classes that are not asked about
    guard: str = "off"  # of projections, by stored vectors: on, off or both
    # Projections with a way from names of classes, one more sense under the guard; and why these
    # are none, or "".
    named: Mapping[str, str] = field(default_factory=dict)
    # What names are worth by projection and mode, where classes of the store had to be asked.
    worths: dict[tuple[str, str], Worth] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)  # products that heads, shots and modes share
    _seen_by: dict[str, frozenset[str]] = field(default_factory=dict)  # clips, by sense

    @property
    def size(self) -> int:
        """The number of results."""
        return len(self.draws) * sum(
            len(self._ways(name, head, cell))
            for name, heads in self.heads.items()
            for cell in self.cells[name]
            for head in heads.items()
        )

    def results(self, ci: str) -> Iterator[Result]:
        """The results one by one; vectors are made once per projection, tables of products once for
        all heads and modes that see the clips alike."""
        tuning = self._tuning()
        for compared in self._compared(with_val=bool(tuning)):
            for spec, head in self.heads[compared.projection].items():
                for way in self._ways(compared.projection, (spec, head), compared.cell):
                    yield from self._of_head(compared, spec, head, way, tuning, ci)

    def compared(self) -> Iterator[Compared]:
        """Every projection's vectors under every pair of modes, as they are."""
        return self._compared(with_val=False)

    def _ways(self, projection: str, head: tuple[str, Head], cell: tuple[str, str]) -> list[Way]:
        """The ways to score a head of a projection in these modes."""
        fusions, run = self.fusions[projection], self.runs[projection]
        names = self.named.get(projection)
        return ways_for(fusions, run, head, cell, self.features, self.guard, names=names)

    def _of_head(
        self,
        compared: Compared,
        spec: str,
        head: Head,
        way: Way,
        tuning: Sequence[Episodes],
        ci: str,
    ) -> Iterator[Result]:
        """The results of one head in one way, draw by draw."""
        predictor, val = compared.predictors(
            head, way.kind, lambda episodes: self._prior(compared, head, way.kind, episodes),
            balanced=all(episodes.balanced for episodes in self.draws),
            queries=queries_of(self.draws),
            memory=self.memory, kept=self.kept,
        )  # fmt: skip
        for i, episodes in enumerate(self.draws):
            begun = time.monotonic()
            tuned = (tuning[i], val) if tuning and val else None
            measured = measure(self.scored.clips, episodes, predictor, tuned=tuned)
            seconds = round(time.monotonic() - begun, 3)
            weighed = compared.weighed(way, predictor, episodes, self.features)
            result = self._result(compared, spec, head, episodes, measured, ci, seconds, weighed)
            if measured.predictions is not None and episodes.measure == "accuracy":
                curve = calibration.of_episodes(episodes, predictor)
                result = replace(result, tally=replace(result.tally, calibration=curve))
            yield result

    def _prior(
        self, compared: Compared, head: Head, fusion: Fusion | None, episodes: Episodes
    ) -> Prior | None:
        """What each sense is taken to count before an episode's shots are looked at."""
        if fusion is None:
            return None
        if isinstance(fusion, Guarded):
            assert compared.stored is not None
            sides = (compared.stored, fusion.stored), (compared, fusion.projected)
            stored, projected = (self._prior(x, head, kind, episodes) for x, kind in sides)
            apart = compared.apart(self.apart, fusion)
            worth = compared.worth_of_names(self.apart, self.worths) if fusion.names else None
            return guard_prior(head, stored, projected, apart, Like.of(episodes), names=worth)
        encoders = encoders_of(self.features, compared.senses)
        apart = compared.apart(self.apart, fusion)
        return prior_of(fusion, head, encoders, apart, Like.of(episodes))

    def _compared(self, *, with_val: bool) -> Iterator[Compared]:
        """Every projection's vectors under every pair of modes that it can compare."""
        as_stored = None
        if self.guard != "off" and any(self.runs.values()):
            as_stored = self._vectors(None, with_val=with_val)
        for projection, run in self.runs.items():
            vectors, base, val = self._vectors(run, with_val=with_val)
            names = self._names(self.heads[projection].values(), run)
            names = None if names is None else names.to(self.device)
            for cell in self.cells[projection]:
                projected = Compared(
                    projection=projection,
                    cell=cell,
                    run=run,
                    vectors=vectors,
                    base=base,
                    val=val,
                    names=names,
                    caveats={
                        "untrained": self._untrained(cell),
                        "seen_in_training": len(self._seen(cell, run)),
                        "trained": modes.mode_of(run.features) if run else NONE,
                    },
                )
                if run is None or as_stored is None:
                    yield projected
                    continue
                bare, bare_base, bare_val = as_stored
                stored = replace(
                    projected, projection=NONE, run=None, vectors=bare, base=bare_base, val=bare_val
                )
                yield replace(projected, stored=stored, as_names=self._as_names(projection))

    def _as_names(self, projection: str) -> Float[Tensor, "V E"] | None:
        """The clips scored as the names of their classes."""
        run = self.runs[projection]
        if run is None or self.named.get(projection) != "":
            return None
        names = run.names_of_clips(self.scored.clips.class_ids, self.scored.clips.classes)
        return None if names is None else names.to(self.device)

    def _vectors(
        self, run: Run | None, *, with_val: bool
    ) -> tuple[
        Vectors,
        Mapping[str, Float[Tensor, "W _"]] | None,
        Mapping[str, Float[Tensor, "U _"]] | None,
    ]:
        """The vectors of the clips scored, of the train split and of the val split."""
        return (
            vectors_on(self.device, self.scored.rows, run),
            vectors_on(self.device, self.base.rows, run) if self.base else None,
            vectors_on(self.device, self.val.rows, run) if self.val and with_val else None,
        )

    def _result(
        self,
        compared: Compared,
        spec: str,
        head: Head,
        episodes: Episodes,
        measured: Measured,
        ci: str,
        seconds: float,
        weighed: Mapping[str, Any],
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
            seconds=seconds,
            transductive=head.transductive,
            centred_by=head.centred_by,
            metric=episodes.measure,
            parts=measured.parts,
            of_episodes=measured.of_episodes,
            tally=EMPTY if predictions is None else tally(clips, episodes, predictions),
            **compared.caveats,
            **weighed,
        )

    def _seen(self, cell: tuple[str, str], run: Run | None) -> frozenset[str]:
        """The clips scored that the projection was trained on, or an encoder that these modes look
        at. What queries of another store were to its encoders is not asked."""
        looked_at = modalities_of([cell])
        seen = run.trained_on & self.ids if run else frozenset()
        for name, feature in self.features.items():
            if modes.modality_of(name) in looked_at:
                seen |= self._seen_by_encoder(name, feature)
        return seen

    def _seen_by_encoder(self, name: str, feature: "Feature") -> frozenset[str]:
        if name not in self._seen_by:
            self._seen_by[name] = seen_by_encoder(feature, self.ids)
        return self._seen_by[name]

    def _untrained(self, cell: tuple[str, str]) -> bool:
        """Whether random weights made a feature that these modes look at."""
        looked_at = modalities_of([cell])
        return any(
            bool(feature.notes.get("untrained"))
            for name, feature in self.features.items()
            if modes.modality_of(name) in looked_at
        )

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
    answered = {cell for compared in cells_of.values() for cell in compared}
    for cell in cells:
        if cell not in answered:
            others = ",".join(dict.fromkeys(s for s, q in cells if (s, q) in answered and s == q))
            step = f"; leave that mode out: `support` {others}" if others else ""
            raise InputError(reasons[cell] + step)
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
            "'group', name one with `group`, or find them: learn groups STORE -o CSV, then "
            "`group_file` CSV"
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
        fusion=separated.fusion,
        shots=separated.shots,
        guarded=separated.accuracy,
        mixed=mixed.accuracy,
        inflation=mixed.accuracy - separated.accuracy,
        ci95=None if None in half_widths else hypot(*(half or 0.0 for half in half_widths)),
    )
