"""The feature store: what it holds, how to write it, read it and trust it.

    fs = store.open(DIR)                            # or store.create(DIR)
    fs.features                                     # names of the features
    values, offsets = fs[name].read(clip_ids)       # rows of those clips, in that order

Names are imported on first use, so that `import store` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from store.features.feature import Feature
    from store.manifest import Manifest, read_manifest
    from store.parts.unit_rows import UnitRows
    from store.spec import FeatureSpec
    from store.status import Status
    from store.store import Store, create, find, open

__all__ = [
    "Feature",
    "FeatureSpec",
    "Manifest",
    "Status",
    "Store",
    "UnitRows",
    "create",
    "find",
    "open",
    "read_manifest",
]

_HOME = {
    "Feature": "features.feature",
    "FeatureSpec": "spec",
    "Manifest": "manifest",
    "Status": "status",
    "Store": "store",
    "UnitRows": "parts.unit_rows",
    "create": "store",
    "find": "store",
    "open": "store",
    "read_manifest": "manifest",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'store' has no attribute {name!r}")
    return getattr(import_module(f"store.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
