"""A set of media files by their digests, small enough for an encoder's notes.

A Bloom filter: a file of the set is always found, and one that is not is found by mistake with the
chance that `mistakes` tells. The digests are SHA-256, whose bits are as good as any hash's: slices
of a digest say which bits of the filter are its own.

Shapes: n = files.

Source: Bloom (1970), "Space/Time Trade-offs in Hash Coding with Allowable Errors".
"""

import base64
import binascii
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from store.errors import InputError

MOST_SLICES = 8  # of four bytes each: all that a digest has
BITS_A_FILE = 32  # mistakes: 1 in 170,000
MOST_BYTES = 12_000  # 48 kB of notes hold three such sets; 10,000 files: 1 % mistakes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Membership:
    """The files of a set, as bits."""

    bits: UInt8[np.ndarray, "_"]  # 0 or 1
    files: int

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> "Membership":
        """The set of these files."""
        known = sorted(set(digests))
        size = 8 * min(MOST_BYTES, max(8, math.ceil(BITS_A_FILE * len(known) / 8)))
        bits = np.zeros(size, np.uint8)
        if known:
            rows = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 32)
            bits[_places(rows, size, slices(len(known), size))] = 1
        return cls(bits=bits, files=len(known))

    @property
    def mistakes(self) -> float:
        """The chance that a file that is not of the set is taken for one."""
        return float(self.bits.mean() ** slices(self.files, len(self.bits)))

    def has(self, digests: UInt8[np.ndarray, "n 32"]) -> Bool[np.ndarray, "n"]:
        """A mask of the files that are of the set; zeros stand for a file that nobody knows."""
        known = digests.any(1)
        size = len(self.bits)
        places = _places(digests, size, slices(self.files, size))
        return known & self.bits[places].all(1)

    def to_dict(self) -> dict[str, Any]:
        """The set as notes hold it."""
        packed = base64.b64encode(np.packbits(self.bits).tobytes()).decode()
        return {"files": self.files, "bits": packed}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> "Membership":
        """What `to_dict` gave.

        Raises:
            InputError: it is none.
        """
        try:
            packed = base64.b64decode(facts["bits"], validate=True)
            files = int(facts["files"])
        except (KeyError, TypeError, ValueError, binascii.Error) as fault:
            raise InputError(f"a set of files is damaged ({fault})") from None
        if not 8 <= len(packed) <= MOST_BYTES:
            raise InputError(f"a set of files has {len(packed)} bytes; it is none of ours")
        return cls(bits=np.unpackbits(np.frombuffer(packed, np.uint8)), files=files)


def slices(files: int, size: int) -> int:
    """How many bits are each file's own: so many that half of all are set, if it has as many."""
    return min(MOST_SLICES, max(1, round(math.log(2) * size / max(1, files))))


def _places(digests: UInt8[np.ndarray, "n 32"], size: int, count: int) -> np.ndarray:
    """The bits that are each file's own."""
    words = np.ascontiguousarray(digests).view("<u4")[:, :count]
    return (words % size).astype(np.int64)
