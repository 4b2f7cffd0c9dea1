"""Tries whether a storage is fit for many writers, rather than believe its documentation."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from store.errors import StoreError
from store.progress import in_steps
from store.storage import posix
from store.storage.storage import Storage, storage_at

_RACES, _RACERS = 20, 8
_FLUSHES = 20
_LOW_BYTES = 1 << 30
_SKEW_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One ability of the storage that was tried."""

    name: str
    ok: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The abilities of a storage; `many_writers` only if nothing it needs is missing."""

    path: str
    checks: list[Check]
    many_writers: bool
    write_seconds: float  # to make 4 KiB durable: the median
    free_bytes: int | None  # None for a bucket

    def to_dict(self) -> dict[str, Any]:
        """The object that `store doctor --json` prints."""
        return asdict(self)


def doctor(where: str | Path) -> Diagnosis:
    """Try out a bucket, a directory, or the nearest one above it; leaves nothing behind.

    Raises:
        StoreError: nothing can be written there.
    """
    if "://" in str(where):
        return _examine_bucket(str(where))
    folder = Path(where).absolute()
    while not folder.is_dir():
        folder = folder.parent
    with posix.writing(folder), tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
        probe = Path(name)
        storage = storage_at(probe)
        needed = [
            _check("conditional put", lambda: _put_probe(storage, "")),
            _check("race", lambda: _race_probe(storage, "")),
            _check("rename", lambda: _rename_probe(probe)),
        ]
        seconds = _fsync_seconds(probe)
        skew = abs(_clock_skew_seconds(probe))
    usage, inodes = shutil.disk_usage(folder), os.statvfs(folder)
    wanted = [
        Check(name="fsync", ok=seconds < 0.5, message=f"a flush takes {seconds * 1e3:.2f} ms"),
        Check(
            name="free space",
            ok=usage.free > _LOW_BYTES and (inodes.f_files == 0 or inodes.f_favail > 10_000),
            message=f"{usage.free / 1e9:.1f} GB and {inodes.f_favail} files are free",
        ),
        Check(
            name="clock",
            ok=skew < _SKEW_SECONDS,
            message=f"the file system's clock is {skew:.1f} s from ours",
        ),
    ]
    return Diagnosis(
        path=str(folder),
        checks=[*needed, *wanted],
        many_writers=all(check.ok for check in needed),
        write_seconds=seconds,
        free_bytes=usage.free,
    )


def _examine_bucket(url: str) -> Diagnosis:
    storage, folder = storage_at(url), f"tmp/doctor-{token_hex(8)}/"
    try:
        checks = [
            _check("conditional put", lambda: _put_probe(storage, folder)),
            _check("race", lambda: _race_probe(storage, folder)),
        ]
        seconds = _put_seconds(storage, folder)
    finally:
        with suppress(StoreError):
            for key in storage.keys(folder):
                storage.delete(key)
    return Diagnosis(
        path=url,
        checks=checks,
        many_writers=all(check.ok for check in checks),
        write_seconds=seconds,
        free_bytes=None,
    )


def _check(name: str, probe: Callable[[], str]) -> Check:
    """`probe` gives what is wrong, or an empty text."""
    try:
        fault = probe()
    except (StoreError, OSError) as error:
        fault = str(error)
    return Check(name=name, ok=not fault, message=fault or "as it should be")


def _put_probe(storage: Storage, folder: str) -> str:
    first = storage.put_if_absent(f"{folder}once", b"first")
    second = storage.put_if_absent(f"{folder}once", b"second")
    if not first or second or storage.get(f"{folder}once", limit_bytes=99) != b"first":
        return "a second put of the same name was not refused; use it with one writer only"
    return ""


def _race_probe(storage: Storage, folder: str) -> str:
    """Several at once; only one may win, and its bytes stay."""
    with ThreadPoolExecutor(_RACERS) as pool:
        for number in in_steps("races", range(_RACES), _RACES):
            key = f"{folder}race{number}"

            def put(racer: int, key: str = key) -> bool:
                return storage.put_if_absent(key, b"%d" % racer * 1000)

            winners = [racer for racer, won in enumerate(pool.map(put, range(_RACERS))) if won]
            kept = storage.get(key, limit_bytes=1000)
            if len(winners) != 1 or kept != b"%d" % winners[0] * 1000:
                return f"of {_RACERS} puts at once {len(winners)} won; use it with one writer only"
    return ""


def _rename_probe(folder: Path) -> str:
    for name in ("staged", "taken"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(name)
    try:
        (folder / "staged").rename(folder / "taken")
    except OSError:
        (folder / "staged").rename(folder / "free")
        return "" if (folder / "free" / "file").read_text() == "staged" else "a rename lost a file"
    return "a rename replaced a directory that had files"


def _fsync_seconds(folder: Path) -> float:
    """The median time to make 4 KiB durable."""
    taken = []
    for number in in_steps("flushes", range(_FLUSHES), _FLUSHES):
        with (folder / f"flush{number}").open("wb") as file:
            file.write(bytes(4096))
            began = time.perf_counter()
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _put_seconds(storage: Storage, folder: str) -> float:
    taken = []
    for number in in_steps("puts", range(_FLUSHES), _FLUSHES):
        began = time.perf_counter()
        storage.put_if_absent(f"{folder}flush{number}", bytes(4096))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _clock_skew_seconds(folder: Path) -> float:
    probe = folder / "clock"
    before = time.time()
    probe.touch()
    stamped = probe.stat().st_mtime
    return stamped - min(max(stamped, before), time.time())
