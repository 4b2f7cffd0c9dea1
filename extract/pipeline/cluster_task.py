"""What travels to the workers of a cluster: settings, and units as rows of a kept manifest.

The scheduler unpacks all that is submitted, on its way to a worker: so no network is imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from extract.media.sampling import Sampling
from extract.pipeline.options import Options
from extract.pipeline.planned import Planned, WantedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings that all units of a run have in common."""

    visual: tuple[str, ...]
    audio: tuple[str, ...]
    sampling: Sampling
    options: Options


Stretch = tuple[int, int, tuple[int, ...]]  # rows of the manifest that the same features want


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTask:
    """One unit of a run, as it travels to a worker."""

    number: int
    run: str  # whose `Setup` it is done by
    stretches: tuple[Stretch, ...]
    checksum: int  # of the cells that the worker must find there
    retries: tuple[int, ...]  # by feature: which retry of its clips the unit is

    @property
    def planned(self) -> Planned:
        """The unit as a run on one machine has it, its rows counted from 0."""
        wanted = np.zeros((len(self.rows), len(self.retries)), bool)
        done = 0
        for begin, end, mask in self.stretches:
            wanted[done : done + end - begin, list(mask)] = True
            done += end - begin
        return Planned(
            rows=np.arange(len(wanted)),
            wanted=wanted,
            first=np.array([0, len(wanted)]),
            retries=np.array([self.retries], np.int64).reshape(1, -1),
        )

    @property
    def rows(self) -> Int64[np.ndarray, "_"]:
        """Its rows of the manifest."""
        return np.concatenate(
            [np.empty(0, np.int64), *(np.arange(begin, end) for begin, end, _ in self.stretches)]
        )


def stretches_of(unit: Sequence[WantedRow]) -> tuple[Stretch, ...]:
    """Rows as stretches that the same features want."""
    found: list[Stretch] = []
    for row, mask in unit:
        if found and found[-1][1:] == (row, mask):
            found[-1] = (found[-1][0], row + 1, mask)
        else:
            found.append((row, row + 1, mask))
    return tuple(found)
