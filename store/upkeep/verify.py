"""Finds every file that was changed, cut or lost since it was committed."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from store.errors import DamagedStore
from store.features.identity import read_spec
from store.names import clip_keys, is_safe_name, unit_name
from store.parts import layout
from store.parts.commit import CommitRecord, FeatureKeys, read_record
from store.parts.part import Part
from store.progress import Progress, counter
from store.storage import posix as files
from store.storage.storage import Storage
from store.store import Store

_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is not as it was written; empty text where a field does not apply."""

    kind: str  # name, feature, record, missing, size, crc32c, sha256, unexpected, content, manifest
    feature: str
    unit: str
    file: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The problems found, and counts of what was looked at.

    Garbage is no problem: parts no record names, and staging that a crash left behind.
    """

    problems: list[Problem]
    features: int
    units: int
    files: int
    bytes: int
    garbage_parts: int
    garbage_staging: int

    def to_dict(self) -> dict[str, Any]:
        """The object that `store verify --json` prints."""
        return asdict(self)


def verify(store: Store, deep: bool = False, *, progress: Progress | None = None) -> Report:
    """Compare every committed file with its record: size and crc32c.

    `deep` adds sha256, and reads each part to see that its tables fit each other; `progress` hears
    of units.
    """
    problems = list(_root_problems(store))
    units = checked = size = garbage = 0
    names = _feature_names(store)
    safe = filter(is_safe_name, names)
    total = sum(len(store.storage.names(f"{store.keys_of(name).commits}/")) for name in safe)
    advance = counter(progress, total)
    for name in names:
        if not is_safe_name(name):
            problems.append(
                _problem("name", name[:96], message=f"{name[:96]!r} is no feature name")
            )
            continue
        keys = store.keys_of(name)
        dim, faults = _feature_problems(keys)
        problems.extend(faults)
        named: set[str] = set()
        for record, faults in _check_units(keys, dim, deep):
            units += 1
            advance(1)
            problems.extend(faults)
            if record:
                named.add(record.part)
                checked += len(record.files)
                size += sum(file.size for file in record.files)
        parts = set(store.storage.names(f"{keys.parts}/")) - {"zarr.json"}
        garbage += len(parts - named)
    problems.extend(_manifest_problems(store))
    return Report(
        problems=problems,
        features=len(names),
        units=units,
        files=checked,
        bytes=size,
        garbage_parts=garbage,
        garbage_staging=len(store.storage.names("tmp/")),
    )


def unit_problems(store: Store, feature: str, unit: str, deep: bool = False) -> list[Problem]:
    """The problems of one unit."""
    keys = store.keys_of(feature)
    dim, _ = _feature_problems(keys)
    return _check_unit(keys, f"{unit}.json", dim, deep)[1]


def _check_units(
    keys: FeatureKeys, dim: int, deep: bool
) -> Iterator[tuple[CommitRecord | None, list[Problem]]]:
    """Check every unit; in a bucket many at once, for each waits for answers."""
    names = keys.storage.names(f"{keys.commits}/")
    check = partial(_check_unit, keys, dim=dim, deep=deep)
    if keys.storage.local_path is not None:
        yield from map(check, names)
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(check, names)


def _check_unit(
    keys: FeatureKeys, file_name: str, dim: int, deep: bool
) -> tuple[CommitRecord | None, list[Problem]]:
    """A unit's record, if it can be read, and what is wrong with the unit."""
    name, unit = keys.feature_id, file_name.removesuffix(".json")
    key = f"commits/{name}/{file_name}"
    try:
        if not is_safe_name(file_name) or not file_name.endswith(".json"):
            raise DamagedStore(f"{file_name[:96]!r} is no commit record's name")  # noqa: TRY301
        record = read_record(keys, unit)
    except DamagedStore as error:
        return None, [_problem("record", name, unit, key, str(error))]
    problems = list(_part_problems(keys, record, deep))
    if dim not in (0, record.dim):
        message = f"its rows have {record.dim} numbers, the feature's {dim}"
        problems.insert(0, _problem("record", name, unit, key, message))
    return record, problems


def _feature_names(store: Store) -> list[str]:
    """A feature is what has a group or commit records: losing one of them must show."""
    names = set(store.storage.names("data.zarr/")) - {"zarr.json"}
    return sorted(names | set(store.storage.names("commits/")))


def _root_problems(store: Store) -> Iterator[Problem]:
    try:
        check_plain_group(store.storage, "data.zarr")
    except DamagedStore as error:
        yield _problem("feature", "", file="data.zarr/zarr.json", message=str(error))


