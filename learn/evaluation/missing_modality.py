"""`learn episodes --drop`: accuracy as more and more of the queries lack a modality.

The shots have all. A random order of the clips decides which lose it first, so that a clip without
it at one rate has none at higher ones, and curves of heads, fills and fusions are paired.

    fusion  early      all vectors joined, each scaled to length 1, for one head
            late       a head for each; the mean of their scores, each in units of the spread that
                       it gives the shots themselves
            learned    the one vector that a network makes of sight and sound
            weighted   all vectors joined as the shots weigh them, from what is known of the
                       encoders
    fill    zero       zeros: the vector's in early and late fusion, a row's before a network
            mean       the mean of all clips of the train split, where it is apart, else of those
                       scored
            retrieved  what the nearest clip by the other modalities has: of the train split, or
                       else of the clips scored that are of other sources
            token      nothing: the network puts there what it learned to (learned fusion)
            ignored    nothing: the others answer alone (late and weighted fusion)

Shapes: V = clips, W = clips to fill from, D = size of a vector, E = episodes, M = queries.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from learn.data.clips import Clips
from learn.data.evaluation_set import EvaluationSet
from learn.data.rows import Rows, concatenated
from learn.evaluation.compared import context_of
from learn.evaluation.drop import FILLS, FUSIONS, OF_MODE, UNASKED
from learn.evaluation.drop import Drop as Drop
from learn.fewshot import modes as views
from learn.fewshot import statistics
from learn.fewshot.fusions import FAMILY, Fusion
from learn.fewshot.fusions._shipped import Encoder, shipped
from learn.fewshot.heads import Context, Head
from learn.fewshot.kept import queries_of
from learn.fewshot.scoring import Score, accuracies, by_fusion, scorer
from learn.fewshot.tasks import Episodes
from learn.inference.selection import vectors_of
from learn.training.runs import Run
from store import plugins
from store.errors import InputError

ONLY = {"token": ("learned",), "ignored": ("late", "weighted")}  # fills of some fusions
BY_SENSE = ("late", "weighted")  # fusions that see each modality by itself
NUMBERS_AT_ONCE = 8_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """The accuracy at one rate of missing clips: a point of a curve."""

    head: str
    projection: str
    fusion: str
    fill: str
    dropped: str  # the mode: v, a or t
    rate: float
    dropped_clips: int
    filled_from: str  # train, scored, or "" where a fill needs no other clips
    shots: int
    accuracy: float
    ci95: float | None

    def to_dict(self) -> dict[str, Any]:
        """The point as JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gaps:
    """Clips with every modality under one projection, and the clips to fill from."""

    scored: EvaluationSet
    base: EvaluationSet | None
    run: Run | None
    seed: int
    whole: Mapping[str, Float[Tensor, "V _"]]
    source: Mapping[str, Float[Tensor, "W _"]]

    @classmethod
    def of(
        cls, scored: EvaluationSet, base: EvaluationSet | None, run: Run | None, seed: int
    ) -> "Gaps":
        """The vectors of both sets of clips under a run."""
        whole = vectors_of(scored.rows, run)
        source = vectors_of(base.rows, run) if base else whole
        return cls(scored=scored, base=base, run=run, seed=seed, whole=whole, source=source)

    @property
    def fusions(self) -> tuple[str, ...]:
        """The fusions that these vectors allow."""
        every = set(self.scored.rows) <= set(self.whole)
        joint = self.mode in self.whole
        return tuple(name for name in FUSIONS if (joint if name == "learned" else every))

    @property
    def mode(self) -> str:
        """The mode that looks at every modality."""
        return views.mode_of(self.scored.rows)

    @property
    def singles(self) -> list[str]:
        """The modes that look at one modality each, in the order of the senses."""
        return [views.MODE_OF[sense] for sense in self.scored.rows]

    def lost(self, rate: float) -> Bool[np.ndarray, "V"]:
        """A mask of the clips that lack the modality."""
        order = np.random.default_rng(self.seed).permutation(len(self.scored.clips))
        return np.argsort(order) < round(rate * len(order))

    def queries(
        self, fusion: str, fill: str, modality: str, lost: Bool[np.ndarray, "V"]
    ) -> dict[str, Float[Tensor, "V _"]]:
        """Vectors of every clip, with the modality filled in where it is `lost`."""
        if not lost.any() or fill == "ignored":
            return dict(self.whole)
        if fusion == "learned":
            return vectors_of(self._rows(fill, modality, lost), self.run)
        stored, where = self.whole[modality], torch.from_numpy(lost)
        if fill == "zero":
            stand_in = torch.zeros_like(stored)
        elif fill == "mean":
            stand_in = self.source[modality].mean(0).expand_as(stored)
        else:
            near = nearest(self.whole, self.source, modality, self.scored.clips, self.base)
            stand_in = self.source[modality][near]
        return {**self.whole, modality: torch.where(where[:, None], stand_in, stored)}

    def _rows(self, fill: str, modality: str, lost: Bool[np.ndarray, "V"]) -> dict[str, Rows]:
        """Rows of every clip, with the modality filled in where it is `lost`: learned fusion."""
        own, source = self.scored.rows[modality], self.base or self.scored
        where = torch.from_numpy(lost)
        if fill == "retrieved":
            of_own, of_source = (
                {m: rows.means() for m, rows in clips.rows.items()}
                for clips in (self.scored, source)
            )
            stand_in = source.rows[modality]
            near = nearest(of_own, of_source, modality, self.scored.clips, self.base)
        else:
            mean = source.rows[modality].means().mean(0) * (fill == "mean")
            row = 0 if fill == "token" else 1
            stand_in = Rows(
                values=mean[None].half()[:row],
                offsets=torch.tensor([0, row]),
                seconds=torch.zeros(row),
            )
            near = torch.zeros(len(own), dtype=torch.int64)
        indices = torch.where(where, len(own) + near, torch.arange(len(own)))
        return {**self.scored.rows, modality: _picked(own, stand_in, indices)}


