"""Bringing the units of other stores into one: copied, checked, and committed as they are.

Both sides may be directories or buckets, so this is also the way into a bucket and out of it.
Units have the same name everywhere: merging twice changes nothing, and a merge that was interrupted
goes on. Rows that are there stay, and a clip that has other rows in the other store is told: a unit
that holds such a clip comes over without it where readers would otherwise take the other rows. A
clip with rows beats one without, which is then written as a retry.
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
from store.parts.commit import CommitRecord, FeatureKeys, put_record, read_record
from store.parts.part import Part
from store.progress import Progress, counter
from store.storage import posix
from store.storage.storage import Storage, storage_at
from store.store import MANIFEST_NAME, MAX_STORE_JSON_BYTES, create, parse_store_json
from store.upkeep.overlap import Overlap, overlap, rows_of

MAX_NAMED = 20  # clips with other rows that are named


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
    differing_clips: int = 0  # have other rows in the other store; those that are here stay
    differing: list[str] = field(default_factory=list)  # the first of them, as FEATURE/CLIP
    manifests: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether everything was taken, and nothing contradicts what was here."""
        return not self.damaged and not self.differing_clips

    def to_dict(self) -> dict[str, Any]:
        """The object that `store merge --json` prints."""
        return asdict(self)


def merge(
    target: str | Path, others: Sequence[str | Path], *, progress: Progress | None = None
) -> Merged:
    """Copy every sound unit and manifest of the other stores into `target`, made if need be.

    Each is a directory or `s3://BUCKET/PREFIX`; `progress` hears of units.

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
        found = _committed(source)
        advance = counter(progress, sum(map(len, found.values())))
        for name, units in found.items():
            try:
                _merge_feature(source, destination, name)
            except DamagedStore as error:
                merged.damaged.append(_damage(source, name, "", error))
                continue
            merged.features += 1
            step = _Merge(
                source=_feature(source, name),
                target=_feature(destination, name),
                before=_feature(destination, name),
                present=frozenset(_committed(destination, name).get(name, ())),
                merged=merged,
            )
            theirs, ours = (FeatureKeys(storage=s, feature_id=name) for s in (source, destination))
            for unit in units:
                try:
                    step.unit(theirs, ours, unit)
                except DamagedStore as error:
                    merged.damaged.append(_damage(source, name, unit, error))
                advance(1)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merge:
    """One feature on its way from a store into another."""

    source: Feature
    target: Feature
    before: Feature  # the target as it was when this source's turn came
    present: frozenset[str]  # units of the target
    merged: Merged

    def unit(self, source: FeatureKeys, target: FeatureKeys, unit: str) -> None:
        """Bring one unit over: whole, unless rows that are there would change."""
        record = read_record(source, unit)
        part = Part(source, record)
        there = unit in self.present
        if there and read_record(target, unit).nonce == record.nonce:
            self.merged.present += 1
            return
        shared = overlap(self.before, part)
        self._tell_differing(part, shared)
        if not there and not shared.taken_over.any():
            _copy_part(source.storage, target.storage, record)
            if put_record(target.storage, record):
                self.merged.units += 1
                self.merged.bytes += sum(file.size for file in record.files)
                return
            there = True
        self.merged.present += there
        part.verify()
        if there:
            self.merged.retried_clips += self._retry(part)
        else:
            self._merge_rest(part, shared)

    def _tell_differing(self, part: Part, shared: Overlap) -> None:
        clips = np.flatnonzero(shared.differing).tolist()
        self.merged.differing_clips += len(clips)
        room = MAX_NAMED - len(self.merged.differing)
        names = [f"{self.target.name}/{part.clip_ids[i]}" for i in clips[: max(room, 0)]]
        self.merged.differing += names

    def _retry(self, part: Part) -> int:
        """Commit the clips with rows in the part and none in the target; the number of them."""
        wanted = np.flatnonzero(part.row_count > 0)
        lacking = wanted[self.target.locate([part.clip_ids[i] for i in wanted]).rows == 0]
        if not lacking.size:
            return 0
        return self.target.commit_lacking(rows_of(part, lacking.tolist()), _writer_of(part))

    def _merge_rest(self, part: Part, shared: Overlap) -> None:
        """Commit the clips that the target lacks as a unit of their own.

        Of those in several units of the source, only the one that speaks for a clip there gives it.
        """
        located = self.source.locate(part.clip_ids)
        names = self.source.part_names
        speaks = np.array([names[i] == part.record.part for i in located.part.tolist()])
        wanted = speaks & ~shared.rows_here & ((part.row_count > 0) | ~shared.known)
        if not wanted.any():
            self.merged.present += 1
            return
        rows = rows_of(part, np.flatnonzero(wanted).tolist())
        retry = self.target.tries(rows.clip_ids)
        if not self.target.commit(rows, _writer_of(part), retry=retry):
            raise StoreError(
                f"{self.target.location}: another writer committed the same clips meanwhile; "
                "merge again"
            )
        self.merged.units += 1
        self.merged.bytes += rows.values.nbytes


def _writer_of(part: Part) -> dict[str, Any]:
    writer: dict[str, Any] = part.attributes().get("writer", {})
    return writer


def _feature(storage: Storage, name: str) -> Feature:
    keys = FeatureKeys(storage=storage, feature_id=name)
    return Feature(keys, read_spec(keys))


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
        try:
            target.publish(staged, key)
        except StoreError:  # another merge of the same part may have been a moment sooner
            if root is None or not _is_whole(root / key, record):
                raise


def _clear(root: Path, key: str, record: CommitRecord) -> None:
    """Move a torn part out of the way; one of a merge that did not get to commit is whole."""
    part, staging = posix.inside(root, key), posix.inside(root, "tmp")
    if part.exists() and not _is_whole(part, record):
        with posix.writing(part):
            part.rename(Path(tempfile.mkdtemp(prefix="torn-", dir=staging)) / part.name)


def _is_whole(part: Path, record: CommitRecord) -> bool:
    """Whether a directory holds the files of a record and nothing else."""
    found = [posix.file_record(part, name) for name in posix.keys_under(part)]
    return found == list(record.files)


def _checked_files(source: Storage, key: str, record: CommitRecord) -> Iterator[tuple[str, bytes]]:
    for file in record.files:
        data = source.get(f"{key}/{file.key}", limit_bytes=file.size)
        if posix.FileRecord.of(file.key, data) != file:
            raise DamagedStore(
                f"{record.feature_id}/{record.unit}: {file.key} is not the file that was written; "
                f"run: store repair {source.name}"
            )
        yield file.key, data


def _damage(source: Storage, feature: str, unit: str, error: DamagedStore) -> Damage:
    return Damage(store=source.name, feature=feature, unit=unit, message=str(error))
