"""Names in the store: what may become a file name, and how clips are keyed.

Clip ids are free text and never become file names; their keys are 128-bit digests.
Shapes: n = clips.
"""

import re
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from jaxtyping import UInt64

SAFE_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,95}")
MAX_CLIP_ID_BYTES = 4096

# C0, DEL, C1, line and paragraph separators, halves of surrogate pairs: they break logs and UTF-8.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_safe_name(name: str) -> bool:
    """Whether `name` may be a feature, unit or part on disk."""
    return SAFE_NAME.fullmatch(name) is not None


def clip_id_fault(clip_id: str) -> str | None:
    """The fault of a clip id, or None."""
    if not clip_id:
        return "is empty"
    if UNPRINTABLE.search(clip_id):
        return "contains a control character"
    if (size := len(clip_id.encode())) > MAX_CLIP_ID_BYTES:
        return f"is {size} bytes long; at most {MAX_CLIP_ID_BYTES} fit"
    return None


def clip_key(clip_id: str) -> bytes:
    """The first 128 bits of sha256 of the id: the join key."""
    return sha256(clip_id.encode()).digest()[:16]


def clip_keys(clip_ids: Sequence[str]) -> UInt64[np.ndarray, "n 2"]:
    """Keys of many clips as two big-endian halves each."""
    joined = b"".join(map(clip_key, clip_ids))
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def unit_name(feature_id: str, clip_ids: Sequence[str], *, retry: int = 0) -> str:
    """`u-` and 20 hex of sha256 over feature id, clip keys in order and the retry's number, if any.

    The same clips give the same unit everywhere, so a double run costs time and never correctness.
    """
    digest = sha256(feature_id.encode() + b"".join(map(clip_key, clip_ids)))
    if retry:
        digest.update(f"retry {retry}".encode())
    return f"u-{digest.hexdigest()[:20]}"
