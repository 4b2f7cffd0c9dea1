"""Removing what no commit record names: staging that a crash left, and parts that lost a race.

A part is moved to tmp/ first and looked for in the commit records again: if its writer woke up
meanwhile and committed it, it is moved back. A writer does the mirror image
(store/parts/commit.py). What is to be deleted is claimed by one more rename, to a name from which
nothing is ever moved back: another collector must not restore what this one has half deleted.
No link is followed: directories are held open while something in them is deleted.
"""

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

from store.errors import DamagedStore, InputError
from store.names import is_safe_name
from store.parts.commit import PART_NAME, FeatureKeys, read_record
from store.progress import in_steps
from store.storage import posix
from store.storage.storage import directory
from store.store import Store

DAY_SECONDS = 24 * 3600.0
QUARANTINE_STAMP = "%Y%m%dt%H%M%S.%fz"
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CLAIMED = re.compile(r"dead-[0-9a-f]{16}")
_TRASH = re.compile(r"gc-(?P<part>u-[0-9a-f]{20}-[0-9a-f]{12})-(?P<feature>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Paths inside the store that were removed, or would be."""

    parts: list[str]
    staging: list[str]
    bytes: int
    too_young: int  # garbage that is not old enough to be sure of
    restored: list[str]  # parts an interrupted collector had moved although they are committed
    dry_run: bool

    def to_dict(self) -> dict[str, Any]:
        """The object that `store gc --json` prints."""
        return asdict(self)


def age_seconds(text: str) -> float:
    """Seconds in `90s`, `15m`, `24h` or `7d`.

    Raises:
        InputError: none of these.
    """
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if match is None:
        raise InputError(f"{text!r} is no age; write one like 90s, 15m, 24h or 7d")
    return float(int(match[1]) * _UNIT_SECONDS[match[2]])


def gc(
    store: Store, *, older_than_seconds: float = DAY_SECONDS, dry_run: bool = False
) -> Collected:
    """Remove garbage of at least that age; what a record names, or named until lately, stays.

    Raises:
        DamagedStore: a feature has parts but no directory of commit records.
        StoreError: the disk refused.
    """
    for name in ("tmp", "data.zarr", "commits", "quarantine"):
        posix.inside(store.path, name)
    with posix.writing(store.path / "tmp"):
        now = _file_system_time(store.path / "tmp")
        restored = [] if dry_run else restore_trash(store, delete=True)
        parts: list[str] = []
        staging: list[str] = []
        size = young = 0
        for keys, path in _uncommitted(store, now, older_than_seconds):
            if now - _newest(path) < older_than_seconds:
                young += 1
                continue
            taken = _size_bytes(path)
            if dry_run or _remove_part(keys, path.name):
                parts.append(path.relative_to(store.path).as_posix())
                size += taken
        staged = _entries(store.path / "tmp")
        for path in in_steps("entries of tmp/", staged, len(staged)):
            if now - _newest(path) < older_than_seconds:
                young += 1
                continue
            taken = _size_bytes(path)
            if not dry_run:
                trash = _TRASH.fullmatch(path.name)
                if trash and is_safe_name(trash["feature"]):  # moved there a moment ago
                    restored += _settle_trash(store, path.name, trash, delete=True)
                    continue
                if not _remove(store.path, path.name):
                    continue
            size += taken
            staging.append(path.relative_to(store.path).as_posix())
    return Collected(
        parts=parts,
        staging=staging,
        bytes=size,
        too_young=young,
        restored=restored,
        dry_run=dry_run,
    )


def _uncommitted(store: Store, now: float, age: float) -> Iterator[tuple[FeatureKeys, Path]]:
    """Parts that no record names and that are not of a unit set aside lately."""
    for folder in _entries(store.path / "data.zarr"):
        keys = store.keys_of(folder.name)
        parts = posix.inside(store.path, keys.parts)
        commits = posix.inside(store.path, keys.commits)
        posix.inside(store.path, f"quarantine/{folder.name}")
        if not (is_safe_name(folder.name) and parts.is_dir()):
            continue
        if not commits.is_dir():  # half a copy of a store, perhaps
            raise DamagedStore(
                f"{keys.feature_id} has parts but no {commits}; all would be garbage. "
                "Copy or restore commits/ first"
            )
        kept = {
            path.name[:22]
            for path in _entries(store.path / "quarantine" / folder.name)
            # A file system's clock may be some milliseconds behind the one of the stamp.
            if max(now - _stamp_seconds(path.name), 0.0) < age
        }
        entries = _entries(parts)
        for path in in_steps(f"parts of {folder.name}", entries, len(entries)):
            match = PART_NAME.fullmatch(path.name)
            if match and match[1] not in kept and not _is_named(keys, match[1], path.name):
                yield keys, path


def _is_named(keys: FeatureKeys, unit: str, part: str) -> bool:
    """Whether the unit's record names this part; one that cannot be read may name any."""
    record = directory(keys.storage) / keys.record(unit)
    if not os.path.lexists(record):
        return False
    try:
        return read_record(keys, unit).part == part
    except DamagedStore:
        return os.path.lexists(record)


def _remove_part(keys: FeatureKeys, name: str) -> bool:
    """Move away, look again, then delete; False if it was committed meanwhile or is gone."""
    root, trash = directory(keys.storage), f"gc-{name}-{keys.feature_id}"
    with posix.opened(root, keys.parts) as parts, posix.opened(root, "tmp") as tmp:
        try:
            os.rename(name, trash, src_dir_fd=parts, dst_dir_fd=tmp)
        except FileNotFoundError:  # another collector
            return False
        os.fsync(parts)
    return _settle(keys, trash, name) == "removed"


def _settle(
    keys: FeatureKeys, trash: str, name: str, *, delete: bool = True
) -> Literal["restored", "removed", "left", "taken by another"]:
    """Put a part back that is committed after all, else delete it."""
    root, named = directory(keys.storage), _is_named(keys, name[:22], name)
    if not named and not delete:
        return "left"
    claimed = f"dead-{token_hex(8)}"
    folder, target = (keys.parts, name) if named else ("tmp", claimed)
    try:
        with posix.opened(root, "tmp") as tmp, posix.opened(root, folder) as there:
            os.rename(trash, target, src_dir_fd=tmp, dst_dir_fd=there)
            if named:
                os.fsync(there)
    except FileNotFoundError:
        return "taken by another"
    if named:
        return "restored"
    _remove(root, claimed)
    return "removed"


def restore_trash(store: Store, *, delete: bool) -> list[str]:
    """Finish what an interrupted collector began: put back what is committed, and delete the rest
    if asked to. Returns the keys of what was put back."""
    return [
        key
        for path in _entries(store.path / "tmp")
        if (match := _TRASH.fullmatch(path.name)) and is_safe_name(match["feature"])
        for key in _settle_trash(store, path.name, match, delete=delete)
    ]


def _settle_trash(store: Store, name: str, match: re.Match[str], *, delete: bool) -> list[str]:
    """The key of the part, if it was put back."""
    keys = store.keys_of(match["feature"])
    outcome = _settle(keys, name, match["part"], delete=delete)
    return [f"{keys.parts}/{match['part']}"] if outcome == "restored" else []


def _remove(root: Path, name: str) -> bool:
    """Claim and delete something in tmp/: a link itself, and never what it leads to.

    Claimed first, because a writer may publish what it staged at any moment: it must move either
    all of it or nothing. False if it did.
    """
    with posix.opened(root, "tmp") as folder:
        claimed = name if _CLAIMED.fullmatch(name) else f"dead-{token_hex(8)}"
        try:
            os.rename(name, claimed, src_dir_fd=folder, dst_dir_fd=folder)
            if stat.S_ISDIR(os.stat(claimed, dir_fd=folder, follow_symlinks=False).st_mode):
                shutil.rmtree(claimed, ignore_errors=True, dir_fd=folder)
            else:
                os.unlink(claimed, dir_fd=folder)
        except FileNotFoundError:
            return False
    return True


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _tree(path: Path) -> Iterator[os.stat_result]:
    """Facts of everything at and below a path, of which a part may vanish meanwhile."""
    for entry in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            yield entry.lstat()


def _newest(path: Path) -> float:
    return max((facts.st_mtime for facts in _tree(path)), default=0.0)


def _size_bytes(path: Path) -> int:
    return sum(facts.st_size for facts in _tree(path))


def _stamp_seconds(name: str) -> float:
    """The time at which a file was quarantined; infinity if its name does not say."""
    try:
        stamp = datetime.strptime(name[23:].removesuffix(".json"), QUARANTINE_STAMP)
    except ValueError:
        return float("inf")
    return stamp.replace(tzinfo=UTC).timestamp()


def _file_system_time(staging: Path) -> float:
    """The clock that stamps the files, which may be a server's."""
    try:
        posix.make_directory(staging)
        probe = staging / f"clock-{token_hex(8)}"
        probe.touch()
        stamped = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # a store we may only read, in a dry run
        return time.time()
    return stamped
