"""`learn episodes --drop`: accuracy as more and more of the queries lack a modality.

The shots have both. A random order of the clips decides which lose it first, so that a clip without
it at one rate has none at higher ones, and curves of heads, fills and fusions are paired.

    fusion  early      both vectors joined, each scaled to length 1, for one head
            late       a head for each; the mean of their scores, each in units of the spread that
                       it gives the shots themselves
            learned    the one vector that a network makes of both
    fill    zero       zeros: the vector's in early and late fusion, a row's before a network
            mean       the mean of all clips of the train split, where it is apart, else of those
                       scored
            retrieved  what the nearest clip by the other modality has: of the train split, or else
                       of the clips scored that are of other sources
            token      nothing: the network puts there what it learned to (learned fusion)
            ignored    nothing: the other modality's head answers alone (late fusion)

Shapes: V = clips, W = clips to fill from, D = size of a vector, E = episodes, M = queries.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from learn.data.clips import Clips, Rows, concatenated
from learn.evaluation.evaluation_set import EvaluationSet
from learn.fewshot import modes as views
from learn.fewshot import statistics
from learn.fewshot.heads import Context, Head
from learn.fewshot.scoring import Score, accuracies, by_late_fusion, scorer
from learn.fewshot.tasks import Episodes
from learn.inference.selection import vectors_of
from learn.training.runs import Run
from store.errors import ConfigError, InputError, choices

FUSIONS = ("early", "late", "learned")
FILLS = ("zero", "mean", "retrieved", "token", "ignored")
ONLY = {"token": "learned", "ignored": "late"}  # fills of one fusion
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
NUMBERS_AT_ONCE = 8_000_000
OF_MODE = {"v": "visual", "a": "audio"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Which modalities go missing, of how many clips, and what stands for them.

    Raises:
        ConfigError: a word that is none of those above, or a rate that is no share.
    """

    modes: Sequence[str] = ()
    rates: Sequence[float] = RATES
    fills: Sequence[str] = ()  # none: all that a fusion allows
    fusions: Sequence[str] = ()  # none: all that a projection allows
    seed: int = 0

    def __post_init__(self) -> None:
        for words, known in (
            (self.modes, tuple(OF_MODE)),
            (self.fills, FILLS),
            (self.fusions, FUSIONS),
        ):
            for word in words:
                if word not in known:
                    raise ConfigError(f"--drop: no {word!r}; there are {choices(word, known)}")
        if not self.rates or not all(0 <= rate <= 1 for rate in self.rates):
            raise ConfigError(f"--drop-rates {list(self.rates)}: name shares from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One point of a curve."""

    head: str
    projection: str
    fusion: str
    fill: str
    dropped: str  # v or a
    rate: float
    dropped_clips: int
    filled_from: str  # train, scored, or "" where a fill needs no other clips
    shots: int
    accuracy: float
    ci95: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gaps:
    """Clips with both modalities under one projection, and the clips to fill from."""

    side: EvaluationSet
    base: EvaluationSet | None
    run: Run | None
    seed: int
    whole: Mapping[str, Float[Tensor, "V _"]]
    source: Mapping[str, Float[Tensor, "W _"]]

    @classmethod
    def of(
        cls, side: EvaluationSet, base: EvaluationSet | None, run: Run | None, seed: int
    ) -> "Gaps":
        whole = vectors_of(side.rows, run)
        source = vectors_of(base.rows, run) if base else whole
        return cls(side=side, base=base, run=run, seed=seed, whole=whole, source=source)

    @property
    def fusions(self) -> tuple[str, ...]:
        both = set(OF_MODE.values()) <= set(self.whole)
        return tuple(one for one in FUSIONS if ("av" in self.whole if one == "learned" else both))

    def lost(self, rate: float) -> Bool[np.ndarray, "V"]:
        """Which clips lack the modality."""
        order = np.random.default_rng(self.seed).permutation(len(self.side.clips))
        return np.argsort(order) < round(rate * len(order))

    def queries(
        self, fusion: str, fill: str, modality: str, lost: Bool[np.ndarray, "V"]
    ) -> dict[str, Float[Tensor, "V _"]]:
        """Vectors of every clip, where `lost` with something else in the place of a modality."""
        if not lost.any() or fill == "ignored":
            return dict(self.whole)
        if fusion == "learned":
            return vectors_of(self._rows(fill, modality, lost), self.run)
        own, where = self.whole[modality], torch.from_numpy(lost)
        if fill == "zero":
            other = torch.zeros_like(own)
        elif fill == "mean":
            other = self.source[modality].mean(0).expand_as(own)
        else:
            near = nearest(self.whole, self.source, modality, self.side.clips, self.base)
            other = self.source[modality][near]
        return {**self.whole, modality: torch.where(where[:, None], other, own)}

    def _rows(self, fill: str, modality: str, lost: Bool[np.ndarray, "V"]) -> dict[str, Rows]:
        """The same before a network: rows of which it makes its vector."""
        own, side = self.side.rows[modality], self.base or self.side
        where = torch.from_numpy(lost)
        if fill == "retrieved":
            of_own, of_source = (
                {m: rows.means() for m, rows in one.rows.items()} for one in (self.side, side)
            )
            stand_in = side.rows[modality]
            near = nearest(of_own, of_source, modality, self.side.clips, self.base)
        else:
            mean = side.rows[modality].means().mean(0) * (fill == "mean")
            row = 0 if fill == "token" else 1
            stand_in = Rows(
                values=mean[None].half()[:row],
                offsets=torch.tensor([0, row]),
                seconds=torch.zeros(row),
            )
            near = torch.zeros(len(own), dtype=torch.int64)
        places = torch.where(where, len(own) + near, torch.arange(len(own)))
        return {**self.side.rows, modality: _picked(own, stand_in, places)}


def nearest(
    vectors: Mapping[str, Float[Tensor, "V _"]],
    source: Mapping[str, Float[Tensor, "W _"]],
    missing: str,
    clips: Clips,
    base: EvaluationSet | None,
) -> Int64[Tensor, "V"]:
    """For each clip the source clip most like it in the other modality, by cosine; among the clips
    scored themselves only those of other sources."""
    (other,) = set(OF_MODE.values()) - {missing}
    q, g = (F.normalize(x[other].float(), dim=-1) for x in (vectors, source))
    own = np.arange(len(clips)) if clips.groups is None else clips.groups
    groups = torch.from_numpy(np.asarray(own, np.int64))
    found = []
    for part in torch.split(torch.arange(len(q)), max(1, NUMBERS_AT_ONCE // len(g))):
        like = q[part] @ g.T
        if base is None:
            like = like.masked_fill(groups[part][:, None] == groups, -torch.inf)
        found.append(like.argmax(1))
    return torch.cat(found)


def _picked(one: Rows, other: Rows, places: Int64[Tensor, "V"]) -> Rows:
    """The rows of clips named by their places in both, one after the other."""
    both = concatenated([one, other])
    starts, counts = both.offsets[:-1][places], both.offsets.diff()[places]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    row = torch.arange(int(offsets[-1])) + (starts - offsets[:-1]).repeat_interleave(counts)
    return Rows(values=both.values[row], offsets=offsets, seconds=both.seconds[row])


def curves(
    drop: Drop,
    *,
    heads: Mapping[str, Mapping[str, Head]],
    runs: Mapping[str, Run | None],
    side: EvaluationSet,
    base: EvaluationSet | None,
    draws: Sequence[Episodes],
    ci: str,
) -> Iterator[Missing]:
    """Every head × projection × fusion × fill × modality × rate × shots; refused at once or never.

    Raises:
        InputError: a fusion or fill that no projection allows.
    """
    if missing := sorted(set(OF_MODE.values()) - set(side.rows)):
        raise InputError(f"--drop needs visual and audio features in play; {missing[0]} is not")
    gaps = {name: Gaps.of(side, base, run, drop.seed) for name, run in runs.items()}
    plans = {name: _plan(drop, one.fusions) for name, one in gaps.items()}
    if not any(plans.values()) and not drop.fusions and not drop.fills:
        raise InputError("--drop needs a projection of both modalities, or stored vectors of both")
    for kind, asked in (("fusion", drop.fusions), ("fill", drop.fills)):
        done = {pair[kind == "fill"] for plan in plans.values() for pair in plan}
        if never := [one for one in asked if one not in done]:
            raise InputError(
                f"{kind} {never[0]!r} fits none of the projections asked about; learned fusion and "
                "its token need a run of a network that makes one vector of both: learn train DIR "
                "--recipe missing_modality -o RUN"
            )
    return (
        point
        for projection, one in gaps.items()
        for named in heads[projection].items()
        for fusion, fill in plans[projection]
        for mode in drop.modes
        for point in _curve(drop, one, named, projection, fusion, fill, mode, draws, ci)
    )


def _plan(drop: Drop, able: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of fusion and fill."""
    return [
        (fusion, fill)
        for fusion in able
        for fill in drop.fills or FILLS
        if fusion in (drop.fusions or FUSIONS) and ONLY.get(fill, fusion) == fusion
    ]


def _curve(
    drop: Drop,
    gaps: Gaps,
    named: tuple[str, Head],
    projection: str,
    fusion: str,
    fill: str,
    mode: str,
    draws: Sequence[Episodes],
    ci: str,
) -> Iterator[Missing]:
    modality, (spec, head) = OF_MODE[mode], named
    source = "train" if gaps.base else "scored"
    for rate in dict.fromkeys(drop.rates):
        lost = gaps.lost(rate)
        filled = gaps.queries(fusion, fill, modality, lost)
        ignored = modality if fill == "ignored" else ""
        score = _score(head, gaps, fusion, filled, lost, ignored, draws)
        for draw in draws:
            right = accuracies(draw, score(draw))
            yield Missing(
                head=spec,
                projection=projection,
                fusion=fusion,
                fill=fill,
                dropped=mode,
                rate=rate,
                dropped_clips=int(lost.sum()),
                filled_from=source if fill in ("mean", "retrieved") else "",
                shots=draw.shots,
                accuracy=float(right.mean()),
                ci95=statistics.ci95(right, ci),
            )


def _score(
    head: Head,
    gaps: Gaps,
    fusion: str,
    filled: Mapping[str, Float[Tensor, "V _"]],
    lost: Bool[np.ndarray, "V"],
    ignored: str,
    draws: Sequence[Episodes],
) -> Score:
    """What the head answers where the shots are whole and the queries are `filled`."""
    common, whole = gaps.run is not None, gaps.whole
    pairs, contexts, shares = [], [], []
    for mode in ("v", "a") if fusion == "late" else ("av",):
        support, query, base = (
            views.pair(_of_fusion(x, fusion), mode, mode, common=common)
            for x in (whole, filled, gaps.source)
        )
        pairs.append(
            views.Pair(
                support=support.support, query=query.query, modality_dims=support.modality_dims
            )
        )
        mean = base.support.mean(0) if gaps.base else None
        contexts.append(
            Context(
                modality_dims=support.modality_dims,
                support_mean=mean,
                query_mean=mean,
                origin=support.support.mean(0),
                balanced=all(draw.balanced for draw in draws),
            )
        )
        gone = torch.from_numpy(lost & (OF_MODE.get(mode) == ignored))
        shares.append(1.0 - gone.float())
    if fusion == "late":
        return by_late_fusion(head, pairs, contexts, shares)
    queries = sum(draw.query.size for draw in draws)
    return scorer(head, pairs[0], contexts[0], queries=queries)


def _of_fusion(
    vectors: Mapping[str, Float[Tensor, "V _"]], fusion: str
) -> dict[str, Float[Tensor, "V _"]]:
    """Without the vector of both where it is not asked for: views would take it for av."""
    return {name: x for name, x in vectors.items() if fusion == "learned" or name != "av"}
