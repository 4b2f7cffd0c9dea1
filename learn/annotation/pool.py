"""The clips that may be shown next, with their vectors: all of a store, or a draw of very many.

Shapes: P = clips of the pool, D = size of a vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from learn.inference.embed import EmbeddedBatch, all_clips, embed, parts_of, refuse_unknown
from learn.inference.judges import Judges
from learn.inference.selection import Selection
from store.errors import InputError

if TYPE_CHECKING:
    from store import Feature


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Where vectors of clips come from."""

    selection: Selection
    judges: Judges

    @property
    def features(self) -> Mapping[str, "Feature"]:
        """The features in play."""
        return self.selection.features

    @property
    def parts(self) -> tuple[str, ...]:
        """The vectors that a clip may have."""
        (run,) = self.selection.runs.values()
        ((mode, _),) = self.selection.cells
        return parts_of(mode, run, self.features)

    def all_clips(self) -> list[str]:
        """Every clip that has rows to judge by.

        Raises:
            InputError: there is none.
        """
        clips = all_clips(self.features)
        has = np.logical_or.reduce([f.locate(clips).rows > 0 for f in self.features.values()])
        kept = [clip for clip, there in zip(clips, has.tolist(), strict=True) if there]
        if not kept:
            raise InputError("no clip of the store has rows to judge by; see: extract status")
        return kept

    def refuse_unknown(self, clips: Sequence[str], name: str) -> None:
        """Refuse clips that the store does not have.

        Raises:
            InputError: names a few of them.
        """
        refuse_unknown(self.features, clips, name)

    def read(self, clips: Sequence[str]) -> EmbeddedBatch:
        """The vectors of these clips, in their order."""
        (run,) = self.selection.runs.values()
        batches = list(embed(self.features, clips, run, both=self.judges.guard))
        first = batches[0]
        return EmbeddedBatch(
            tuple(clips),
            {name: torch.cat([b.vectors[name] for b in batches]) for name in first.vectors},
            {name: torch.cat([b.present[name] for b in batches]) for name in first.present},
        )


class Pool:
    """Clips in memory: those drawn, and every labelled one that was asked for."""

    def __init__(self, source: Source, clips: Sequence[str], most: int, seed: int) -> None:
        """`most` of the clips are candidates; more are drawn when these come to an end."""
        self._source, self._most = source, most
        order = np.random.default_rng(seed).permutation(len(clips)).tolist()
        self._left = [clips[i] for i in order] if len(clips) > most else list(clips)
        self.ids: list[str] = []
        self.position: dict[str, int] = {}
        self.batch: EmbeddedBatch | None = None
        self._seen: Float[Tensor, "P D"] | None = None

    def candidates(self, answered: set[str]) -> list[str]:
        """The clips that are in memory and not answered; further ones are read if few are left."""
        found = [clip for clip in self.ids if clip not in answered]
        if self._left and 2 * len(found) < self._most:
            wanted = self._most - len(found)
            drawn, self._left = self._left[:wanted], self._left[wanted:]
            self._add([clip for clip in drawn if clip not in self.position])
            found += [clip for clip in drawn if clip not in answered]
        return found

    def of(self, clips: Sequence[str]) -> EmbeddedBatch:
        """The vectors of these clips, read where they are not in memory yet."""
        self._add([clip for clip in clips if clip not in self.position])
        assert self.batch is not None
        wanted = torch.tensor([self.position[clip] for clip in clips], dtype=torch.int64)
        return EmbeddedBatch(
            tuple(clips),
            {name: x[wanted] for name, x in self.batch.vectors.items()},
            {name: x[wanted] for name, x in self.batch.present.items()},
        )

    def seen_as(self, parts: Sequence[str], *, stored: bool) -> Float[Tensor, "P D"]:
        """Unit vectors of all clips in memory, as the default head sees them: of stored rows,
        signed roots less their mean; each part at one length, zero where a clip lacks it."""
        assert self.batch is not None
        if self._seen is not None:
            return self._seen
        seen = []
        for part in parts:
            x, has = self.batch.vectors[part], self.batch.present[part]
            if stored:
                x = x.sign() * x.abs().sqrt()
                x = x - x[has].mean(0) if bool(has.any()) else x
            seen.append(F.normalize(x, dim=1) * has[:, None])
        self._seen = F.normalize(torch.cat(seen, 1), dim=1)
        return self._seen

    def positions(self, clips: Sequence[str]) -> Int64[Tensor, "_"]:
        """Where these clips stand in memory."""
        return torch.tensor([self.position[clip] for clip in clips], dtype=torch.int64)

    def _add(self, clips: Sequence[str]) -> None:
        if not clips:
            return
        new, old = self._source.read(clips), self.batch
        self.position |= {clip: len(self.ids) + i for i, clip in enumerate(clips)}
        self.ids += clips
        if old is not None:
            new = EmbeddedBatch(
                tuple(self.ids),
                {name: torch.cat([old.vectors[name], x]) for name, x in new.vectors.items()},
                {name: torch.cat([old.present[name], x]) for name, x in new.present.items()},
            )
        self.batch, self._seen = new, None
