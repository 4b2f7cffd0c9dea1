"""Encoders of text: what is said or written in a clip, as embeddings.

Shapes: B = pieces of text, D = embedding size.

An encoder is a pure function of one text: neither its neighbours nor the order of calls may change
a row. Each plug-in offers `Config` and `build(config, device)`, which gives a `TextEncoder`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

FAMILY = "extract.texts"
DEFAULT = "ngrams"  # needs no weights


@runtime_checkable
class TextEncoder(Protocol):
    """The interface of every encoder of text to `extract text`."""

    name: str  # the plug-in's name
    slug: str  # the readable half of the feature's id
    dim: int
    identity: Mapping[str, Any]  # all that decides the numbers, as JSON; goes into the digest
    notes: Mapping[str, Any]  # for people: model and licence; not in the digest

    def pieces(self, text: str) -> list[str]:
        """What a text is cut into, in order: a row each. None of a text that says nothing."""

    def __call__(self, pieces: Sequence[str]) -> Float32[np.ndarray, "B D"]:
        """A row of length 1 for each piece."""
