"""Bringing the units of other stores into one: copied, checked, and committed as they are.

Both sides may be directories or buckets, so this is also the way into a bucket and out of it.
Units have the same name everywhere: merging twice changes nothing, and a merge that was interrupted
goes on. Where both have a unit the one that is there stays; clips that have rows only in the other
store are then written as a retry, for a clip with rows beats one without.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from store.errors import DamagedStore, InputError, NotAStore, StoreError
from store.features.feature import Feature
from store.features.identity import make_feature, parse_spec, read_spec
from store.manifest import MAX_KEPT_BYTES, from_parquet
from store.names import is_safe_name
from store.parts import layout
from store.parts.commit import MAX_RECORD_BYTES, CommitRecord, FeatureKeys, put_record
from store.parts.part import Part
from store.parts.unit_rows import UnitRows
from store.storage import posix
from store.storage.storage import Storage, storage_at
from store.store import (
    MANIFEST_NAME,
    MAX_STORE_JSON_BYTES,
    create,
    parse_store_json,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A unit or manifest of another store that was not taken, and why."""

    store: str
    feature: str
    unit: str
    message: str


@dataclass(slots=True, kw_only=True)
class Merged:
    """Counts of what was copied and what was not."""

    features: int = 0
    units: int = 0  # copied
    present: int = 0  # were there already
    retried_clips: int = 0  # had rows only in the other store
    manifests: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The object that `store merge --json` prints."""
        return asdict(self)


def merge(target: str | Path, others: Sequence[str | Path]) -> Merged:
    """Copy every sound unit and manifest of the other stores into `target`, made if need be.

    Each is a directory or `s3://BUCKET/PREFIX`.

    Raises:
        NotAStore: one of the others is none.
        InputError: one of the others is the target.
        StoreError: the disk or the bucket refused.
    """
    destination = storage_at(target)
    sources = [storage_at(path) for path in others]
    for source in sources:
        if _same(source, destination):
            raise InputError(f"{target} cannot be merged into itself; name other stores")
        _check_store(source)
    create(destination.name)
    merged = Merged()
    for source in sources:
        _merge_manifests(source, destination, merged)
        for name, units in _committed(source).items():
            try:
                _merge_feature(source, destination, name)
            except DamagedStore as error:
                merged.damaged.append(_damage(source, name, "", error))
                continue
            merged.features += 1
            present = set(_committed(destination, name).get(name, ()))
            for unit in units:
                try:
                    _merge_unit(source, destination, name, unit, unit in present, merged)
                except DamagedStore as error:
                    merged.damaged.append(_damage(source, name, unit, error))
    return merged


def _same(left: Storage, right: Storage) -> bool:
    ours, theirs = left.local_path, right.local_path
    if ours is not None and theirs is not None:
        return theirs.exists() and ours.exists() and ours.samefile(theirs)
    return left.name == right.name


def _check_store(storage: Storage) -> None:
    if not storage.exists("store.json"):
        raise NotAStore(f"{storage.name} is no store; name one that `extract run` made")
    data = storage.get("store.json", limit_bytes=MAX_STORE_JSON_BYTES)
    parse_store_json(data, where=storage.name)


def _committed(storage: Storage, feature: str = "") -> dict[str, list[str]]:
    """Unit names by feature."""
    units: dict[str, list[str]] = {}
    for key in storage.keys(f"commits/{feature}/" if feature else "commits/"):
        _, name, file, *deeper = [*key.split("/"), ""]
        unit = file.removesuffix(".json")
        if not any(deeper) and unit != file and is_safe_name(name) and is_safe_name(unit):
            units.setdefault(name, []).append(unit)
    return units


def _merge_manifests(source: Storage, target: Storage, merged: Merged) -> None:
    present = set(target.keys("manifests/"))
    for key in source.keys("manifests/"):
        named = MANIFEST_NAME.fullmatch(key.removeprefix("manifests/"))
        if not named or key in present:
            continue
        try:
            data = source.get(key, limit_bytes=MAX_KEPT_BYTES)
            if from_parquet(data, name=key).digest[:12] != named[2]:
                raise DamagedStore(f"{key} is not the manifest that was kept")  # noqa: TRY301
        except DamagedStore as error:
            merged.damaged.append(_damage(source, "", "", error))
            continue
        merged.manifests += target.put_if_absent(key, data)


def _merge_feature(source: Storage, target: Storage, name: str) -> None:
    key, limit = f"data.zarr/{name}/zarr.json", layout.MAX_METADATA_BYTES
    theirs = parse_spec(source.get(key, limit_bytes=limit), name, where=f"{source.name}/{key}")
    make_feature(target, theirs)
    ours = parse_spec(target.get(key, limit_bytes=limit), name, where=f"{target.name}/{key}")
    if ours.digested != theirs.digested:
        raise DamagedStore(f"{target.name}/{key} has another identity; run: store verify DIR")


def _merge_unit(
    source: Storage, target: Storage, feature: str, unit: str, present: bool, merged: Merged
) -> None:
    record = _record(source, feature, unit)
    if not present:
        _copy_part(source, target, record)
        if put_record(target, record):
            merged.units += 1
            merged.bytes += sum(file.size for file in record.files)
            return
    merged.present += 1
    if _record(target, feature, unit).nonce == record.nonce:
        return
    keys = FeatureKeys(storage=target, feature_id=feature)
    existing = Feature(keys, read_spec(keys))
    theirs = Part(FeatureKeys(storage=source, feature_id=feature), record)
    merged.retried_clips += _retry(existing, theirs)


def _record(storage: Storage, feature: str, unit: str) -> CommitRecord:
    data = storage.get(f"commits/{feature}/{unit}.json", limit_bytes=MAX_RECORD_BYTES)
    return CommitRecord.from_bytes(data, feature_id=feature, unit=unit)


def _copy_part(source: Storage, target: Storage, record: CommitRecord) -> None:
    """Copy the files a record names, each as it was written, and nothing else.

    Raises:
        DamagedStore: a file is not as it was written.
    """
    key = f"data.zarr/{record.feature_id}/parts/{record.part}"
    if (root := target.local_path) is not None:
        _clear(root, key, record)
        if (root / key).exists():
            return
    with target.staging(f"publish-{token_hex(8)}") as staged:
        with posix.writing(staged):
            for name, data in _checked_files(source, key, record):
                posix.make_directory((staged / name).parent)
                (staged / name).write_bytes(data)
        target.publish(staged, key)


def _clear(root: Path, key: str, record: CommitRecord) -> None:
    """Move a torn part out of the way; one of a merge that did not get to commit is whole."""
    part, staging = posix.inside(root, key), posix.inside(root, "tmp")
    if part.exists():
        records = [posix.file_record(part, name) for name in posix.keys_under(part)]
        if records != list(record.files):
            with posix.writing(part):
                part.rename(Path(tempfile.mkdtemp(prefix="torn-", dir=staging)) / part.name)


def _checked_files(source: Storage, key: str, record: CommitRecord) -> Iterator[tuple[str, bytes]]:
    for file in record.files:
        data = source.get(f"{key}/{file.key}", limit_bytes=file.size)
        if posix.FileRecord.of(file.key, data) != file:
            raise DamagedStore(
                f"{record.feature_id}/{record.unit}: {file.key} is not the file that was written; "
                f"run: store repair {source.name}"
            )
        yield file.key, data


def _retry(target: Feature, part: Part) -> int:
    """Write the clips with rows in the part and none in `target` as a retry; returns how many.

    Raises:
        DamagedStore: the part is not as it was written.
    """
    part.verify()
    known = target.committed()
    wanted = [
        index
        for index, clip_id in enumerate(part.clip_ids)
        if part.row_count[index] and not (clip_id in known and known[clip_id].has_rows)
    ]
    if not wanted:
        return 0
    start, count = part.row_start[wanted], part.row_count[wanted]
    spans = list(zip(start.tolist(), (start + count).tolist(), strict=True))
    rows = UnitRows(
        clip_ids=tuple(part.clip_ids[index] for index in wanted),
        values=np.concatenate([part.rows(*span) for span in spans]),
        row_time_ms=part.row_time_ms[np.concatenate([np.arange(*span) for span in spans])],
        row_count=count.astype(np.uint16),
        status=part.status[wanted],
        media_sha256=part.media_sha256[wanted],
        detail=tuple(part.details[index] for index in wanted),
    )
    writer = part.attributes().get("writer", {})
    if not target.commit(rows, writer, retry=target.tries(rows.clip_ids)):
        raise StoreError(f"{target.name}: another writer tried the same clips again; merge again")
    return len(wanted)


def _damage(source: Storage, feature: str, unit: str, error: DamagedStore) -> Damage:
    return Damage(store=source.name, feature=feature, unit=unit, message=str(error))
