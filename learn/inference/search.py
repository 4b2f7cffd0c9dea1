"""`learn search`: the clips nearest to one clip, across modalities where there is a common space,
or to a text of the asker's own.

Shapes: B = clips of a batch, D = size of a vector.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from learn.data import devices
from learn.data.features import FeatureNames
from learn.fewshot import modes
from learn.fewshot.fusions import DEFAULT, FAMILY, equal
from learn.fewshot.fusions._shipped import encoders_of, shipped
from learn.fewshot.fusions.early import Early
from learn.fewshot.fusions.weighted import Weighted
from learn.inference.embed import EmbeddedBatch, all_clips, embed, parts_of, refuse_unknown
from learn.inference.selection import (
    NONE,
    Selection,
    runs_of,
    select_one,
)
from learn.inference.settings import WORDS, check_words
from learn.inference.vector_cache import VectorCache
from learn.inference.words import EncodeText, vector_of
from learn.training.runs import Run
from store import open as open_store
from store import plugins
from store.errors import ConfigError, InputError
from store.progress import Progress, counter

if TYPE_CHECKING:
    from store import Feature

JOINED = ""  # the name of the one vector that a clip is compared by


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One of the nearest clips."""

    rank: int
    clip_id: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The clips most like one clip, or like a text."""

    clip: str  # "" where a text was searched by
    words: str
    projection: str
    source: str
    target: str
    features: Mapping[str, str]
    fusion: str  # how the similarities of several senses are joined; "" of one
    weights: Mapping[str, float]  # how much each feature counts, where several do
    prior: str  # where the weights are from
    looked_at: int
    neighbours: tuple[Neighbour, ...]

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn search --json` prints."""
        return {
            "clip": self.clip,
            "words": self.words,
            "projection": self.projection,
            "from": self.source,
            "to": self.target,
            "features": dict(self.features),
            "fusion": self.fusion,
            "weights": dict(self.weights),
            "prior": self.prior,
            "looked_at": self.looked_at,
            "results": [asdict(neighbour) for neighbour in self.neighbours],
        }


