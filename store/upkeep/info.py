"""Collects what a store holds, as data for a report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from store.errors import MissingFile
from store.features.feature import Feature
from store.status import Status
from store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptManifests:
    """The manifests that a store keeps, taken together."""

    kept: int
    clips: int
    columns: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureInfo:
    """One feature: `clips` and `status` count a clip once, `rows` and `bytes` what is on disk."""

    name: str
    modality: str
    dim: int
    dtype: str
    clips: int
    status: dict[str, int]  # clips by kind
    rows: int
    bytes: int
    parts: int
    spec: dict[str, Any]  # all that its name is a digest of
    notes: Mapping[str, Any]
    written_by: dict[str, list[str]]  # libraries and devices, each in all its versions


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreInfo:
    """A store, as `store info` shows it."""

    path: str
    store_id: str
    manifests: KeptManifests
    features: list[FeatureInfo]

    def to_dict(self) -> dict[str, Any]:
        """The object that `store info --json` prints."""
        return asdict(self)


def info(store: Store) -> StoreInfo:
    """Features with their clips, rows, bytes, provenance, and the manifests.

    Raises:
        DamagedStore: names what cannot be read.
    """
    return StoreInfo(
        path=store.name,
        store_id=store.store_id,
        manifests=_manifests(store),
        features=[_feature(store[name]) for name in store.features],
    )


def _manifests(store: Store) -> KeptManifests:
    try:
        manifest = store.manifest()
    except MissingFile:
        return KeptManifests(kept=0, clips=0, columns=[])
    return KeptManifests(
        kept=len(store.manifest_names()), clips=len(manifest), columns=list(manifest.columns)
    )


def _feature(feature: Feature) -> FeatureInfo:
    records = list(feature.records())
    counts = Counter(feature.status.tolist())
    return FeatureInfo(
        name=feature.name,
        modality=feature.modality,
        dim=feature.dim,
        dtype=str(feature.dtype),
        clips=len(feature.clip_ids),
        status={Status(number).kind: count for number, count in sorted(counts.items())},
        rows=sum(record.rows for record in records),
        bytes=sum(file.size for record in records for file in record.files),
        parts=len(records),
        spec=feature.spec.digested,
        notes=feature.notes,
        written_by=_writers(feature),
    )


def _writers(feature: Feature) -> dict[str, list[str]]:
    """Everything that the parts say of who wrote them, by key."""
    values: dict[str, set[str]] = {}
    for attributes in feature.part_attributes():
        for key, value in attributes.get("writer", {}).items():
            values.setdefault(key, set()).add(str(value))
    return {key: sorted(texts) for key, texts in sorted(values.items())}
