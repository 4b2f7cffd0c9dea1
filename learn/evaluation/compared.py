"""One projection's vectors under one pair of modes, as heads and fusions see them.

Shapes: V, W and U = clips, E = size of the common space, C = classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from learn.data.evaluation_set import EvaluationSet
from learn.evaluation.wording import NOT_ASKED
from learn.fewshot import modes
from learn.fewshot.fused import FusedPredictor, pairs_of
from learn.fewshot.fusions import DEFAULT, FAMILY, Fusion, Prior, senses_of
from learn.fewshot.guard import (
    NAMES,
    Guarded,
    GuardPrior,
    Worth,
    both_sides,
    of_senses,
    origin_of,
    refusal,
)
from learn.fewshot.heads import Context, Head
from learn.fewshot.heads._transform import Transform, known_of, taken_apart
from learn.fewshot.kept import Kept
from learn.fewshot.metrics import AnyPredictor, Predictor
from learn.fewshot.sense_prior import Apart
from learn.fewshot.tasks import Episodes
from learn.inference.seen_classes import seen_by, worth_of
from learn.inference.selection import vectors_of
from learn.training import own_head
from learn.training.runs import Run
from store import plugins
from store.errors import InputError

if TYPE_CHECKING:
    from store import Feature

BOTH = ("av", "av")  # the modes that always join senses
EARLY, LEARNED = "early", "learned"

Fusions = Mapping[str, Mapping[str, Fusion]]  # by projection and SPEC
Vectors = Mapping[str, Float[Tensor, "V _"]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
    """One projection's vectors of all clips under one pair of modes."""

    projection: str
    cell: tuple[str, str]  # modes of support and query
    run: Run | None
    vectors: Vectors  # of the clips scored
    base: Mapping[str, Float[Tensor, "W _"]] | None  # of the clips of the train split
    val: Mapping[str, Float[Tensor, "U _"]] | None
    names: Float[Tensor, "C E"] | None  # of the classes, where a head wants them
    caveats: Mapping[str, Any]  # what must be known of the vectors to quote a number
    stored: "Compared | None" = None  # the same clips as stored, where these are projected
    as_names: Float[Tensor, "V E"] | None = None  # the names of the scored clips' classes

    @property
    def senses(self) -> list[str]:
        """The senses that the pair of modes looks at."""
        return senses_of(modes.looked_at(self.vectors, self.cell[0]))

    @property
    def device(self) -> torch.device:
        """Where the vectors are, and heads answer."""
        return next(iter(self.vectors.values())).device

    def pairs(self, vectors: Vectors | None, fusion: Fusion | None) -> list[modes.Pair] | None:
        """Clips as support and as query: under a fusion in each of its views."""
        if not vectors:
            return None
        if fusion is None:
            found = [modes.pair(vectors, *self.cell, common=self.run is not None)]
        else:
            seen = vectors
            if not isinstance(fusion, Guarded):
                seen = modes.looked_at(vectors, self.cell[0])
            found = pairs_of(fusion, seen)
        return found if self.names is None else [pair.with_names(self.names) for pair in found]

    def seen(
        self, of: Callable[["Compared"], Vectors | None], fusion: Fusion | None
    ) -> Vectors | None:
        """Some clips' vectors; under the guard those of both sides."""
        own = of(self)
        if own is None or not isinstance(fusion, Guarded):
            return own
        assert self.stored is not None
        names = self.as_names if own is self.vectors and fusion.names else None
        return both_sides(own, of(self.stored), names)

    def predictors(
        self,
        head: Head,
        fusion: Fusion | None,
        prior: Callable[[Episodes], Prior | None],
        *,
        balanced: bool,
        queries: int,
        memory: int,
        kept: Kept,
    ) -> tuple[AnyPredictor, AnyPredictor | None]:
        """The head on the clips scored and on those of the val split."""
        every: tuple[Callable[[Compared], Vectors | None], ...] = (
            lambda x: x.vectors, lambda x: x.base, lambda x: x.val,
        )  # fmt: skip
        pairs, base, val = (self.pairs(self.seen(of, fusion), fusion) for of in every)
        assert pairs is not None
        contexts = [
            context_of(pair, None if base is None else base[i], balanced, head)
            for i, pair in enumerate(pairs)
        ]
        found: list[AnyPredictor | None] = []
        for chosen in (pairs, val):
            if chosen is None:
                found.append(None)
            elif fusion is None or len(chosen) == 1:
                found.append(
                    Predictor(
                        head=head, pair=chosen[0], context=contexts[0], queries=queries,
                        memory=memory, kept=kept,
                    )
                )  # fmt: skip
            else:
                found.append(
                    FusedPredictor(
                        head=head, fusion=fusion, pairs=chosen, contexts=contexts, prior_of=prior,
                        queries=queries, memory=memory, kept=kept,
                    )
                )  # fmt: skip
        assert found[0] is not None
        return found[0], found[1]

    def apart(self, clips: EvaluationSet | None, fusion: Fusion) -> Apart | None:
        """The classes that nobody asks about, seen as those scored are."""
        seen = seen_by(self.run, fusion, clips, self.device)
        if seen is None:
            return None
        pairs = self.pairs(seen.vectors, fusion)
        assert pairs is not None
        base = self.pairs(self.seen(lambda x: x.base, fusion), fusion)

        def contexts(head: Head) -> list[Context]:
            return [
                context_of(pair, None if base is None else base[i], head=head)
                for i, pair in enumerate(pairs)
            ]

        return Apart(clips=seen.clips.clips, pairs=pairs, contexts=contexts, unseen=seen.unseen)

    def worth_of_names(
        self, clips: EvaluationSet | None, known: dict[tuple[str, str], Worth]
    ) -> Worth:
        """What a class name is worth here in clips: by the run, or else by other classes."""
        assert self.run is not None
        key = self.projection, self.cell[0]
        if key not in known:
            known[key] = worth_of(self.run, self.cell[0], clips)
        return known[key]

    def weighed(
        self,
        way: "Way",
        predictor: AnyPredictor,
        episodes: Episodes,
        features: Mapping[str, "Feature"],
    ) -> dict[str, Any]:
        """The fusion and the guard of a result, and what they took each feature to count."""
        guard = "" if self.run is None else "on" if way.guarded else "off"
        found: dict[str, Any] = {
            "fusion": way.fusion, "weights": None, "prior": None, "guard": guard,
            "projected": {"from": way.reason} if way.reason else None,
        }  # fmt: skip
        if not isinstance(predictor, FusedPredictor):
            return found
        weights, prior = predictor.weights(episodes), predictor.prior(episodes)
        if weights is None or prior is None:
            return found
        if isinstance(prior, GuardPrior):
            count, rest = len(prior.stored.value), len(prior.projected.value)
            share = weights[:, count : count + rest].sum(1, dtype=np.float64)
            found["projected"] = {
                "mean": float(share.mean()), "sd": float(share.std()),
                "from": "; ".join(filter(None, (prior.sides.origin, way.reason))),
            }  # fmt: skip
        senses = of_senses(torch.from_numpy(weights).double(), prior)
        at_first = of_senses(torch.tensor([prior.value], dtype=torch.float64), prior)
        if senses is None or at_first is None:
            return found
        names = [features[name].name for name in self.senses]
        names += [NAMES] * (isinstance(prior, GuardPrior) and prior.names is not None)
        found["weights"] = {
            name: {"mean": float(w.mean()), "sd": float(w.std())}
            for name, w in zip(names, senses.numpy().T, strict=True)
        }
        value = dict(zip(names, at_first[0].tolist(), strict=True))
        origin = origin_of(prior)
        return {**found, "prior": {"value": value, "from": origin}}