def search(
    store_path: str | Path,
    clip: str = "",
    *,
    words: str = "",
    encode: EncodeText | None = None,
    projection: str | Path | None = None,
    top: int = 10,
    source: str | None = None,
    target: str | None = None,
    fusion: str = DEFAULT,
    visual: FeatureNames = None,
    audio: FeatureNames = None,
    text: FeatureNames = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> SearchResult:
    """The `top` clips whose `target` is most like the clip's `source`, by cosine; ties by clip id.

    `source` and `target` are v, a or av; one alone stands for both. In av the cosines of the senses
    that both clips have are averaged by weights known of the encoders (`fusion` weighted), or both
    vectors are joined as they are, of clips that have both (early). The whole store is looked at,
    in bounded memory; `progress` hears of clips. The clip itself is left out where both sides are
    the same. Instead of a clip, `words` are a text to search by, which `encode` makes rows of: from
    mode t, to clips' text or, in the space of a projection that learnt text, to another mode.

    >>> found = learn.search("my_store", fs.manifest().clip_ids[0], top=3)
    >>> [neighbour.rank for neighbour in found.neighbours]
    [1, 2, 3]

    Raises:
        InputError: an unknown clip, one without rows, or two modes in spaces of their own; a text
            that says nothing.
    """
    if top < 1:
        raise ConfigError(f"top={top}: ask for at least one clip")
    check_words(clip, words, source)
    words = words.strip()
    source = WORDS if words else source
    (run,) = runs_of([projection] if projection else [], devices.chosen(device)).values()
    selection = select_one(
        open_store(store_path), str(projection or NONE), run, visual=visual, audio=audio, text=text,
        given=[mode for mode in (source or target, target or source) if mode],
    )  # fmt: skip
    comparison = _compare(selection, fusion)
    if words:
        query = {JOINED: F.normalize(vector_of(words, selection, encode), dim=-1)}
    else:
        query = comparison.query(clip)
    best: list[tuple[float, str]] = []
    own = bool(clip) and not comparison.across  # the clip itself is looked at, and not named
    looked_at = -int(own)
    cache = VectorCache(comparison.features, comparison.run)
    clips = max(feature.committed_clips for feature in comparison.features.values())
    advance = counter(progress, clips)
    for batch in cache.batches(comparison.all_batches):
        scores, there = comparison.scores(batch, query)
        looked_at += int(there.sum())
        advance(len(batch.ids))
        best = _best(best, batch.ids, scores, there, top + own)
    best = [(minus, clip_id) for minus, clip_id in best if clip_id != clip or not own][:top]
    return SearchResult(
        clip=clip,
        words=words,
        projection=str(projection or NONE),
        source=comparison.source,
        target=comparison.target,
        features={m: feature.name for m, feature in comparison.features.items()},
        fusion=fusion if comparison.joins else "",
        weights={comparison.features[m].name: w for m, w in comparison.weights.items()},
        prior=comparison.origin,
        looked_at=looked_at,
        neighbours=tuple(
            Neighbour(rank=rank, clip_id=clip_id, similarity=-minus)
            for rank, (minus, clip_id) in enumerate(best, 1)
        ),
    )


def _best(
    known: Sequence[tuple[float, str]], ids: Sequence[str], scores: Float64[np.ndarray, "B"],
    there: Bool[np.ndarray, "B"], count: int,
) -> list[tuple[float, str]]:  # fmt: skip
    """The best of those known and of a batch, by score and then by id; of the batch, text is made
    of the ids of those alone that may be among them."""
    clips = np.flatnonzero(there)
    if len(clips) > count:
        own = scores[clips]
        clips = clips[own >= np.partition(own, -count)[-count]]
    if len(known) >= count:
        clips = clips[scores[clips] >= -known[-1][0]]
    fresh = ((-float(scores[i]), ids[i]) for i in clips.tolist())
    return nsmallest(count, [*known, *fresh])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Comparison:
    """A comparison of one clip's source with the other clips' target."""

    run: Run | None
    features: Mapping[str, "Feature"]
    source: str
    target: str
    weights: Mapping[str, float] = field(default_factory=dict)  # of senses compared one by one
    origin: str = ""  # of the weights

    @property
    def across(self) -> bool:
        return self.source != self.target

    @property
    def joins(self) -> bool:
        """Whether several senses of a clip are compared with the same of another."""
        return not self.across and len(parts_of(self.source, self.run, self.features)) > 1

    def query(self, clip: str) -> dict[str, Float[Tensor, "D"]]:
        """The clip's unit vectors, of the senses that are compared one by one, or joined.

        Raises:
            InputError: the clip is unknown, or has no rows.
        """
        refuse_unknown(self.features, [clip], "the search")
        (batch,) = embed(self.features, [clip], self.run)
        parts = parts_of(self.source, self.run, self.features)
        lacking = [p for p in parts if p not in batch.present or not batch.present[p][0]]
        if len(lacking) == len(parts) or (lacking and not self.weights):
            raise InputError(
                f"{clip} has no {lacking[0]} rows to search by; name another mode with `source`"
            )
        if not self.weights:
            return {JOINED: F.normalize(self._pair(batch).support, dim=-1)[0]}
        return {p: F.normalize(batch.vectors[p][0], dim=-1) for p in parts if p not in lacking}

    def all_batches(self) -> Iterator[EmbeddedBatch]:
        """The vectors of every clip of the store."""
        return embed(self.features, all_clips(self.features), self.run)

    def scores(
        self, batch: EmbeddedBatch, query: Mapping[str, Float[Tensor, "D"]]
    ) -> tuple[Float64[np.ndarray, "B"], Bool[np.ndarray, "B"]]:
        """Similarities, and the clips that have what the target mode joins; where senses are
        compared one by one, those that have one of the query's."""
        if self.weights:
            similar, there = self._one_by_one(batch, query)
        else:
            parts = parts_of(self.target, self.run, self.features)
            there = torch.stack([batch.present[part] for part in parts]).all(0)
            unit = F.normalize(self._pair(batch).query.double(), dim=-1)
            similar = (unit * query[JOINED].double()).sum(-1)
        return similar.cpu().numpy(), there.cpu().numpy()

    def _one_by_one(
        self, batch: EmbeddedBatch, query: Mapping[str, Float[Tensor, "D"]]
    ) -> tuple[Float64[Tensor, "B"], Bool[Tensor, "B"]]:
        """Mean cosines of the senses that both have, and the clips that have any."""
        total = torch.zeros(len(batch.ids), dtype=torch.float64)
        counted = total.clone()
        for part, x in query.items():
            unit = F.normalize(batch.vectors[part].double(), dim=-1)
            weight = self.weights[part] * batch.present[part].double()
            total += weight * (unit @ x.double())
            counted += weight
        return total / counted.clamp_min(torch.finfo(counted.dtype).tiny), counted > 0

    def _pair(self, batch: EmbeddedBatch) -> modes.Pair:
        return modes.pair(batch.vectors, self.source, self.target, common=self.run is not None)


def _compare(selection: Selection, fusion: str) -> _Comparison:
    """The comparison of the one pair of modes.

    Raises:
        InputError: its modes have no common space.
        ConfigError: a fusion that compares no two clips.
    """
    kind = plugins.build(FAMILY, fusion)
    if not isinstance(kind, Weighted | Early):
        raise ConfigError(f"fusion {fusion} compares no two clips; use {DEFAULT} or early")
    (run,) = selection.runs.values()
    ((source, target),) = selection.cells
    if source != target and run is None:
        sizes = (f"{f.modality} has {f.dim} numbers" for f in selection.features.values())
        raise InputError(
            f"{source} cannot be compared with {target}: stored vectors of two encoders have no "
            f"common space ({', '.join(sizes)}); give `projection` RUN of `learn train`"
        )
    found = _Comparison(run=run, features=selection.features, source=source, target=target)
    if not found.joins or not isinstance(kind, Weighted):
        return found
    parts = parts_of(source, run, found.features)
    known = shipped(encoders_of(found.features, parts))
    prior = equal(len(parts)) if kind.prior == "equal" else known
    weights = dict(zip(parts, prior.value, strict=True))
    return replace(found, weights=weights, origin=prior.origin)
