"""Hashed pieces of words: nothing is fetched or learnt, in any language and script.

A text is folded (compatibility forms, case, blanks), and every word gives itself and all runs of
`shortest` to `longest` characters of it, ends marked. Each is hashed to one of `dim` numbers and a
sign; how often it occurs counts by its root, and the row is brought to length 1.

Texts are alike that share words, names, stems or spellings, mistyped ones too. What words mean it
does not know: `dog` and `hound` share nothing, and two languages only names and kindred spellings.
Scripts without blanks between words (Chinese, Thai) are one long word each: runs still tell.

Source: hashing with signs, Weinberger et al., 2009; runs of characters as pieces of words,
Bojanowski et al., 2017.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Float32

from store.errors import ConfigError
from store.settings import Settings, setting

NAME = "ngrams"
REVISION = 1  # raise when our numbers change
# A run of letters, digits and the marks that stand on them; everything else parts words.
_WORD = re.compile(r"[^\W_]+(?:[^\w\s]?[^\W_]+)*|[^\W_]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `ngrams`."""

    dim: int = setting(1024, at_least=16, main=True)
    shortest: int = setting(2, at_least=1)  # characters of a run
    longest: int = setting(4, at_least=1)

    def check(self) -> None:
        """Refuse runs that begin longer than they end."""
        if self.shortest > self.longest:
            raise ConfigError(f"{NAME}: shortest={self.shortest} is above longest={self.longest}")


class NGrams:
    """Texts as hashed pieces of their words."""

    name = NAME

    def __init__(self, config: Config) -> None:
        self.slug = NAME
        self.dim = config.dim
        self.identity: dict[str, Any] = {
            "network": NAME, "revision": REVISION, "dim": config.dim,
            "shortest": config.shortest, "longest": config.longest,
        }  # fmt: skip
        self.notes = {"licence": "none needed"}
        self._config = config

    def pieces(self, text: str) -> list[str]:
        """The text itself, if there is a word in it."""
        return [text] if _WORD.search(folded(text)) else []

    def __call__(self, pieces: Sequence[str]) -> Float32[np.ndarray, "B D"]:
        """A row of length 1 for each text."""
        rows = np.zeros((len(pieces), self.dim), np.float32)
        for row, text in zip(rows, pieces, strict=True):
            counts = Counter(
                part
                for word in _WORD.findall(folded(text))
                for part in parts(word, self._config.shortest, self._config.longest)
            )
            hashed = np.array([_hash(part) for part in counts], np.uint64)
            signs = np.where(hashed >> np.uint64(63), 1.0, -1.0)
            sizes = np.sqrt(np.fromiter(counts.values(), np.float64, len(counts)))
            np.add.at(row, (hashed % np.uint64(self.dim)).astype(np.int64), signs * sizes)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(lengths > 0, lengths, 1)


def folded(text: str) -> str:
    """Text in one spelling: compatibility forms joined, no case."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@lru_cache(1 << 16)
def parts(word: str, shortest: int, longest: int) -> tuple[str, ...]:
    """The word, and the runs of its characters, with `<` and `>` for its ends."""
    marked = f"<{word}>"
    runs = (
        marked[i : i + size]
        for size in range(shortest, longest + 1)
        for i in range(len(marked) - size + 1)
    )
    return (f"={word}", *runs)


@lru_cache(1 << 18)
def _hash(part: str) -> int:
    return int.from_bytes(blake2b(part.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def build(config: Config, device: str = "cpu") -> NGrams:
    """The encoder that these settings describe."""
    return NGrams(config)
