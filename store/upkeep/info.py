"""Collects what a store holds, as data for a report."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from store.errors import MissingFile
from store.features.feature import Feature
from store.progress import Progress, counter
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


def info(store: Store, *, progress: Progress | None = None) -> StoreInfo:
    """Features with their clips, rows, bytes, provenance, and the manifests; `progress` hears of
    units.

    Raises:
        DamagedStore: names what cannot be read.
    """
    features = [store[name] for name in store.features]
    advance = counter(progress, sum(len(feature.part_names) for feature in features))
    return StoreInfo(
        path=store.name,
        store_id=store.store_id,
        manifests=_manifests(store),
        features=[_feature(feature, advance) for feature in features],
    )


def _manifests(store: Store) -> KeptManifests:
    try:
        manifest = store.manifest()
    except MissingFile:
        return KeptManifests(kept=0, clips=0, columns=[])
    return KeptManifests(
        kept=len(store.manifest_names()), clips=len(manifest), columns=list(manifest.columns)
    )


def _feature(feature: Feature, advance: Callable[[int], None]) -> FeatureInfo:
    rows = size = 0
    for record in feature.records():
        rows += record.rows
        size += sum(file.size for file in record.files)
    return FeatureInfo(
        name=feature.name,
        modality=feature.modality,
        dim=feature.dim,
        dtype=str(feature.dtype),
        clips=feature.clips,
        status={status.kind: count for status, count in feature.status_counts().items()},
        rows=rows,
        bytes=size,
        parts=len(feature.part_names),
        spec=feature.spec.digested,
        notes=feature.notes,
        written_by=_writers(feature, advance),
    )


def _writers(feature: Feature, advance: Callable[[int], None]) -> dict[str, list[str]]:
    """Everything that the parts say of who wrote them, by key."""
    values: dict[str, set[str]] = {}
    for attributes in feature.part_attributes():
        for key, value in attributes.get("writer", {}).items():
            values.setdefault(key, set()).add(str(value))
        advance(1)
    return {key: sorted(texts) for key, texts in sorted(values.items())}
