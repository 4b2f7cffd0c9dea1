"""Pairs of clips that may be of one source, and how alike they are, row by row.

Candidates are the nearest of a few means of each clip, by FAISS; each pair is then compared row by
row: every row of the shorter clip is held against the nearest of the other, so that a clip that was
cut shorter, or whose frames were taken at other times, is still the same.

Shapes: V = clips, P = pairs, S = size of a signature, T = rows of a clip (padded).
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int64

from learn.inference.signatures import Signatures
from store.progress import in_steps

KEYS = 4  # means of each clip that are looked for
NEAREST = 16  # other clips that each clip is compared with
EXACT_KEYS = 20_000  # beyond that many, cells of an index are searched
PROBES = 16
PAIRS_AT_ONCE = 2048
KEYS_AT_ONCE = 16_384


def candidates(of: Signatures) -> Int64[np.ndarray, "P 2"]:
    """Pairs of clips, each once, the lower number first: all near ones are among them."""
    import faiss  # seconds, which no other command should pay

    keys, clip = of.keys(KEYS)
    size, dim = keys.shape
    index: Any = faiss.IndexFlatIP(dim)
    if size > EXACT_KEYS:
        cells = int(2 * size**0.5)
        index = faiss.IndexIVFFlat(index, dim, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = 64
        index.cp.seed = 0
        index.nprobe = PROBES
        index.train(keys)
    index.add(keys)
    wanted = min(NEAREST + KEYS, size)
    pairs = []
    starts = range(0, size, KEYS_AT_ONCE)
    for first in in_steps("blocks of candidates", starts, len(starts)):
        chunk = slice(first, first + KEYS_AT_ONCE)
        scores, found = index.search(keys[chunk], wanted)
        own = np.repeat(clip[chunk], wanted)
        other = clip[np.maximum(found, 0).ravel()]
        differs = (own != other) & (found.ravel() >= 0)
        pairs.append((own[differs], other[differs], scores.ravel()[differs]))
    a, b, score = (np.concatenate(x) for x in zip(*pairs, strict=True))
    return _best_of_each(a, b, score)


def _best_of_each(
    a: Int64[np.ndarray, "_"], b: Int64[np.ndarray, "_"], score: Float32[np.ndarray, "_"]
) -> Int64[np.ndarray, "P 2"]:
    """The pairs that are among the `NEAREST` of either clip."""
    order = np.lexsort((b, -score, a))
    a, b = a[order], b[order]
    first = np.unique(a * (b.max(initial=0) + 1) + b, return_index=True)[1]
    kept = np.sort(first)  # of each pair its best, in order of clip and score
    a, b = a[kept], b[kept]
    begins = np.searchsorted(a, a)
    a, b = (x[np.arange(len(a)) - begins < NEAREST] for x in (a, b))
    return np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1), axis=0)


def similarity(of: Signatures, pairs: Int[np.ndarray, "P 2"]) -> Float32[np.ndarray, "P"]:
    """How alike the clips of each pair are: the mean, over the rows of the shorter one, of the
    largest cosine with a row of the other; of equally long ones the lower of both ways."""
    found = np.empty(len(pairs), np.float32)
    longest = of.counts[pairs].max(axis=1) if len(pairs) else np.empty(0, np.int64)
    order = np.argsort(longest, kind="stable")  # pairs of one length are padded the least
    starts = range(0, len(pairs), PAIRS_AT_ONCE)
    for first in in_steps("blocks of pairs", starts, len(starts)):
        chosen = order[first : first + PAIRS_AT_ONCE]
        found[chosen] = _similarity(of, pairs[chosen])
    return found


def _similarity(of: Signatures, pairs: Int[np.ndarray, "P 2"]) -> Float32[np.ndarray, "P"]:
    left, right = of.padded(pairs[:, 0]), of.padded(pairs[:, 1])
    cosines = left @ right.transpose(0, 2, 1)
    counts = of.counts[pairs]
    there = [np.arange(rows.shape[1]) < counts[:, i, None] for i, rows in enumerate((left, right))]
    cosines = np.where(there[0][:, :, None] & there[1][:, None, :], cosines, -1)
    forth = np.where(there[0], cosines.max(axis=2), 0).sum(1) / counts[:, 0]
    back = np.where(there[1], cosines.max(axis=1), 0).sum(1) / counts[:, 1]
    shorter_first, shorter_second = counts[:, 0] < counts[:, 1], counts[:, 1] < counts[:, 0]
    return np.where(
        shorter_first, forth, np.where(shorter_second, back, np.minimum(forth, back))
    ).astype(np.float32)
