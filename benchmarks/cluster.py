"""What the client of a cluster can keep under way: units a second whose work is nothing.

    python -m benchmarks cluster
    python -m benchmarks.cluster --units 1000 100000 --workers 2

A real scheduler and real workers on this machine; the client plans a made-up manifest, makes its
tasks and hears of them as `extract run --scheduler` does. Workers look their rows up in the kept
manifest and say that they are done.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks._table import show

SIZES = (1_000,)
CLIPS_PER_UNIT = 16
WORKERS, THREADS, GOAL = 2, 16, 200.0


def trivial(task: Any) -> dict[str, Any]:
    """A unit without its work: its rows are looked up, and nothing is decoded."""
    from extract.pipeline import cluster_worker

    setup = cluster_worker._setup_of(task)
    cluster_worker._Lease(setup, task.number)
    cluster_worker._rows(setup, task)
    timings = {
        "clips": len(task.rows), "decode_cpu_seconds": 0.0, "waiting": 0.0, "encoding": 0.0,
        "writing": 0.0, "device": 0.0, "decoder_bytes": 0, "confinement": None,
    }  # fmt: skip
    return {
        "unit": task.number, "worker": "w", "timings": timings, "commits": [], "failures": {},
        "outputs": {}, "already_done": 0,
    }  # fmt: skip


@contextmanager
def cluster(
    folder: Path,
    workers: int,
    threads: int,
    *,
    preload: str = "",
    processes: list[subprocess.Popen[bytes]] | None = None,
) -> Iterator[str]:
    """A scheduler and workers, which may `preload` a module, at the address that comes; `processes`
    gets them, the scheduler first."""
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    processes = [] if processes is None else processes
    processes.append(subprocess.Popen([*dask, "scheduler", *words], **quiet))
    try:
        while not file.exists() or not file.read_text():
            time.sleep(0.05)
        words = ["--scheduler-file", str(file), "--nthreads", str(threads), "--no-dashboard"]
        words += ["--host", "127.0.0.1", "--local-directory", str(folder / "w")]
        words += ["--preload", preload] if preload else []
        for _ in range(workers):
            processes.append(subprocess.Popen([*dask, "worker", *words], **quiet))
        yield json.loads(file.read_text())["address"]
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)


def seconds_of(pid: int) -> float:
    """Processor seconds of a process and of those that it started."""
    folder, total = Path("/proc"), 0.0
    for path in folder.iterdir():
        if not path.name.isdigit():
            continue
        try:
            facts = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(path.name) == pid:
            total += sum(map(int, facts[11:15])) / os.sysconf("SC_CLK_TCK")
        elif int(facts[1]) == pid:
            total += seconds_of(int(path.name))
    return total


def units_a_second(folder: Path, url: str, units: int, workers: int) -> tuple[float, float, float]:
    """Units a second, milliseconds of this process a unit, and the most memory it held, in MiB."""
    import store
    from extract.media.sampling import Sampling
    from extract.pipeline import cluster as client_side
    from extract.pipeline import cluster_calls, cluster_task, cluster_worker
    from extract.pipeline.options import Options
    from extract.pipeline.planned import planned
    from extract.pipeline.progress import RunProgress
    from extract.pipeline.result import Timings
    from store import FeatureSpec, Manifest
    from store.cluster import connected

    names = tuple(f"class{i % 20:03d}/clip{i:08d}.mp4" for i in range(units * CLIPS_PER_UNIT))
    manifest = Manifest(table={"path": names, "clip_id": names}, root=folder)
    fs = store.create(folder / f"s{units}")
    kept = fs.add_manifest(manifest)
    feature = fs.add_feature(FeatureSpec(slug="f", modality="visual", dim=2, identity={}))
    settings = cluster_task.Settings(
        visual=(), audio=(), sampling=Sampling(fps=1.0), options=Options()
    )
    plan = planned(manifest, [feature], frozenset(), CLIPS_PER_UNIT)
    setup = cluster_worker.Setup(
        run=f"bench-{units}", settings=settings, features=(feature.name,),
        versions=cluster_worker.versions(), store=str(fs.path), root=str(folder),
        manifest=tuple(kept), told_every_seconds=45.0,
    )  # fmt: skip
    progress = RunProgress(timings=Timings(workers=0), clips=plan.clips, units=len(plan))
    with connected(url, insecure_tcp=True) as client:
        client.wait_for_workers(workers, timeout=60)
        client.run(cluster_worker.versions)  # as a run does first: its code is imported there
        run = client_side._ClusterRun(
            client=client, progress=progress, lease_seconds=900.0,
            tasks=client_side._tasks(plan, manifest, setup),
        )  # fmt: skip
        with (
            client_side._introduced(client, setup, run),
            patch.object(cluster_calls, "work", trivial),
        ):
            begun, spent = time.perf_counter(), time.process_time()
            run.work()
            seconds, spent = time.perf_counter() - begun, time.process_time() - spent
    assert progress.timings.clips == plan.clips
    mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return units / seconds, 1e3 * spent / units, mebibytes


def plain(url: str, units: int, workers: int) -> float:
    """Units a second of dask alone: as many futures under way, of a function that does nothing."""
    from distributed import as_completed

    from store.cluster import connected

    with connected(url, insecure_tcp=True) as client:
        client.wait_for_workers(workers, timeout=60)
        window = 2 * workers * THREADS
        begun = time.perf_counter()
        first = [client.submit(int, i, pure=False) for i in range(window)]
        running = as_completed(first, loop=client.loop)
        for number, _ in enumerate(running, start=window):
            if number < units:
                running.add(client.submit(int, number, pure=False))
        return units / (time.perf_counter() - begun)


def rows_of(sizes: Sequence[int], workers: int) -> Iterator[dict[str, Any]]:
    """A row a figure."""
    started: list[subprocess.Popen[bytes]] = []
    with (
        TemporaryDirectory() as name,
        cluster(Path(name), workers, THREADS, processes=started) as url,
    ):
        bare = plain(url, min(sizes), workers)
        for units in sizes:
            before = [seconds_of(process.pid) for process in started]
            rate, milliseconds, mebibytes = units_a_second(Path(name), url, units, workers)
            spent = [
                1e3 * (seconds_of(process.pid) - then) / units
                for process, then in zip(started, before, strict=True)
            ]
            what = f"cluster: {units:,} trivial units, {workers} workers"
            yield {
                "what": what, "value": rate, "unit": "units/s", "ratio": rate / bare, "goal": None,
                "against": f"dask alone; {1e3 / milliseconds:.0f}/s by the client's processor time "
                f"(goal {GOAL:.0f}), {mebibytes:.0f} MiB; ms a unit: scheduler {spent[0]:.2f}, "
                f"workers {sum(spent[1:]):.2f}",
            }  # fmt: skip


def measure() -> Iterator[dict[str, Any]]:
    """A thousand units."""
    yield from rows_of(SIZES, WORKERS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--workers", type=int, default=WORKERS)
    asked = parser.parse_args()
    show(rows_of(asked.units, asked.workers))