def check_plain_group(storage: Storage, key: str) -> None:
    """Raises `DamagedStore` unless the group is as we make it, without attributes."""
    data = storage.get(f"{key}/zarr.json", limit_bytes=layout.MAX_METADATA_BYTES)
    if data != layout.group_json({}):
        raise DamagedStore(f"{storage.name}/{key}/zarr.json is not the group that was made")


def _feature_problems(keys: FeatureKeys) -> tuple[int, list[Problem]]:
    """The feature's size, 0 if it cannot be told, and what is wrong with its groups."""
    dim = 0
    key = f"data.zarr/{keys.feature_id}/zarr.json"
    try:
        dim = read_spec(keys).dim
        key = f"data.zarr/{keys.feature_id}/parts/zarr.json"
        check_plain_group(keys.storage, keys.parts)
    except DamagedStore as error:
        return dim, [_problem("feature", keys.feature_id, file=key, message=str(error))]
    return dim, []


def _part_problems(keys: FeatureKeys, record: CommitRecord, deep: bool) -> Iterator[Problem]:
    sound, storage = True, keys.storage
    folder = f"{keys.parts}/{record.part}"
    for file in record.files:
        try:
            digests = storage.digests(f"{folder}/{file.key}", deep=deep)
        except DamagedStore:
            kind, message = "missing", "is gone or cannot be read"
        else:
            kind, message = _difference(file, *digests)
        if kind:
            sound = False
            yield _problem(kind, record.feature_id, record.unit, file.key, f"{file.key} {message}")
    present = {key.removeprefix(f"{folder}/") for key in storage.keys(f"{folder}/")}
    for key in sorted(present - {file.key for file in record.files}):
        yield _problem("unexpected", record.feature_id, record.unit, key, f"{key} was not written")
    if sound:  # else the content is wrong for a reason already given
        yield from _content_problems(keys, record, deep)


def _difference(file: files.FileRecord, size: int, crc32c: str, sha256: str) -> tuple[str, str]:
    if size != file.size:
        return "size", f"has {size} bytes instead of {file.size}"
    if crc32c != file.crc32c:
        return "crc32c", f"has crc32c {crc32c} instead of {file.crc32c}"
    if sha256 and sha256 != file.sha256:
        return "sha256", f"has sha256 {sha256[:12]}… instead of {file.sha256[:12]}…"
    return "", ""


def _content_problems(keys: FeatureKeys, record: CommitRecord, deep: bool) -> Iterator[Problem]:
    """Intact files that do not belong together: a part moved here from elsewhere."""
    part = Part(keys, record)
    try:
        attributes = part.attributes()
        wanted = {
            "format": layout.FORMAT,
            "feature_id": record.feature_id,
            "unit": record.unit,
            "attempt": record.part.rpartition("-")[2],
            "n_clips": record.clips,
            "n_rows": record.rows,
        }
        if fault := [key for key, value in wanted.items() if attributes.get(key) != value]:
            yield _problem(
                "content",
                record.feature_id,
                record.unit,
                "zarr.json",
                f"attribute {fault[0]} is {json.dumps(attributes.get(fault[0]))[:80]}",
            )
        part.check_layout()
        if deep and (message := _table_fault(part)):
            yield _problem("content", record.feature_id, record.unit, "", message)
    except DamagedStore as error:
        yield _problem("content", record.feature_id, record.unit, "", str(error))


def _table_fault(part: Part) -> str | None:
    record = part.record
    if unit_name(record.feature_id, part.clip_ids, retry=record.retry) != record.unit:
        return "its clips are not those of the unit"
    if not np.array_equal(part.clip_keys, clip_keys(part.clip_ids)):
        return "clip_key does not fit clip_id"
    if len(part.row_start) and not np.array_equal(part.row_count > 0, part.status <= 1):
        return "row_count does not fit status"
    step = layout.shard_rows(record.dim)
    for start in range(0, record.rows, step):
        if not np.isfinite(part.rows(start, min(start + step, record.rows))).all():
            return "values holds NaN or infinity"
    return None


def _manifest_problems(store: Store) -> Iterator[Problem]:
    for stamp, digest in store.manifest_names():
        try:
            store.read_manifest(stamp, digest)
        except DamagedStore as error:
            key = f"manifests/{stamp}-{digest}.parquet"
            yield _problem("manifest", "", file=key, message=str(error))


def _problem(kind: str, feature: str, unit: str = "", file: str = "", message: str = "") -> Problem:
    return Problem(kind=kind, feature=feature, unit=unit, file=file, message=message)
