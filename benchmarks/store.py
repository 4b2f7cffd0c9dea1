"""Reading stored rows, side by side on the same bytes: full scans and batches of 64 random clips.

    python -m benchmarks.store --megabytes 512 --folder /var/tmp

warm: in the page cache. cold: after fsync and POSIX_FADV_DONTNEED; `mincore` counts the pages that
stayed, and the kernel what it then fetched from the device. What lies below the device, such as the
memory of a host, nobody here can empty. Scans fill one preallocated array, where the reader has a
way to. The best of several runs counts, warm; the median, cold.
"""

import argparse
import ctypes
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import zarr

from benchmarks._table import show
from store import Feature, FeatureSpec, UnitRows, create
from store.parts import layout
from store.parts.row_reader import RowReader, Span

DIM = 2048
CLIP_ROWS = (1, 41)  # 83 KiB on average
BATCH = 64
SCAN_GOALS = {"read()": 0.5, "zarr-python": 4.0}
RANDOM_GOAL = 10.0

Spans = list[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One way to read; `scan` fills the array it is given, or gives one of its own."""

    name: str
    files: list[Path]
    scan: Callable[[np.ndarray], np.ndarray | None]
    batch: Callable[[Spans], np.ndarray] | None
    release: Callable[[], None] = lambda: None  # pages that are mapped cannot be dropped


def stored(folder: Path, values: np.ndarray, spans: Spans) -> Feature:
    """The rows as a feature of one unit."""
    counts = np.array([stop - start for start, stop in spans])
    spec = FeatureSpec(slug="rows", modality="visual", dim=DIM, identity={})
    feature = create(folder).add_feature(spec)
    feature.commit(
        UnitRows(
            clip_ids=tuple(map(str, range(len(spans)))),
            values=values,
            row_time_ms=np.zeros(len(values), np.int32),
            row_count=counts.astype(np.uint16),
            status=np.zeros(len(spans), np.uint8),
            media_sha256=np.zeros((len(spans), 32), np.uint8),
            detail=("",) * len(spans),
        )
    )
    return feature


def readers(folder: Path, spans: Spans, stack: ExitStack) -> list[Reader]:
    """Writes the same rows in each format."""
    rows = spans[-1][1]
    values = np.random.default_rng(0).standard_normal((rows, DIM), np.float32).astype(np.float16)
    flat, chunked = folder / "flat.bin", folder / "chunked.h5"
    values.tofile(flat)
    with h5py.File(chunked, "w") as file:
        file.create_dataset("values", data=values, chunks=(layout.chunk_rows(DIM), DIM))
    feature = stored(folder / "fs", values, spans)
    (part,) = feature.parts()
    array = zarr.open_array(str(part.path / "values"), mode="r", zarr_format=3)
    shards = sorted((part.path / "values" / "c").glob("*/0"))
    mappings: list[np.ndarray] = []

    def mapped() -> np.ndarray:
        if not mappings:
            mappings.append(np.memmap(flat, np.float16, "r", shape=(rows, DIM)))
        return mappings[0]

    dataset = stack.enter_context(h5py.File(chunked, "r"))["values"]
    source, reader = part.values, RowReader()
    name_of = {span: str(i) for i, span in enumerate(spans)}

    def slices(of: Any) -> Callable[[Spans], np.ndarray]:
        return lambda spans: np.concatenate([of[start:stop] for start, stop in spans])

    def zarr_scan(out: np.ndarray) -> None:
        out[...] = array[...]  # it offers no way into an array of ours

    def direct(verify: bool) -> Reader:
        def batch(spans: Spans) -> np.ndarray:
            wanted, to = [], 0
            for start, stop in spans:
                wanted.append(Span(source, start, stop, to))
                to += stop - start
            out = np.empty((to, DIM), np.float16)
            reader.read(wanted, out, verify=verify)
            return out

        def scan(out: np.ndarray) -> None:
            reader.read([Span(source, 0, rows, 0)], out, verify=verify)

        name = "ours, verified" if verify else "ours"
        return Reader(name=name, files=shards, scan=scan, batch=batch)

    def public(verify: bool) -> Reader:
        return Reader(
            name="Feature, verified" if verify else "Feature",
            files=shards,
            scan=lambda out: next(feature.scan(verify))[1],
            batch=lambda asked: feature.read([name_of[s] for s in asked], verify=verify)[0],
        )

    return [
        Reader(
            name="np.memmap",
            files=[flat],
            scan=lambda out: np.copyto(out, mapped()),
            batch=lambda spans: slices(mapped())(spans),
            release=mappings.clear,
        ),
        Reader(
            name="read()",
            files=[flat],
            scan=lambda out: read_into(flat, out),
            batch=None,
            release=mappings.clear,
        ),
        Reader(
            name="h5py, 1 MiB chunks",
            files=[chunked],
            scan=dataset.read_direct,
            batch=slices(dataset),
        ),
        Reader(name="zarr-python", files=shards, scan=zarr_scan, batch=slices(array)),
        direct(False),
        direct(True),
        public(False),
        public(True),
    ]


def measure(folder: Path | None = None, megabytes: int = 512) -> Iterator[dict[str, Any]]:
    """One row per figure; `ratio` is to `against`, and no less than `goal` is wanted."""
    with TemporaryDirectory(dir=folder) as scratch:
        yield from measure_in(Path(scratch), megabytes)


def measure_in(folder: Path, megabytes: int) -> Iterator[dict[str, Any]]:
    rows = megabytes * 10**6 // (2 * DIM)
    rng = np.random.default_rng(1)
    counts = rng.integers(*CLIP_ROWS, rows // CLIP_ROWS[0])
    stops = np.cumsum(counts)
    spans = [(int(b - n), int(b)) for n, b in zip(counts, stops, strict=True) if b <= rows]
    batches = [[spans[i] for i in rng.integers(0, len(spans), BATCH)] for _ in range(24)]
    out = np.ones((spans[-1][1], DIM), np.float16)
    with ExitStack() as stack:
        subjects = readers(folder, spans, stack)
        assert check(subjects, out, batches[0])
        for one in subjects:  # is what is called cold read from the device at all?
            make_cold(one)
            before = device_bytes()
            one.scan(out)
            yield row(
                f"cold bytes from the device: {one.name}",
                (device_bytes() - before) / 1e6,
                "MB",
                out.nbytes / 1e6,
                "the array",
                None,
            )
        for cold in (False, True):
            temperature = "cold" if cold else "warm"
            scans = timed(subjects, lambda one: one.scan(out), 3 if cold else 7, cold)
            speeds = {name: out.nbytes / seconds / 1e9 for name, seconds in scans.items()}
            yield from table(f"scan, {temperature}", "GB/s", speeds, {} if cold else SCAN_GOALS)
            able = [one for one in subjects if one.batch]
            gathers = timed(able, lambda one: gather(one, batches), 2 if cold else 5, cold)
            rates = {name: BATCH * len(batches) / seconds for name, seconds in gathers.items()}
            goals = {} if cold else {"zarr-python": RANDOM_GOAL}
            yield from table(f"64 random clips, {temperature}", "clips/s", rates, goals)


def check(subjects: list[Reader], out: np.ndarray, spans: Spans) -> bool:
    """Whether all give the same bits."""
    scans, batches = [], []
    for one in subjects:
        out[...] = 0
        found = one.scan(out)
        scans.append(hash((out if found is None else found).tobytes()))
        if one.batch:
            batches.append(one.batch(spans).tobytes())
    return len(set(scans)) == len(set(batches)) == 1


def gather(one: Reader, batches: list[Spans]) -> None:
    assert one.batch is not None
    for spans in batches:
        one.batch(spans)


def timed(
    subjects: list[Reader], act: Callable[[Reader], None], repeats: int, cold: bool
) -> dict[str, float]:
    """Seconds of each reader; they take turns, so that a busy moment hits all."""
    seconds: dict[str, list[float]] = {one.name: [] for one in subjects}
    for _ in range(repeats):
        for one in subjects:
            if cold:
                make_cold(one)
            start = time.perf_counter()
            act(one)
            seconds[one.name].append(time.perf_counter() - start)
    return {name: median(found) if cold else min(found) for name, found in seconds.items()}


def table(
    what: str, unit: str, values: dict[str, float], goals: dict[str, float]
) -> Iterator[dict[str, Any]]:
    for name, value in values.items():
        yield row(f"{what}: {name}", value, unit)
    against = goals or {"zarr-python": None}
    for ours in ("ours", "ours, verified", "Feature", "Feature, verified"):
        for other, goal in against.items():
            # Only whole chunks can be verified; random clips are parts of them.
            bound = goal if ours.endswith("verified") == what.startswith("scan") else None
            yield row(f"{what}: {ours}", values[ours], unit, values[other], other, bound)


def row(
    what: str,
    value: float,
    unit: str,
    other: float | None = None,
    against: str | None = None,
    goal: float | None = None,
) -> dict[str, Any]:
    ratio = None if other is None else value / other
    return {
        "what": what,
        "value": value,
        "unit": unit,
        "ratio": ratio,
        "against": against,
        "goal": goal,
    }


def read_into(path: Path, out: np.ndarray) -> None:
    view = memoryview(out.reshape(-1).view(np.uint8))
    with path.open("rb", buffering=0) as file:
        while len(view):
            view = view[file.readinto(view) :]


def make_cold(one: Reader) -> None:
    """Drop the files of a reader from the page cache.

    Raises:
        OSError: they did not go; whatever is measured then is not cold.
    """
    one.release()
    for path in one.files:
        drop_cache(path)
        if (kept := resident_share(path)) > 0.001:
            raise OSError(f"{kept:.1%} of {path} stayed in memory; --folder on a disk, please")


def resident_share(path: Path) -> float:
    """How much of a file is in the page cache. Source: mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = -(-path.stat().st_size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapped:
        held = (ctypes.c_char * len(mapped)).from_buffer(mapped)
        address = ctypes.c_void_p(ctypes.addressof(held))
        failed = libc.mincore(address, ctypes.c_size_t(len(mapped)), found)
        del held
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(byte & 1 for byte in found) / pages


def device_bytes() -> int:
    """What this process has caused to be read from devices. Source: proc(5), /proc/self/io."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def drop_cache(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    show(measure(asked.folder, asked.megabytes))
