"""Features as SimpleShot, LaplacianShot and TIM pickle them.

    [mean, fc mean, {label: [vector …]}, {…}]

The mean is that of the base classes, which CL2N subtracts. Written: the mean over clips of split
`train` (over all, if there is none), and the vectors of all other clips. Read: the vectors as clips
`<label>/<number>` of split test, and the mean as the one clip of split train, so that means over
`train` are the published one.

Source: Wang et al., 2019, "SimpleShot: revisiting nearest-neighbor classification".
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store import safe_pickle
from store.errors import InputError
from store.exchange.formats import Clips, Track
from store.exchange.formats._common import gathered, labels, means, only, text, with_rows
from store.settings import Settings

BASE_MEAN = "base-mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Name and modality of the feature that is read, and the split that the mean is of."""

    name: str = ""
    modality: str = "visual"
    base: str = "train"  # clips of this split only count into the mean


def build(config: Config) -> "SimpleShot":
    """The format."""
    return SimpleShot(config)


class SimpleShot:
    """Mean vectors by class, and the mean of the base classes."""

    keeps: frozenset[str] = frozenset()

    def __init__(self, config: Config) -> None:
        self._config = config

    def write(self, tracks: Sequence[Track], target: Path, *, label: str) -> int:
        """Write one pickle; see `Format`."""
        by_label: dict[str, list[np.ndarray]] = {}
        sums = {is_base: np.zeros(only(tracks).dim) for is_base in (True, False)}
        counts = {True: 0, False: 0}
        for clips in tracks[0].clips():
            split = clips.columns.get("split", ("",) * len(clips.clip_ids))
            indices = with_rows(clips).tolist()
            for i, name, vector in zip(indices, labels(clips, label), means(clips), strict=True):
                is_base = split[i] == self._config.base
                sums[is_base] += vector
                counts[is_base] += 1
                if not is_base:
                    by_label.setdefault(name, []).append(vector)
        if not by_label:
            raise InputError(f"no clip outside of split {self._config.base!r} has rows to export")
        mean = (sums[counts[True] > 0] / counts[counts[True] > 0]).astype(np.float32)
        with target.open("xb") as file:
            pickle.dump([mean, mean, by_label, {}], file, protocol=4)
        return counts[False]

    def read(self, source: Path, *, trust_pickle: bool) -> Sequence[Track]:
        """One track, or two where there are features before and after the last layer."""
        where = str(source)
        items = safe_pickle.items(safe_pickle.read(source, trust_pickle=trust_pickle), name=where)
        if len(items) != 4:
            raise InputError(f"{where} has {len(items)} items; it is [mean, fc mean, {{}}, {{}}]")
        tracks = []
        for suffix, mean, vectors in (
            ("", items[0], items[2]),
            ("-fc", items[1], items[3]),
        ):
            table = safe_pickle.mapping(vectors, name=where)
            if table or not suffix:
                tracks.append(self._track(source, suffix, mean, table))
        return tracks

    def _track(self, source: Path, suffix: str, mean: Any, table: Mapping[Any, Any]) -> Track:
        where = str(source)
        base = safe_pickle.array(mean, name=where).reshape(-1)
        names, classes, rows = [BASE_MEAN], [""], [base]
        for key, vectors in table.items():
            label = text(key, where)
            for number, vector in enumerate(safe_pickle.items(vectors, name=where)):
                rows.append(safe_pickle.array(vector, name=where).reshape(-1))
                names.append(f"{label}/{number:06d}")
                classes.append(label)
        if len(rows) == 1 or len({row.size for row in rows}) > 1:
            raise InputError(f"{where}: vectors are missing or not of one length")
        if sum(row.nbytes for row in rows) > safe_pickle.MAX_PICKLE_BYTES:
            raise InputError(f"{where} swells beyond {safe_pickle.MAX_PICKLE_BYTES} bytes")
        split = ["train", *["test"] * (len(names) - 1)]
        made = gathered(names, np.stack(rows), {"label": classes, "split": split}, where)

        def clips() -> Iterator[Clips]:
            yield made

        return Track(
            name=f"{self._config.name or source.stem}{suffix}", modality=self._config.modality,
            dim=base.size, clips=clips, files=(source,),
        )  # fmt: skip
