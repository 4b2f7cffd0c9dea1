"""The clip index at scale: build time, size, memory and look-up of 64 keys.

    python -m benchmarks.index --clips 100000000 --folder /var/tmp

Keys are made up: uniform, like the sha256 halves they stand for. Needs about 64 bytes of disk per
clip while building. The parts are made on the fly, 8,192 clips each, so no store is written.
"""

import argparse
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks._table import show
from store.features.clip_index import ClipIndex, PartTable

CLIPS_PER_PART = 8192


def part_table(name: str, clips: int) -> PartTable:
    """A made-up part; its name is the seed."""
    rng = np.random.default_rng(int(name.removeprefix("part-")))
    rows = rng.integers(1, 60, clips)
    return PartTable(
        clip_key=rng.integers(0, 1 << 64, (clips, 2), dtype=np.uint64),
        row_start=np.cumsum(rows) - rows,
        row_count=rows,
        status=np.zeros(clips, dtype=np.uint8),
    )


def measure(folder: Path | None = None, clips: int = 1_000_000) -> Iterator[dict[str, Any]]:
    """One row per figure."""
    with TemporaryDirectory(dir=folder) as scratch:
        yield from measure_in(Path(scratch), clips)


def measure_in(folder: Path, clips: int) -> Iterator[dict[str, Any]]:
    names = [f"part-{i:08d}" for i in range(-(-clips // CLIPS_PER_PART))]
    last = clips - CLIPS_PER_PART * (len(names) - 1)
    sizes = dict.fromkeys(names, CLIPS_PER_PART) | {names[-1]: last}
    index = ClipIndex(folder.parent, folder.name, names, lambda name: part_table(name, sizes[name]))
    start = time.perf_counter()
    assert len(index) == clips
    yield row("build", time.perf_counter() - start, "s")
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield row("build, peak memory", peak_bytes / 2**30, "GiB", goal=8.0)
    (path,) = folder.glob("*.idx")
    yield row("size", path.stat().st_size / 1e9, "GB")
    yield row("size per clip", path.stat().st_size / clips, "B")

    drop_cache(path)
    start = time.perf_counter()
    index = ClipIndex(folder.parent, folder.name, names, lambda name: part_table(name, sizes[name]))
    assert len(index) == clips
    yield row("open", time.perf_counter() - start, "s")
    rng = np.random.default_rng(0)
    batches = [wanted(rng, names, sizes) for _ in range(300)]
    yield row("look up 64 keys, cold", 1e3 * np.median(timed(index, batches[:100])), "ms")
    yield row("look up 64 keys, first touch", 1e3 * np.median(timed(index, batches[200:])), "ms")
    warm = 1e3 * np.median(timed(index, batches[200:]))
    yield row("look up 64 keys, warm", warm, "ms", goal=1.0)


def wanted(rng: np.random.Generator, names: list[str], sizes: dict[str, int]) -> Any:
    """64 keys of 8 parts, and where they are."""
    numbers = rng.integers(0, len(names), 8).repeat(8)
    tables = {i: part_table(names[i], sizes[names[i]]) for i in set(numbers.tolist())}
    places = [(i, int(rng.integers(len(tables[i].status)))) for i in numbers.tolist()]
    keys = np.stack([tables[i].clip_key[place] for i, place in places])
    starts = np.array([tables[i].row_start[place] for i, place in places])
    return keys, numbers, starts


def timed(index: ClipIndex, batches: list[Any]) -> list[float]:
    """Seconds of each look-up, every answer checked."""
    seconds = []
    for keys, parts, starts in batches:
        start = time.perf_counter()
        found = index.lookup(keys)
        seconds.append(time.perf_counter() - start)
        assert np.array_equal(found.part, parts)
        assert np.array_equal(found.start, starts)
    return seconds


def drop_cache(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def row(what: str, value: float, unit: str, *, goal: float | None = None) -> dict[str, Any]:
    ratio = None if goal is None else goal / value
    return {
        "what": f"index: {what}",
        "value": float(value),
        "unit": unit,
        "ratio": ratio,
        "against": None if goal is None else "limit",
        "goal": None if goal is None else 1.0,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    show(measure(asked.folder, asked.clips))
