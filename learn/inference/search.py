"""`learn search`: the clips nearest to one clip, across modalities where there is a common space.

Shapes: B = clips of a batch, D = size of a vector.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.data import devices
from learn.fewshot import modes
from learn.inference.embed import EmbeddedBatch, all_clips, embed, parts_of, refuse_unknown
from learn.inference.selection import NONE, Selection, runs_of, select_one
from learn.training.runs import Run
from store import open as open_store
from store.errors import ConfigError, InputError

if TYPE_CHECKING:
    from store import Feature


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One of the nearest clips."""

    rank: int
    clip_id: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The clips most like one clip."""

    clip: str
    projection: str
    source: str
    target: str
    features: Mapping[str, str]
    looked_at: int
    neighbours: tuple[Neighbour, ...]

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn search --json` prints."""
        return {
            "clip": self.clip,
            "projection": self.projection,
            "from": self.source,
            "to": self.target,
            "features": dict(self.features),
            "looked_at": self.looked_at,
            "results": [asdict(neighbour) for neighbour in self.neighbours],
        }


def search(
    store_path: str | Path,
    clip: str,
    *,
    projection: str | Path | None = None,
    top: int = 10,
    source: str | None = None,
    target: str | None = None,
    visual: str | None = None,
    audio: str | None = None,
    device: str = "auto",
) -> SearchResult:
    """The `top` clips whose `target` is most like the clip's `source`, by cosine; ties by clip id.

    `source` and `target` are v, a or av; one alone stands for both. The whole store is looked at,
    in bounded memory. The clip itself is left out where both sides are the same.

    Raises:
        InputError: an unknown clip, one without rows, or two modes in spaces of their own.
    """
    if top < 1:
        raise ConfigError(f"top={top}: ask for at least one clip")
    (run,) = runs_of([projection] if projection else [], devices.chosen(device)).values()
    selection = select_one(
        open_store(store_path), str(projection or NONE), run, visual=visual, audio=audio,
        given=[mode for mode in (source or target, target or source) if mode],
    )  # fmt: skip
    comparison = _compare(selection)
    query = comparison.query(clip)
    best: list[tuple[float, str]] = []
    looked_at = 0
    for batch in embed(comparison.features, all_clips(comparison.features), comparison.run):
        scores = [
            (-score, clip_id)
            for score, clip_id in comparison.scores(batch, query)
            if clip_id != clip or comparison.across
        ]
        looked_at += len(scores)
        best = nsmallest(top, [*best, *scores])
    return SearchResult(
        clip=clip,
        projection=str(projection or NONE),
        source=comparison.source,
        target=comparison.target,
        features={m: feature.name for m, feature in comparison.features.items()},
        looked_at=looked_at,
        neighbours=tuple(
            Neighbour(rank=rank, clip_id=clip_id, similarity=-minus)
            for rank, (minus, clip_id) in enumerate(best, 1)
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Comparison:
    """A comparison of one clip's source with the other clips' target."""

    run: Run | None
    features: Mapping[str, "Feature"]
    source: str
    target: str

    @property
    def across(self) -> bool:
        return self.source != self.target

    def query(self, clip: str) -> Float[Tensor, "D"]:
        """The clip's unit vector.

        Raises:
            InputError: the clip is unknown, or has no rows.
        """
        refuse_unknown(self.features, [clip], "the search")
        (batch,) = embed(self.features, [clip], self.run)
        for part in parts_of(self.source, self.run):
            if part not in batch.present or not batch.present[part][0]:
                raise InputError(
                    f"{clip} has no {part} rows to search by; name another mode with `source`"
                )
        return F.normalize(self._pair(batch).support, dim=-1)[0]

    def scores(
        self, batch: EmbeddedBatch, query: Float[Tensor, "D"]
    ) -> Iterator[tuple[float, str]]:
        """Cosines with the clips that have what the target mode joins."""
        parts = parts_of(self.target, self.run)
        whole = torch.stack([batch.present[part] for part in parts]).all(0)
        unit = F.normalize(self._pair(batch).query.double(), dim=-1)
        cosines = (unit * query.double()).sum(-1)
        for i in torch.nonzero(whole)[:, 0].tolist():
            yield float(cosines[i]), batch.ids[i]

    def _pair(self, batch: EmbeddedBatch) -> modes.Pair:
        return modes.pair(batch.vectors, self.source, self.target, common=self.run is not None)


def _compare(selection: Selection) -> _Comparison:
    """The comparison of the one pair of modes.

    Raises:
        InputError: its modes have no common space.
    """
    (run,) = selection.runs.values()
    ((source, target),) = selection.cells
    if source != target and run is None:
        sizes = (f"{f.modality} has {f.dim} numbers" for f in selection.features.values())
        raise InputError(
            f"{source} cannot be compared with {target}: stored vectors of two encoders have no "
            f"common space ({', '.join(sizes)}); give `projection` RUN of `learn train`"
        )
    return _Comparison(run=run, features=selection.features, source=source, target=target)