def context_of(
    pair: modes.Pair,
    base: modes.Pair | None,
    balanced: bool = True,
    head: Head | None = None,
) -> Context:
    """The facts about these clips that a head may use beside the support."""
    known = replace(known_of(pair.support, pair.modality_dims), balanced=balanced)
    transform = Transform() if head is None else taken_apart(head)[1]
    transform = transform.settled(known, pair.support)
    return replace(
        known,
        support_mean=None if base is None else transform.raised(base.support).mean(0),
        query_mean=None if base is None else transform.raised(base.query).mean(0),
    )


def fusions_of(
    asked: Sequence[str],
    runs: Mapping[str, Run | None],
    cells: Mapping[str, Sequence[tuple[str, str]]],
    scored: EvaluationSet,
) -> Fusions:
    """The fusions by which each projection joins senses, tried on one clip.

    Raises:
        InputError: one asked for fits no projection, or joins nothing that is asked about.
        ConfigError: an unknown fusion or setting.
    """
    built = {spec: plugins.build(FAMILY, spec) for spec in dict.fromkeys(asked or (DEFAULT,))}
    learned: Fusion = plugins.build(FAMILY, LEARNED)
    first = scored.keep(np.arange(len(scored.clips)) < 1)
    found, lacking = dict[str, dict[str, Fusion]](), dict[str, str]()
    for projection, run in runs.items():
        found[projection] = {}
        if not any(joins(cell, scored.rows) for cell in cells[projection]):
            continue
        vectors = vectors_of(first.rows, run)
        offered = built if asked or learned.lacks(vectors) else {LEARNED: learned}
        for spec, fusion in offered.items():
            if need := fusion.lacks(vectors):
                lacking[spec] = need
            else:
                found[projection][spec] = fusion
    for spec in asked:
        if not any(spec in of_run for of_run in found.values()):
            raise InputError(
                f"fusion {spec} fits none of the projections asked about: it needs {lacking[spec]}"
                if spec in lacking
                else f"fusion {spec} joins what several features tell, as in mode av, and each "
                "mode asked about looks at one"
            )
    return found


