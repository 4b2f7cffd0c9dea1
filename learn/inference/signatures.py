"""Short signatures of the rows of clips, in which copies of one source stand out.

A row's roots are centred and whitened by the collection's own covariance, cut to few directions and
scaled to length 1. What all clips have in common is gone then, whatever the encoder, and the cosine
of two rows says how much more alike they are than rows of this collection are by chance.

Shapes: V = clips, R = kept rows of all clips, D = stored size, S = size of a signature.
Source: Jégou and Chum, ECCV 2012, "Negative evidences and co-occurences in image retrieval" (PCA
whitening); Arandjelović and Zisserman, CVPR 2012 (roots).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Int, Int64

from store.progress import in_steps

if TYPE_CHECKING:
    from store import Feature

ROWS = 16  # of a clip at most, evenly spread over it
SIZE = {"visual": 128, "audio": 256}
SAMPLE_CLIPS = 2000  # whose rows say what is usual
RIDGE = 0.1  # times the mean variance: directions of little variance are mostly noise
FEW = 0.05  # different numbers in a row, of all, below which it is of silence
ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Signatures:
    """The signatures of the clips that have rows, clip after clip."""

    clips: Int64[np.ndarray, "V"]  # positions among all clips
    rows: Float16[np.ndarray, "R S"]
    offsets: Int64[np.ndarray, "V_plus_1"]
    plain: Bool[np.ndarray, "V"]  # its rows tell nothing of the clip: silence, a black picture

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def counts(self) -> Int64[np.ndarray, "V"]:
        """The number of rows of each clip."""
        return np.diff(self.offsets)

    def keep(self, wanted: Bool[np.ndarray, "V"]) -> "Signatures":
        """Only these clips."""
        of_row = np.repeat(wanted, self.counts)
        offsets = np.concatenate([[0], np.cumsum(self.counts[wanted])])
        return Signatures(
            clips=self.clips[wanted], rows=self.rows[of_row], offsets=offsets,
            plain=self.plain[wanted],
        )  # fmt: skip

    def padded(self, of: Int[np.ndarray, "P"]) -> Float32[np.ndarray, "P T S"]:
        """The rows of some clips; shorter clips end with zeros."""
        counts = self.counts[of]
        step = np.arange(max(int(counts.max(initial=1)), 1))
        there = step < counts[:, None]
        rows = self.rows[np.where(there, self.offsets[of][:, None] + step, 0)].astype(np.float32)
        rows[~there] = 0
        return rows

    def keys(self, most: int) -> tuple[Float32[np.ndarray, "K S"], Int64[np.ndarray, "K"]]:
        """Means of at most so many stretches of each clip, and the clip of each."""
        count = np.minimum(self.counts, most)
        clip = np.repeat(np.arange(len(self)), count)
        part = np.arange(len(clip)) - np.repeat(np.cumsum(count) - count, count)
        start = self.offsets[clip] + part * self.counts[clip] // count[clip]
        means = np.empty((len(clip), self.rows.shape[1]), np.float32)
        bounds = np.append(start, len(self.rows))
        for first in range(0, len(clip), ROWS_AT_ONCE):
            own = bounds[first : first + ROWS_AT_ONCE + 1]
            rows = self.rows[own[0] : own[-1]].astype(np.float32)
            means[first : first + ROWS_AT_ONCE] = np.add.reduceat(rows, own[:-1] - own[0], axis=0)
        return unit(means), clip


def signatures(feature: "Feature", position: dict[str, int], seed: int = 0) -> Signatures:
    """The signatures of a feature's clips; `position` tells clips by id. Reads all rows once, and
    those of a sample before, so that no more than signatures is in memory."""
    ids = [clip for clip in feature.clip_ids if clip in position]
    chosen = np.random.default_rng(seed).permutation(len(ids))[:SAMPLE_CLIPS]
    packed = feature.packed([ids[i] for i in np.sort(chosen)])
    centre, directions = _whitening(
        _roots(packed.values[_spread(packed.offsets)]), SIZE.get(feature.modality, 128)
    )
    parts = list(_projected(feature, position, centre, directions))
    clips = np.concatenate([clips for clips, *_ in parts])
    counts = np.concatenate([counts for _, counts, *_ in parts])
    rows = np.concatenate([rows for _, _, rows, _ in parts])
    plain = np.concatenate([plain for *_, plain in parts])
    order = np.argsort(clips, kind="stable")
    start = np.cumsum(counts) - counts
    offsets = np.concatenate([[0], np.cumsum(counts[order])])
    taken = np.arange(offsets[-1]) + np.repeat(start[order] - offsets[:-1], counts[order])
    return Signatures(clips=clips[order], rows=rows[taken], offsets=offsets, plain=plain[order])


def _projected(
    feature: "Feature", position: dict[str, int], centre: np.ndarray, directions: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Positions, numbers of rows, signatures, and whether all rows are the same, part by part."""
    units = in_steps("units", feature.scan(), len(feature.part_names))
    for clip_ids, values, offsets in units:
        counts = np.diff(offsets)
        known = np.array([clip in position for clip in clip_ids], bool) & (counts > 0)
        if not known.any():
            continue
        kept = _spread(offsets)
        of_row = np.repeat(np.arange(len(counts)), np.minimum(counts, ROWS))
        kept = kept[known[of_row]]
        made = [
            unit((_roots(values[kept[i : i + ROWS_AT_ONCE]]) - centre) @ directions)
            for i in range(0, len(kept), ROWS_AT_ONCE)
        ]
        here = np.flatnonzero(known)
        same = np.array([_is_plain(values[offsets[i] : offsets[i + 1]]) for i in here], bool)
        clips = np.array([position[clip_ids[i]] for i in here], np.int64)
        yield clips, np.minimum(counts, ROWS)[here], np.concatenate(made).astype(np.float16), same


