"""What a feature's group says of it: written when the feature is made, and checked when read."""

import json
from collections.abc import Mapping
from typing import Any

from store.errors import DamagedStore
from store.parts import layout
from store.parts.commit import Places
from store.spec import FeatureSpec
from store.storage import posix
from store.storage.storage import PosixStorage, Storage


def make_feature(storage: Storage, spec: FeatureSpec) -> None:
    """Put the groups of a feature where they are not there yet."""
    places = Places(storage=storage, feature_id=spec.feature_id)
    if isinstance(storage, PosixStorage):
        with posix.writing(storage.root / places.commits):
            posix.make_directory(storage.root / places.commits)
    storage.put_if_absent(f"{places.parts}/zarr.json", layout.group_json({}))
    attributes = layout.group_json(layout.feature_attributes(spec))
    storage.put_if_absent(f"{places.feature}/zarr.json", attributes)


def read_spec(places: Places) -> FeatureSpec:
    """The identity a feature was made with.

    Raises:
        DamagedStore: the attributes do not give the feature's own name.
    """
    key = f"{places.feature}/zarr.json"
    data = places.storage.get(key, limit_bytes=layout.MAX_METADATA_BYTES)
    return parse_spec(data, places.feature_id, where=f"{places.storage.name}/{key}")


def parse_spec(data: bytes, feature_id: str, *, where: str) -> FeatureSpec:
    """The identity in the attributes of a feature's group.

    Raises:
        DamagedStore: they do not give the feature's own name.
    """
    try:
        document = json.loads(data)
        attributes: Mapping[str, Any] = document["attributes"]
        names = ("slug", "modality", "dim", "identity", "notes")
        spec = FeatureSpec(**{name: attributes[name] for name in names})
        sound = json.loads(layout.group_json(layout.feature_attributes(spec))) == document
    except Exception as error:  # whatever a hostile file makes the parser or the value object say
        raise DamagedStore(
            f"{where} does not describe a feature ({type(error).__name__})"
        ) from error
    if not sound or spec.feature_id != feature_id:
        raise DamagedStore(f"{where} describes another feature than {feature_id}")
    return spec
