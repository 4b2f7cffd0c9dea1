"""The clips that a run is to do: rows of the manifest, the features that want each, and units.

All of it is arrays, filled by one look-up of 16-byte keys a feature: a million clips that are done
already cost a second, and nothing is kept of them.

Shapes: n = clips of the manifest, V = clips that are wanted, F = features, U = units.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from store import Feature, Manifest, Status

WantedRow = tuple[int, tuple[int, ...]]  # a row of the manifest, and the features that want it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planned(Sequence[list[WantedRow]]):
    """Units of rows, in the manifest's order."""

    rows: Int64[np.ndarray, "V"]
    wanted: Bool[np.ndarray, "V F"]
    first: Int64[np.ndarray, "U_plus_1"]  # where each unit begins in `rows`
    retries: Int64[np.ndarray, "U F"]  # how often the most tried clip of a unit was tried

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, number: int) -> list[WantedRow]:  # type: ignore[override]
        part = slice(self.first[number], self.first[number + 1])
        masks = (tuple(np.flatnonzero(mask).tolist()) for mask in self.wanted[part])
        return list(zip(self.rows[part].tolist(), masks, strict=True))

    @property
    def clips(self) -> int:
        """The number of clips that any feature wants."""
        return len(self.rows)

    def all_rows(self) -> Iterator[WantedRow]:
        """Every wanted row, unit after unit."""
        for number in range(len(self)):
            yield from self[number]


def planned(
    manifest: Manifest, features: Sequence[Feature], again: frozenset[Status], clips_per_unit: int
) -> Planned:
    """Units of rows of the manifest that a feature lacks, is to try again, or whose file was
    missing and is there now. A unit is what is left of a fixed stretch of the manifest.
    """
    statuses = [feature.status_of_keys(manifest.keys) for feature in features]
    masks = [wanted(manifest, status, again) for status in statuses]
    every = np.stack(masks, 1) if masks else np.zeros((len(manifest), 0), bool)
    rows = np.flatnonzero(every.any(1))
    stretch = rows // clips_per_unit
    begins = np.flatnonzero(np.diff(stretch, prepend=-1))
    retries = np.zeros((len(begins), len(features)), np.int64)
    for i, (feature, status) in enumerate(zip(features, statuses, strict=True)):
        known = masks[i] & (status != Status.PENDING)
        if known.any():
            tried = np.zeros(len(manifest), np.int64)
            tried[known] = feature.tries_of_keys(manifest.keys[known])
            retries[:, i] = np.maximum.reduceat(tried[rows], begins)
    return Planned(
        rows=rows, wanted=every[rows], first=np.append(begins, len(rows)), retries=retries
    )


def wanted(
    manifest: Manifest, status: UInt8[np.ndarray, "n"], again: frozenset[Status]
) -> Bool[np.ndarray, "n"]:
    """The clips that a feature wants that knows this of them."""
    chosen = np.isin(status, [Status.PENDING, *again])
    if Status.MISSING not in again and manifest.root is not None:
        for row in np.flatnonzero(status == Status.MISSING).tolist():
            chosen[row] = (manifest.root / manifest.paths[row]).exists()
    return chosen