def _spread(offsets: Int64[np.ndarray, "V_plus_1"]) -> Int64[np.ndarray, "_"]:
    """The rows to keep: at most `ROWS` of each clip, evenly spread."""
    counts = np.diff(offsets)
    kept = np.minimum(counts, ROWS)
    clip = np.repeat(np.arange(len(counts)), kept)
    step = np.arange(len(clip)) - np.repeat(np.cumsum(kept) - kept, kept)
    last = np.maximum(kept[clip] - 1, 1)
    return offsets[:-1][clip] + (step * (counts[clip] - 1) + last // 2) // last


def _is_plain(rows: Float16[np.ndarray, "_ D"]) -> bool:
    """Whether rows tell nothing of a clip: they are all the same, or of a few numbers only."""
    if not (rows == rows[:1]).all():
        return False
    return len(rows) > 1 or len(np.unique(rows)) <= FEW * rows.shape[1]


def _roots(rows: Float16[np.ndarray, "_ D"]) -> Float32[np.ndarray, "_ D"]:
    """The signed square roots of rows: heavy entries no longer outvote all others."""
    wide = rows.astype(np.float32)
    return np.sign(wide) * np.sqrt(np.abs(wide))


def _whitening(
    rows: Float32[np.ndarray, "_ D"], size: int
) -> tuple[Float32[np.ndarray, "D"], Float32[np.ndarray, "D S"]]:
    """The centre of rows, and the directions that whiten them, the widest first."""
    centre = rows.mean(0, dtype=np.float64)
    covariance = np.zeros((rows.shape[1],) * 2)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[first : first + ROWS_AT_ONCE] - centre.astype(np.float32)
        covariance += part.T @ part
    variance, directions = np.linalg.eigh(covariance / len(rows))
    widest = np.argsort(-variance, kind="stable")[:size]
    variance = np.maximum(variance[widest], 0)
    scale = np.sqrt(variance + RIDGE * variance.mean() + np.finfo(np.float32).tiny)
    return centre.astype(np.float32), (directions[:, widest] / scale).astype(np.float32)


def unit(vectors: Float[np.ndarray, "_ S"]) -> Float32[np.ndarray, "_ S"]:
    """Vectors of length 1; of nothing, nothing."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-6)).astype(np.float32)