def joins(cell: tuple[str, str], senses: Iterable[str]) -> bool:
    """Whether a pair of modes looks at several senses at once, the same on both sides."""
    several = len(modes.senses_in(cell[0], senses)) > 1
    return cell == BOTH or (cell[0] == cell[1] and several)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """One way in which a head sees a projection's clips in a pair of modes."""

    fusion: str  # the SPEC of what joins senses; "" where nothing is joined
    kind: Fusion | None
    guarded: bool = False  # are stored vectors beside the projection's?
    reason: str = ""  # why they, or names of classes, are not, where somebody might expect it


def ways_for(
    fusions: Mapping[str, Fusion],
    run: Run | None,
    head: tuple[str, Head],
    cell: tuple[str, str],
    senses: Iterable[str],
    guard: str,
    *,
    names: str | None = None,
) -> list[Way]:
    """The ways to score a head (SPEC and built) in these modes: by every fusion, and of a
    projection guarded, bare or both. Of one that knows a way from names of classes, `names` is why
    these are no sense, or ""."""
    spec, built = head
    joined = joins(cell, senses)
    kinds: dict[str, Fusion | None] = dict(fusions) if joined else {"": None}
    if joined and spec == own_head.NAME and fusions.keys() == {DEFAULT}:
        kinds = {EARLY: plugins.build(FAMILY, EARLY)}  # as senses were joined in its training
    found = []
    for name, kind in kinds.items():
        if run is None:
            found.append(Way(fusion=name, kind=kind))
            continue
        why = _unguarded(built, spec, cell, kind)
        if guard != "off" and not why:
            beside = plugins.build(FAMILY, DEFAULT) if name == LEARNED else kind
            both = Guarded(cell[0], beside, kind, names=names == "")
            nameless = f"{NAMES} are not used: {names}" if names else ""
            found.append(Way(fusion=name, kind=both, guarded=True, reason=nameless))
        if guard != "on" or why:
            found.append(Way(fusion=name, kind=kind, reason=why or NOT_ASKED))
    return found


def _unguarded(head: Head, spec: str, cell: tuple[str, str], fusion: Fusion | None) -> str:
    """Why stored vectors can't stand beside projected ones; "" where they can."""
    if cell[0] != cell[1]:
        return "stored vectors of two modes have no common space"
    if spec == own_head.NAME:
        return "the run's own head sees its network alone"
    return refusal(head, fusion)
