"""Retrieval: a query seen in one mode, a gallery in another; by cosine.

Of an instance, where the modes differ: the one hit is the same clip. Of a class, where labels are
named: hits are clips of the query's class; the clip itself is not in the gallery, nor are clips of
its group, which are near copies. Equal scores have no order: recall at k is the chance over all of
them, and average precision counts them at once.

In a mode of several senses their cosines are averaged by weights, as `learn search` does, which are
those that make clips of classes not scored find their like; or all are joined (`fusion` early).

Without modes asked for: each modality with itself and, in a common space, with every other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.evaluation import metrics
from learn.evaluation.protocols import Finding, Material
from learn.evaluation.wording import JOINED_BY
from learn.fewshot.mode_pairs import SINGLE, senses_in
from learn.fewshot.modes import Pair
from store.errors import InputError
from store.settings import Settings, setting

EARLY, _, WEIGHTED = JOINED_BY


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the protocol `retrieval`."""

    # or mixed: clips of the query's group stay in the gallery
    groups: str = setting("apart", among=("apart", "mixed"), main=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Retrieval of clips by clips, as instances and as classes."""

    config: Config
    joins: tuple[str, ...] = (WEIGHTED, EARLY)

    def __call__(self, material: Material) -> Iterator[Finding]:
        """The findings about every label, projection and pair of modes."""
        for projection, run in material.runs.items():
            ways = material.ways()
            if run is not None and not (material.support or material.query):
                single = [mode for mode, _ in material.modes() if mode in SINGLE]
                ways += [((a, b), "") for a in single for b in single if a != b]
            for number, label in enumerate(material.labels):
                scored = material.evaluation_set(material.split, label)
                vectors = material.vectors(scored, projection)
                clips = scored.clips
                own = torch.arange(len(clips))
                apart = self.config.groups == "apart" and clips.groups is not None
                groups = torch.from_numpy(clips.groups).long() if apart else own
                class_ids = torch.from_numpy(clips.class_ids).long()
                for cell, fusion in ways:
                    senses = senses_in(cell[0], vectors)
                    about: dict[str, Any] = {}
                    pair = material.pair(vectors, projection, cell)
                    if fusion == WEIGHTED and len(senses) > 1:
                        prior = material.prior(scored, projection, senses, label)
                        pair = _weighted([vectors[sense] for sense in senses], prior.value)
                        weights = zip(senses, prior.value, strict=True)
                        about["weights"] = {material.features[s].name: w for s, w in weights}
                        about["prior"] = prior.origin
                    about |= {"fusion": fusion} if fusion and len(senses) > 1 else {}
                    if cell[0] != cell[1] and number == 0:
                        values, queries = metrics.retrieval(pair.query, pair.support, own, own)
                        yield material.finding(
                            scored, projection, cell, values, label="", clips=queries,
                            about={"level": "instance", "gallery": len(clips)},
                        )  # fmt: skip
                    values, queries = metrics.retrieval(
                        pair.query, pair.support, class_ids, class_ids, groups, groups
                    )
                    if not queries:
                        raise InputError(
                            f"no clip of split {material.split!r} has another of its {label} to "
                            f"find{' in other groups' * apart}; name another split or label"
                            f"{', or retrieval:mixed' * apart}"
                        )
                    yield material.finding(
                        scored, projection, cell, values, label=label, clips=queries,
                        about={
                            "level": "class",
                            "gallery": len(clips),
                            "apart": "groups" if apart else "clips",
                            **about,
                        },
                    )  # fmt: skip


def _weighted(of_senses: Sequence[Float[Tensor, "V _"]], weights: Sequence[float]) -> Pair:
    """Clips as one vector whose products are the weighted mean of the senses' cosines."""
    parts = [
        w**0.5 * F.normalize(x.double(), dim=-1) for x, w in zip(of_senses, weights, strict=True)
    ]
    x = torch.cat(parts, dim=-1)
    return Pair(support=x, query=x, modality_dims=tuple(part.shape[1] for part in parts))


def build(config: Config) -> Retrieval:
    """The protocol that these settings describe."""
    return Retrieval(config=config)
