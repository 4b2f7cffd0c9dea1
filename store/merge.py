"""Bringing the units of other stores into one: copied, checked, and committed as they are.

Units have the same name everywhere, so merging twice changes nothing and a merge that was
interrupted goes on. Where both have a unit the one that is there stays; clips that have rows only
in the other store are then written as a retry, for a clip with rows beats one without.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from store import files
from store.commit import CommitRecord, Places, put_record, read_record
from store.errors import DamagedStore, InputError, StoreError
from store.feature import Feature, committed_units
from store.part import Part
from store.root import Store
from store.root import open as open_store
from store.rows import UnitRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A unit or manifest of another store that was not taken, and why."""

    store: str
    feature: str
    unit: str
    message: str


@dataclass(slots=True, kw_only=True)
class Merged:
    """What was done."""

    features: int = 0
    units: int = 0  # copied
    present: int = 0  # were there already
    retried_clips: int = 0  # had rows only in the other store
    manifests: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def merge(target: Store, others: Sequence[str | Path]) -> Merged:
    """Copy every sound unit and manifest of the other stores into `target`.

    Raises:
        NotAStore: one of the others is none.
        InputError: one of the others is the target.
        StoreError: the disk refused.
    """
    sources = [open_store(path) for path in others]
    if any(source.path.samefile(target.path) for source in sources):
        raise InputError(f"{target.path} cannot be merged into itself; name other stores")
    merged = Merged()
    for source in sources:
        _merge_manifests(target, source, merged)
        for name in source.features:
            _merge_feature(target, source, name, merged)
    return merged


def _merge_manifests(target: Store, source: Store, merged: Merged) -> None:
    for stamp, digest in source.manifest_names():
        name = f"{stamp}-{digest}.parquet"
        try:
            source.read_manifest(stamp, digest)
            data = (source.path / "manifests" / name).read_bytes()
        except (DamagedStore, OSError) as error:
            merged.damaged.append(
                Damage(store=str(source.path), feature="", unit="", message=str(error))
            )
            continue
        path = target.path / "manifests" / name
        merged.manifests += files.put_if_absent(path, data, staging=target.path / "tmp")


def _merge_feature(target: Store, source: Store, name: str, merged: Merged) -> None:
    theirs = Places(root=source.path, feature_id=name)
    try:
        ours = target.add_feature(source[name].spec)
    except DamagedStore as error:
        merged.damaged.append(_damage(source, name, "", error))
        return
    merged.features += 1
    places = Places(root=target.path, feature_id=name)
    for unit in committed_units(theirs):
        try:
            record = read_record(theirs, unit)
            if not places.record(unit).exists():
                _copy_part(theirs, places, record)
                if put_record(places, record):
                    merged.units += 1
                    merged.bytes += sum(file.size for file in record.files)
                    continue
            merged.present += 1
            if read_record(places, unit).nonce != record.nonce:
                merged.retried_clips += _retry(ours, Part(theirs, record))
        except DamagedStore as error:
            merged.damaged.append(_damage(source, name, unit, error))


def _copy_part(theirs: Places, places: Places, record: CommitRecord) -> None:
    """Copy the files a record names, each as it was written, and nothing else.

    Raises:
        DamagedStore: a file is not as it was written.
    """
    target = places.parts / record.part
    if target.exists():  # a merge that was interrupted before it committed
        if _is_whole(target, record):
            return
        with files.writing(target):
            target.rename(places.staging / f"torn-{record.part}-{token_hex(4)}")
    staged = places.staging / f"merge-{record.part}-{token_hex(4)}"
    try:
        with files.writing(staged):
            for file in record.files:
                files.make_directory((staged / file.key).parent)
                _copy_file(theirs, record, file, staged / file.key)
            try:
                files.publish(staged, target)
            except OSError:
                if not target.exists():  # else another merge was quicker with the same files
                    raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _copy_file(theirs: Places, record: CommitRecord, file: files.FileRecord, target: Path) -> None:
    source = theirs.parts / record.part / file.key
    where = f"{record.feature_id}/{record.unit}: {file.key}"
    if not source.is_file():
        raise DamagedStore(f"{where} is gone; run: store repair {theirs.root}")
    shutil.copyfile(source, target)
    if files.file_digests(target) != (file.size, file.crc32c, file.sha256):
        raise DamagedStore(
            f"{where} is not the file that was written; run: store repair {theirs.root}"
        )


def _is_whole(part: Path, record: CommitRecord) -> bool:
    try:
        found = [files.file_record(part, key) for key in files.keys_under(part)]
    except OSError:
        return False
    return found == list(record.files)


def _retry(ours: Feature, part: Part) -> int:
    """Write the clips of a part that have rows there and none here as a retry; how many.

    Raises:
        DamagedStore: the part is not as it was written.
    """
    part.verify()
    known = ours.committed()
    wanted = [
        place
        for place, clip_id in enumerate(part.clip_ids)
        if part.row_count[place] and not (clip_id in known and known[clip_id].has_rows)
    ]
    if not wanted:
        return 0
    start, count = part.row_start[wanted], part.row_count[wanted]
    spans = list(zip(start.tolist(), (start + count).tolist(), strict=True))
    taken = np.concatenate([np.arange(*span) for span in spans])
    values = np.concatenate([part.rows(*span) for span in spans])
    clip_ids = tuple(part.clip_ids[place] for place in wanted)
    rows = UnitRows(
        clip_ids=clip_ids,
        values=values,
        row_time_ms=part.row_time_ms[taken],
        row_count=count.astype(np.uint16),
        status=part.status[wanted],
        media_sha256=part.media_sha256[wanted],
        detail=tuple(part.details[place] for place in wanted),
    )
    writer = part.attributes().get("writer", {})
    if not ours.commit(rows, writer, retry=ours.tries(clip_ids)):
        raise StoreError(f"{ours.name}: another writer tried the same clips again; merge again")
    return len(wanted)


def _damage(source: Store, feature: str, unit: str, error: DamagedStore) -> Damage:
    return Damage(store=str(source.path), feature=feature, unit=unit, message=str(error))
