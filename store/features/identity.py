"""The identity of a feature: put into the attributes of its group, and read back from there."""

import json
from collections.abc import Mapping
from typing import Any

from store.errors import DamagedStore
from store.parts import layout
from store.parts.commit import FeatureKeys
from store.spec import FeatureSpec
from store.storage import posix
from store.storage.storage import Storage


def make_feature(storage: Storage, spec: FeatureSpec) -> None:
    """Put the groups of a feature where they are not there yet."""
    keys = FeatureKeys(storage=storage, feature_id=spec.feature_id)
    if (root := storage.local_path) is not None:
        with posix.writing(root / keys.commits):
            posix.make_directory(root / keys.commits)
    storage.put_if_absent(f"{keys.parts}/zarr.json", layout.group_json({}))
    attributes = layout.group_json(layout.feature_attributes(spec))
    storage.put_if_absent(f"{keys.feature}/zarr.json", attributes)


def read_spec(keys: FeatureKeys) -> FeatureSpec:
    """The identity a feature was made with.

    Raises:
        DamagedStore: the attributes do not give the feature's own name.
    """
    key = f"{keys.feature}/zarr.json"
    data = keys.storage.get(key, limit_bytes=layout.MAX_METADATA_BYTES)
    return parse_spec(data, keys.feature_id, where=f"{keys.storage.name}/{key}")


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
    except MemoryError:  # says nothing of the bytes
        raise
    except Exception as error:  # whatever a hostile file makes the parser or the value object say
        raise DamagedStore(
            f"{where} does not describe a feature ({type(error).__name__})"
        ) from error
    if not sound or spec.feature_id != feature_id:
        raise DamagedStore(f"{where} describes another feature than {feature_id}")
    return spec