def nearest(
    vectors: Mapping[str, Float[Tensor, "V _"]],
    source: Mapping[str, Float[Tensor, "W _"]],
    missing: str,
    clips: Clips,
    base: EvaluationSet | None,
) -> Int64[Tensor, "V"]:
    """The index of the source clip most like each clip in the other modalities, by the sum of their
    cosines; among the clips scored themselves only those of other groups."""
    shared = [m for m in OF_MODE.values() if m in vectors and m != missing]
    q, g = (
        torch.cat([F.normalize(x[m].float(), dim=-1) for m in shared], 1) for x in (vectors, source)
    )
    own = np.arange(len(clips)) if clips.groups is None else clips.groups
    groups = torch.from_numpy(np.asarray(own, np.int64))
    chunks = []
    for indices in torch.split(torch.arange(len(q)), max(1, NUMBERS_AT_ONCE // len(g))):
        like = q[indices] @ g.T
        if base is None:
            like = like.masked_fill(groups[indices][:, None] == groups, -torch.inf)
        chunks.append(like.argmax(1))
    return torch.cat(chunks)


def _picked(own: Rows, stand_in: Rows, indices: Int64[Tensor, "V"]) -> Rows:
    """The rows of clips by their indices in both, one after the other."""
    both = concatenated([own, stand_in])
    starts, counts = both.offsets[:-1][indices], both.offsets.diff()[indices]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    row = torch.arange(int(offsets[-1])) + (starts - offsets[:-1]).repeat_interleave(counts)
    return Rows(values=both.values[row], offsets=offsets, seconds=both.seconds[row])


def curves(
    drop: Drop,
    *,
    heads: Mapping[str, Mapping[str, Head]],
    runs: Mapping[str, Run | None],
    scored: EvaluationSet,
    base: EvaluationSet | None,
    draws: Sequence[Episodes],
    ci: str,
    encoders: Sequence[Encoder],
) -> Iterator[Missing]:
    """Every head × projection × fusion × fill × modality × rate × shots; refused at once or never.

    Raises:
        InputError: a fusion or fill that no projection allows.
    """
    gaps = {name: Gaps.of(scored, base, run, drop.seed) for name, run in runs.items()}
    plans = {name: _plan(drop, of_run.fusions) for name, of_run in gaps.items()}
    if not any(plans.values()) and not drop.fusions and not drop.fills:
        raise InputError("`drop` needs a projection of all modalities in play, or stored vectors")
    for kind, asked in (("fusion", drop.fusions), ("fill", drop.fills)):
        done = {pair[kind == "fill"] for plan in plans.values() for pair in plan}
        if never := [word for word in asked if word not in done]:
            raise InputError(
                f"{kind} {never[0]!r} fits none of the projections asked about; learned fusion and "
                "its token need a run of a network that makes one vector of both: learn train DIR "
                "--recipe missing_modality -o RUN"
            )
    return (
        point
        for projection, of_run in gaps.items()
        for spec, head in heads[projection].items()
        for fusion, fill in plans[projection]
        for mode in drop.modes
        for point in _Curve(
            spec=spec, head=head, projection=projection, gaps=of_run, fusion=fusion, fill=fill,
            mode=mode, draws=draws, ci=ci, encoders=encoders,
        ).points(drop.rates)
    )  # fmt: skip


def _plan(drop: Drop, possible: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of fusion and fill to score."""
    return [
        (fusion, fill)
        for fusion in possible
        for fill in drop.fills or FILLS
        if fusion in (drop.fusions or UNASKED) and fusion in ONLY.get(fill, FUSIONS)
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Curve:
    """The curve of one head under one projection as one modality goes missing."""

    spec: str
    head: Head
    projection: str
    gaps: Gaps
    fusion: str
    fill: str
    mode: str  # that goes missing
    draws: Sequence[Episodes]
    ci: str
    encoders: Sequence[Encoder]  # of every modality, which tell where weights begin

    def points(self, rates: Sequence[float]) -> Iterator[Missing]:
        """A point for every rate and number of shots."""
        for rate in dict.fromkeys(rates):
            lost = self.gaps.lost(rate)
            score = self._score(lost)
            for draw in self.draws:
                yield self._point(draw, accuracies(draw, score(draw)), rate, int(lost.sum()))

    def _point(
        self, draw: Episodes, accuracy: Float64[np.ndarray, "E"], rate: float, clips: int
    ) -> Missing:
        source = "train" if self.gaps.base else "scored"
        return Missing(
            head=self.spec,
            projection=self.projection,
            fusion=self.fusion,
            fill=self.fill,
            dropped=self.mode,
            rate=rate,
            dropped_clips=clips,
            filled_from=source if self.fill in ("mean", "retrieved") else "",
            shots=draw.shots,
            accuracy=float(accuracy.mean()),
            ci95=statistics.ci95(accuracy, self.ci),
        )

    def _score(self, lost: Bool[np.ndarray, "V"]) -> Score:
        """The scores of the head for whole shots and filled queries."""
        modality = OF_MODE[self.mode]
        filled = self.gaps.queries(self.fusion, self.fill, modality, lost)
        ignored = modality if self.fill == "ignored" else ""
        pairs, contexts, weights = [], [], []
        modes = self.gaps.singles if self.fusion in BY_SENSE else [self.gaps.mode]
        for mode in modes:
            pair, context = self._seen_in(mode, filled)
            lacking = torch.from_numpy(lost & (OF_MODE.get(mode) == ignored))
            pairs.append(pair)
            contexts.append(context)
            weights.append(1.0 - lacking.float())
        if self.fusion in BY_SENSE:
            kind: Fusion = plugins.build(FAMILY, self.fusion)
            prior = shipped(self.encoders)
            if self.fusion == "weighted":  # a sense that is lacking is none of a fusion's
                whole = [torch.ones_like(weight) for weight in weights]
                fused = by_fusion(kind, self.head, pairs, contexts, whole, prior)
                if not ignored or not lost.any():
                    return fused
                kept = [i for i, m in enumerate(modes) if OF_MODE[m] != ignored]
                return _either(self._without(kind, kept, pairs, contexts, whole), fused, lost)
            return by_fusion(kind, self.head, pairs, contexts, weights, prior)
        return scorer(self.head, pairs[0], contexts[0], queries=queries_of(self.draws))

    def _without(
        self, kind: Fusion, kept: Sequence[int], pairs: Sequence[views.Pair],
        contexts: Sequence[Context], weights: Sequence[Float[Tensor, "V"]],
    ) -> Score:  # fmt: skip
        """What the senses that are left say, joined if there are several."""
        if len(kept) == 1:
            (i,) = kept
            return scorer(self.head, pairs[i], contexts[i], queries=queries_of(self.draws))
        return by_fusion(
            kind, self.head, [pairs[i] for i in kept], [contexts[i] for i in kept],
            [weights[i] for i in kept], shipped([self.encoders[i] for i in kept]),
        )  # fmt: skip

    def _seen_in(
        self, mode: str, filled: Mapping[str, Float[Tensor, "V _"]]
    ) -> tuple[views.Pair, Context]:
        """Whole shots and filled queries in one mode, with the context of heads."""
        gaps, common = self.gaps, self.gaps.run is not None
        support, query, base = (
            views.pair(_of_fusion(vectors, self.fusion), mode, mode, common=common)
            for vectors in (gaps.whole, filled, gaps.source)
        )
        pair = views.Pair(
            support=support.support, query=query.query, modality_dims=support.modality_dims
        )
        balanced = all(draw.balanced for draw in self.draws)
        return pair, context_of(pair, base if gaps.base else None, balanced, self.head)


def _either(first: Score, second: Score, where: Bool[np.ndarray, "V"]) -> Score:
    """The first's predictions for these clips, and the second's for all others."""

    def score(episodes: Episodes) -> np.ndarray:
        return np.where(where[episodes.query], first(episodes), second(episodes))

    return score


def _of_fusion(
    vectors: Mapping[str, Float[Tensor, "V _"]], fusion: str
) -> dict[str, Float[Tensor, "V _"]]:
    """The vectors that a fusion uses: a network's one only where it is learned fusion."""
    return {n: x for n, x in vectors.items() if fusion == "learned" or n not in views.MODES}
