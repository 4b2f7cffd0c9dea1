"""Whether text that nobody named is looked at: only where it leaves hardly any clip out.

All modes of one call are about the same clips, those with rows in every feature in play. Text often
comes for a few clips of a collection; numbers about sight and sound would then be about these few.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from learn.data.features import TEXT
from learn.fewshot.modes import modality_of

if TYPE_CHECKING:
    from store import Feature, Store

ENOUGH = 0.9  # of the clips that have rows in the other features


@dataclass(frozen=True, slots=True, kw_only=True)
class ScarceText:
    """How many clips have text, of those that every other feature has rows of."""

    clips: int
    of: int

    def to_dict(self) -> dict[str, int]:
        """The object that results have."""
        return asdict(self)


def scarce_text(
    features: "Mapping[str, Feature]", asked: "Iterable[tuple[Store | None, Sequence[str]]]"
) -> ScarceText | None:
    """The first of these sets of clips of which too few have text; None where all have enough, or
    there is nothing but text.

    A set is of another store where one stands beside it, whose features have the same names.
    """
    text = [feature.name for sense, feature in features.items() if modality_of(sense) == TEXT]
    others = [feature.name for sense, feature in features.items() if modality_of(sense) != TEXT]
    if not text or not others:
        return None
    stored = {feature.name: feature for feature in features.values()}
    for store, clips in asked:
        known = stored if store is None else {n: store[n] for n in stored if n in store.features}
        if not known.keys() >= set(others):
            continue  # nothing can be compared there, with text or without
        has = {name: feature.locate(clips).rows > 0 for name, feature in known.items()}
        usable = np.logical_and.reduce([has[name] for name in others])
        none = np.zeros(len(clips), bool)
        both = usable & np.logical_and.reduce([has.get(name, none) for name in text])
        if both.sum() < ENOUGH * usable.sum():
            return ScarceText(clips=int(both.sum()), of=int(usable.sum()))
    return None
