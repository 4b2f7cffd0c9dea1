"""Making damaged units pending again, without deleting anything.

The commit record of a unit that `verify` finds damaged is moved to quarantine/, so that the next
`extract run` does that unit, and only that, once more. Its part stays until it is collected. A part
that a collector had moved away before it was killed, and that is committed, comes back first: such
a unit is whole.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from store.errors import DamagedStore
from store.names import is_safe_name
from store.parts import layout
from store.parts.commit import FeatureKeys, read_record
from store.parts.part import Part
from store.progress import Progress
from store.storage import posix
from store.store import Store
from store.upkeep.gc import QUARANTINE_STAMP, restore_trash
from store.upkeep.verify import Problem, unit_problems, verify


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingUnit:
    """A unit that was set aside; its clips are None where the part no longer tells them."""

    feature: str
    unit: str
    clips: tuple[str, ...] | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """Units and files that were set aside, and problems left for people to look at."""

    units: list[PendingUnit]
    files: list[str]  # damaged or strange files moved to quarantine, as paths in the store
    left: list[Problem]

    def to_dict(self) -> dict[str, Any]:
        """The object that `store repair --json` prints."""
        return asdict(self)


def repair(store: Store, *, deep: bool = False, progress: Progress | None = None) -> Repaired:
    """Set aside every damaged unit, and every damaged file that can be made again; `progress` hears
    of the units that are looked at.

    Raises:
        StoreError: the disk refused.
    """
    units: list[PendingUnit] = []
    moved: list[str] = []
    left: list[Problem] = []
    if store.storage.local_path is not None:
        for name in ("tmp", "data.zarr", "commits"):
            posix.inside(store.path, name)
        with posix.writing(store.path / "tmp"):
            restore_trash(store, delete=False)
    for problem in verify(store, deep=deep, progress=progress).problems:
        if problem.kind == "unexpected":
            moved += _set_stray_file_aside(store, problem)
        elif problem.unit:
            units += _set_unit_aside(store, problem, deep)
        elif problem.kind in ("manifest", "feature"):
            done = _set_file_aside(store, problem)
            moved += done
            left += [] if done else [problem]
        else:
            left.append(problem)
    return Repaired(units=units, files=moved, left=left)


def _set_unit_aside(store: Store, problem: Problem, deep: bool) -> list[PendingUnit]:
    """Nothing if the unit is no longer damaged: it was set aside already, perhaps done again."""
    feature, unit = problem.feature, problem.unit
    keys = store.keys_of(feature)
    key = problem.file if problem.kind == "record" else f"commits/{feature}/{unit}.json"
    folder, _, name = key.rpartition("/")
    if name not in store.storage.names(f"{folder}/"):
        return []
    named = key.endswith(f"/{unit}.json") and is_safe_name(unit)
    if named and not unit_problems(store, feature, unit, deep):
        return []
    clips = _clips(keys, unit) if named else None
    if not _set_aside(store, key, feature):
        return []
    return [PendingUnit(feature=feature, unit=unit, clips=clips, reason=problem.message)]


def _set_stray_file_aside(store: Store, problem: Problem) -> list[str]:
    keys = store.keys_of(problem.feature)
    part = read_record(keys, problem.unit).part
    return _set_aside(store, f"{keys.parts}/{part}/{problem.file}", problem.feature)


def _set_file_aside(store: Store, problem: Problem) -> list[str]:
    """A manifest, or a group; of groups, those without attributes are written anew.

    The attributes of a feature come back with the next `extract run` that asks for it.
    """
    key = problem.file
    moved = _set_aside(store, key, problem.feature or problem.kind)
    plain = key.endswith("/parts/zarr.json") or key == "data.zarr/zarr.json"
    made = plain and store.storage.put_if_absent(key, layout.group_json({}))
    return [key] if made else moved


def _clips(keys: FeatureKeys, unit: str) -> tuple[str, ...] | None:
    """The clips of a unit, from whatever can still be read of it."""
    with suppress(DamagedStore):
        part = Part(keys, read_record(keys, unit))
        with suppress(DamagedStore):
            part.verify("clip_id")
            return tuple(part.clip_ids)
    return None


def _set_aside(store: Store, key: str, folder: str) -> list[str]:
    """Move one file to quarantine under a name that is free; nothing if it is gone."""
    name = PurePosixPath(key)
    stamp = datetime.now(UTC).strftime(QUARANTINE_STAMP)
    target = f"quarantine/{folder}/{name.stem}.{stamp}{name.suffix}"
    return [key] if store.storage.move(key, target) else []
