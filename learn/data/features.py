"""The feature of a modality that a call is about."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from store.errors import UnknownFeature

if TYPE_CHECKING:
    from store import Feature, Store

MODALITIES = ("visual", "audio", "text")
TEXT = MODALITIES[-1]
SENSED = MODALITIES[:2]  # that are in a clip's media
FeatureNames = str | Sequence[str] | None  # None: the only one of its modality


def names_of(asked: FeatureNames) -> tuple[str, ...]:
    """The names asked for, each once."""
    return tuple(dict.fromkeys((asked,) if isinstance(asked, str) else asked or ()))


def choose_feature(store: "Store", modality: str, name: str | None) -> "Feature | None":
    """The feature asked for, or the only one of that modality, or None where there is none.

    Raises:
        UnknownFeature: no such feature, one of another modality, or several and none named.
    """
    if name is not None:
        feature = store[name]
        if feature.modality != modality:
            raise UnknownFeature(
                f"{feature.name} is {feature.modality}, not {modality}; name another"
            )
        return feature
    known = [f for f in map(store.__getitem__, store.features) if f.modality == modality]
    if len(known) > 1:
        raise UnknownFeature(
            f"the store has {len(known)} {modality} features; name one or several of them: "
            f"{', '.join(f.name for f in known)}"
        )
    return known[0] if known else None
