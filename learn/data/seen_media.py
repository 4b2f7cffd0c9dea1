"""Clips that the encoder of a feature was itself trained on, by the digests of their media.

Weights that `learn finetune` made say which media they learnt from; features made of them keep that
in their notes, and the store keeps the digest of every clip's file. A file cut into several clips
counts as a whole.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from store.membership import Membership

if TYPE_CHECKING:
    from store import Feature

NOTE = "trained_on"


def seen_by_encoder(feature: "Feature", ids: Collection[str]) -> frozenset[str]:
    """Those of the clips whose media the feature's encoder was trained on.

    Raises:
        InputError: the feature's notes are damaged.
    """
    sets = [Membership.from_dict(facts) for facts in feature.notes.get(NOTE, ())]
    if not sets:
        return frozenset()
    wanted, found = frozenset(ids), set[str]()
    for part in feature.parts():
        known = np.logical_or.reduce([of_one.has(part.media_sha256) for of_one in sets])
        found |= {clip for clip, seen in zip(part.clip_ids, known, strict=True) if seen} & wanted
    return frozenset(found)
