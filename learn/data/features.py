"""The feature of a modality that a call is about."""

from typing import TYPE_CHECKING

from store.errors import UnknownFeature

if TYPE_CHECKING:
    from store import Feature, Store

MODALITIES = ("visual", "audio")


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
            f"the store has {len(known)} {modality} features; name one of them: "
            f"{', '.join(f.name for f in known)}"
        )
    return known[0] if known else None
