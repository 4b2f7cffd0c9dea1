"""`learn search`: the clips nearest to one clip, across modalities where there is a common space.

Shapes: B = clips of a block.
"""

from collections.abc import Sequence
from heapq import nsmallest
from pathlib import Path
from typing import Any

import torch

from learn.fewshot import modes
from learn.inference.embed import EmbeddedBatch, blocks, parts_of, refuse_unknown
from learn.inference.selection import NONE, runs_of, select_one
from learn.training.runs import Run
from store import Feature
from store import open as open_store
from store.errors import ConfigError, InputError


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
) -> dict[str, Any]:
    """The `top` clips whose `target` is most like the clip's `source`, by cosine; ties by clip id.

    `source` and `target` are v, a or av; one alone stands for both. The whole store is looked at,
    in bounded memory. The clip itself is left out where both sides are the same.

    Raises:
        InputError: an unknown clip, one without rows, or two modes in spaces of their own.
    """
    if top < 1:
        raise ConfigError(f"top={top}: ask for at least one clip")
    (run,) = runs_of([projection] if projection else []).values()
    store = open_store(store_path)
    selection = select_one(
        store, str(projection or NONE), run, visual=visual, audio=audio,
        given=[mode for mode in (source or target, target or source) if mode],
    )  # fmt: skip
    features, ((source, target),) = selection.features, selection.cells
    if source != target and run is None:
        sizes = ", ".join(f"{f.modality} has {f.dim} numbers" for f in features.values())
        raise InputError(
            f"{source} cannot be compared with {target}: stored vectors of two encoders have no "
            f"common space ({sizes}); give --projection RUN of `learn train`"
        )
    refuse_unknown(features, [clip], "the search")
    (one,) = blocks(features, [clip], run)
    for part in parts_of(source, run):
        if part not in one.there or not one.there[part][0]:
            raise InputError(
                f"{clip} has no {part} rows to search by; name another mode with --from"
            )
    query = modes.pair(one.vectors, source, target, common=run is not None).support
    query = torch.nn.functional.normalize(query, dim=-1)[0]
    best: list[tuple[float, str]] = []
    looked_at = 0
    for block in blocks(features, _all_clips(features), run):
        found = _scores(block, query, source, target, run)
        found = [(score, other) for score, other in found if source != target or other != clip]
        looked_at += len(found)
        best = nsmallest(top, [*best, *((-score, other) for score, other in found)])
    return {
        "clip": clip,
        "projection": str(projection or NONE),
        "from": source,
        "to": target,
        "features": {modality: feature.name for modality, feature in features.items()},
        "looked_at": looked_at,
        "results": [
            {"rank": rank, "clip_id": other, "similarity": -minus}
            for rank, (minus, other) in enumerate(best, 1)
        ],
    }


def _all_clips(features: dict[str, Feature]) -> Sequence[str]:
    """Every committed clip once, in the order of the first feature's disk."""
    return list(dict.fromkeys(clip for one in features.values() for clip in one.clip_ids))


def _scores(
    block: EmbeddedBatch, query: torch.Tensor, source: str, target: str, run: Run | None
) -> list[tuple[float, str]]:
    """Cosines with the clips that have what the target mode joins."""
    pair = modes.pair(block.vectors, source, target, common=run is not None)
    whole = torch.stack([block.there[part] for part in parts_of(target, run)]).all(0)
    unit = torch.nn.functional.normalize(pair.query.double(), dim=-1)
    score = (unit * query.double()).sum(-1)
    return [(float(score[i]), block.ids[i]) for i in torch.nonzero(whole)[:, 0].tolist()]
