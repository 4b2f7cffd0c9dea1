"""What a store holds, as data for a report."""

from collections import Counter
from typing import Any

from store.errors import MissingFile
from store.features.feature import Feature
from store.status import Status
from store.store import Store


def info(store: Store) -> dict[str, Any]:
    """Features with their clips, rows, bytes, provenance, and the manifests, ready for JSON.

    Raises:
        DamagedStore: names what cannot be read.
    """
    try:
        manifest = store.manifest()
        clips, columns = len(manifest), list(manifest.columns)
    except MissingFile:
        clips, columns = 0, []
    return {
        "path": store.name,
        "store_id": store.store_id,
        "manifests": {"kept": len(store.manifest_names()), "clips": clips, "columns": columns},
        "features": [_feature_info(store[name]) for name in store.features],
    }


def _feature_info(feature: Feature) -> dict[str, Any]:
    """`clips` and `status` count a clip once; `rows` and `bytes` count what is on disk."""
    records = list(feature.records())
    codes = Counter(feature.status.tolist())
    versions: dict[str, set[str]] = {}
    for attributes in feature.part_attributes():
        for key, value in attributes.get("writer", {}).items():
            versions.setdefault(key, set()).add(str(value))
    return {
        "name": feature.name,
        "modality": feature.modality,
        "dim": feature.dim,
        "dtype": str(feature.dtype),
        "clips": len(feature.clip_ids),
        "status": {Status(code).kind: count for code, count in sorted(codes.items())},
        "rows": sum(record.rows for record in records),
        "bytes": sum(file.size for record in records for file in record.files),
        "parts": len(records),
        "spec": feature.spec.digested,
        "notes": feature.notes,
        "written_by": {key: sorted(seen) for key, seen in sorted(versions.items())},
    }
