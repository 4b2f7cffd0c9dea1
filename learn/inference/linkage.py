"""Groups of clips from how alike pairs of them are, by distances that each clip's own surroundings
set.

A similarity says nothing across encoders, nor across a collection: singing heads lie closer than
landscapes. So the distance of two clips (1 - cosine) is set against how far the twelfth nearest
clip is from either, which is beyond most sources: where it is `RATIO` of that or less, they are
copies (Lowe's ratio, of clips). A source of more than a dozen clips would be its own surroundings;
so no clip's surroundings are taken to be nearer than four deviations above what clips of different
sources are to each other. That is measured: of some clips the nearest among 4 to 32 others drawn at
random is found, and how its median grows with their number (as the largest of n normal numbers
does) says what it is among all.

Pairs are joined the nearest first (single linkage). A join holds only if enough of the pairs across
it are near too, so that no chain of neighbours becomes a group.

Shapes: V = clips known to a sense, C = all clips, P = near pairs, Q = other pairs.
Source: Lowe, IJCV 2004 (the ratio of distances).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from learn.inference.links import candidates, similarity
from learn.inference.signatures import Signatures

RATIO = 0.6
BEYOND = 12  # the neighbour that is beyond a clip's source
PROBES = 300  # clips whose nearest among others is looked at
BESIDE = (4, 8, 16, 32)  # others drawn for each of them: few, so that few are of its own source
DEVIATIONS = 4.0
DEVIATION = 0.16  # the quantile that lies a deviation below the median of a normal distribution
LEAST_DEVIATION = 0.01
ACROSS = 6  # clips on either side of a join that are compared
RATIO_ACROSS, SHARE_ACROSS = 0.85, 0.25  # of these pairs that must be that near


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """The cosine of clips and the nearest clip of another source."""

    median: float
    deviation: float  # on the side that copies do not touch
    ratio: float = RATIO

    @property
    def limit(self) -> float:
        """The cosine above which a clip's twelfth neighbour is taken to be its copy too."""
        return min(self.median + DEVIATIONS * self.deviation, 0.9)

    def to_dict(self) -> dict[str, Any]:
        """The background as JSON has it."""
        return {**asdict(self), "limit": self.limit}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sense:
    """Clips as one sense knows them: signatures, surroundings, and the pairs that are near."""

    of: Signatures
    around: Float[np.ndarray, "V"]
    background: Background
    pairs: Int64[np.ndarray, "P 2"]  # of clips, as positions among all
    ratios: Float[np.ndarray, "P"]
    place: Int64[np.ndarray, "C"]  # of each clip of all among the signatures; -1: it has none

    def ratios_of(self, pairs: Int[np.ndarray, "Q 2"]) -> Float[np.ndarray, "Q"]:
        """The distance of each pair of clips, of what their surroundings are away; infinite where
        one is not known to this sense."""
        own = self.place[pairs]
        known = (own >= 0).all(axis=1)
        found = np.full(len(pairs), np.inf)
        found[known] = _ratios(similarity(self.of, own[known]), own[known], self.around)
        return found


def sense(of: Signatures, clips: int, ratio: float = RATIO, seed: int = 0) -> Sense:
    """The pairs of clips, of so many, that are near in one sense."""
    pairs = candidates(of)
    alike = similarity(of, pairs)
    background = background_of(of, ratio, seed)
    around = _around(pairs, alike, len(of), background)
    ratios = _ratios(alike, pairs, around)
    near = ratios <= ratio
    place = np.full(clips, -1)
    place[of.clips] = np.arange(len(of))
    return Sense(
        of=of, around=around, background=background, pairs=of.clips[pairs[near]],
        ratios=ratios[near], place=place,
    )  # fmt: skip


