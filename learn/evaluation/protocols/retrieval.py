"""Retrieval: a query seen in one mode, a gallery in another; by cosine.

Of an instance, where the modes differ: the one hit is the same clip. Of a class, where labels are
named: hits are clips of the query's class; the clip itself is not in the gallery, nor are clips of
its group, which are near copies. Equal scores have no order: recall at k is the chance over all of
them, and average precision counts them at once.

Without modes asked for: each modality with itself and, in a common space, with every other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from learn.evaluation import metrics
from learn.evaluation.protocols import Finding, Material
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the protocol `retrieval`."""

    # or mixed: clips of the query's group stay in the gallery
    groups: str = setting("apart", among=("apart", "mixed"), main=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Retrieval of clips by clips, as instances and as classes."""

    config: Config

    def __call__(self, material: Material) -> Iterator[Finding]:
        """The findings about every label, projection and pair of modes."""
        for projection, run in material.runs.items():
            cells = material.modes()
            if run is not None and not (material.support or material.query):
                single = [mode for mode, _ in cells if mode != "av"]
                cells = [*cells, *((a, b) for a in single for b in single if a != b)]
            for number, label in enumerate(material.labels):
                scored = material.evaluation_set(material.split, label)
                vectors = material.vectors(scored, projection)
                clips = scored.clips
                own = torch.arange(len(clips))
                apart = self.config.groups == "apart" and clips.groups is not None
                groups = torch.from_numpy(clips.groups).long() if apart else own
                class_ids = torch.from_numpy(clips.class_ids).long()
                for cell in cells:
                    pair = material.pair(vectors, projection, cell)
                    if cell[0] != cell[1] and number == 0:
                        values, queries = metrics.retrieval(pair.query, pair.support, own, own)
                        yield material.finding(
                            scored, projection, cell, values, label="", clips=queries,
                            about={"level": "instance", "gallery": len(clips)},
                        )  # fmt: skip
                    values, queries = metrics.retrieval(
                        pair.query, pair.support, class_ids, class_ids, groups, groups
                    )
                    yield material.finding(
                        scored, projection, cell, values, label=label, clips=queries,
                        about={
                            "level": "class",
                            "gallery": len(clips),
                            "apart": "groups" if apart else "clips",
                        },
                    )  # fmt: skip


def build(config: Config) -> Retrieval:
    """The protocol that these settings describe."""
    return Retrieval(config=config)