def joined(
    clips: int, same: Iterable[Sequence[int]], senses: Sequence[Sense], seed: int = 0
) -> Int64[np.ndarray, "C"]:
    """The number of each clip's group, or -1: sets of clips that are the `same` for certain, and
    those that pairs of any sense join, the nearest first."""
    rng = np.random.default_rng(seed)
    members: dict[int, list[int]] = {}

    def join(a: int, b: int, *, certain: bool) -> None:
        left, right = members.setdefault(a, [a]), members.setdefault(b, [b])
        if left is right or not (certain or _holds(left, right, senses, rng)):
            return
        left, right = (left, right) if len(left) >= len(right) else (right, left)
        left.extend(right)
        for clip in right:
            members[clip] = left

    for first, *others in same:
        for other in others:
            join(first, other, certain=True)
    nothing = np.empty((0, 2), np.int64), np.empty(0)
    pairs, ratios = (
        np.concatenate(x) for x in zip(nothing, *((s.pairs, s.ratios) for s in senses), strict=True)
    )
    for a, b in pairs[np.argsort(ratios, kind="stable")].tolist():
        join(a, b, certain=False)
    number = np.full(clips, -1)
    groups = {id(group): sorted(group) for group in members.values() if len(group) > 1}
    for i, group in enumerate(sorted(groups.values())):
        number[group] = i
    return number


def _holds(
    left: list[int], right: list[int], senses: Sequence[Sense], rng: np.random.Generator
) -> bool:
    """Whether enough pairs across a join are near in some sense; always between single clips."""
    if len(left) == len(right) == 1:
        return True
    sides = [
        rng.permutation(side)[:ACROSS] if len(side) > ACROSS else side for side in (left, right)
    ]
    across = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2)
    ratios = np.min([own.ratios_of(across) for own in senses], axis=0)
    return float((ratios <= RATIO_ACROSS).mean()) >= SHARE_ACROSS


def background_of(of: Signatures, ratio: float = RATIO, seed: int = 0) -> Background:
    """The background, from some clips and the nearest of a few others, carried on to all clips."""
    from scipy.special import ndtri

    rng = np.random.default_rng(seed)
    clips = len(of)
    most = min(BESIDE[-1], clips - 1)
    probes = rng.permutation(clips)[:PROBES]
    others = np.stack([rng.permutation(clips - 1)[:most] for _ in probes])
    others += others >= probes[:, None]
    alike = similarity(of, np.stack([np.repeat(probes, most), others.ravel()], axis=1))
    nearest = np.maximum.accumulate(alike.reshape(len(probes), most), axis=1)
    beside = np.array([n for n in BESIDE if n <= most] or [most])
    medians = np.median(nearest[:, beside - 1], axis=0)
    expected = ndtri(0.5 ** (1 / beside))
    of_all = float(ndtri(0.5 ** (1 / max(clips - 1, 1))))
    slope = float(np.polyfit(expected, medians, 1)[0]) if len(beside) > 1 else 0.0
    below, median, above = np.quantile(nearest[:, -1], (DEVIATION, 0.5, 1 - DEVIATION)).tolist()
    # Copies among the others drawn are above: the narrower side is the background's.
    deviation = max(min(median - below, above - median), LEAST_DEVIATION)
    shift = max(slope, 0.0) * max(of_all - float(expected[-1]), 0.0)
    return Background(median=median + shift, deviation=deviation, ratio=ratio)


def _around(
    pairs: Int[np.ndarray, "P 2"], alike: Float32[np.ndarray, "P"], clips: int,
    background: Background,
) -> Float[np.ndarray, "V"]:  # fmt: skip
    """The cosine of each clip and its surroundings: its twelfth neighbour, or its last."""
    clip = np.concatenate([pairs[:, 0], pairs[:, 1]])
    score = np.concatenate([alike, alike])
    order = np.lexsort((-score, clip))
    clip, score = clip[order], score[order]
    begins = np.searchsorted(clip, np.arange(clips))
    count = np.searchsorted(clip, np.arange(clips), side="right") - begins
    found = np.full(clips, background.median)
    some = count > 0
    found[some] = score[begins[some] + np.minimum(count[some], BEYOND) - 1]
    return np.minimum(found, background.limit)


def _ratios(
    alike: Float32[np.ndarray, "P"], pairs: Int[np.ndarray, "P 2"], around: Float[np.ndarray, "V"]
) -> Float[np.ndarray, "P"]:
    """The distance of each pair, of what the nearer surroundings of both are away."""
    return (1 - alike) / (1 - around[pairs].max(axis=1))
