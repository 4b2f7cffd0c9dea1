"""A cluster whose workers do all of a unit but decode and encode: client, scheduler, jobs, commits.

    python -m benchmarks simulation
    python -m benchmarks.simulation --units 1000 --processes 8 --folder /dev/shm

The client is `run_on`, the work `cluster_worker.work`: rows are looked up in the kept manifest,
clips go through batches to parts and commit records, leases are renewed. A clip is a frame of 8
pixels that is there at once, the encoder a mean. A process stands for 8 workers, by threads.

What comes out is processor time a unit, of the client, the scheduler and a worker, which tells how
many units a second each bears whatever encoders take; and that everything was committed once.
"""

import argparse
import resource
import subprocess
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks._table import show

UNITS, CLIPS_PER_UNIT, PROCESSES, WORKERS_A_PROCESS = 24, 512, 1, 8
SIDE, DIM = 8, 32
PRELOAD = "benchmarks.simulation"


class Stub:
    """An encoder that costs nothing: the mean of a frame, 32 times."""

    name = slug = "stub"
    dim, modality, short_side = DIM, "visual", SIDE
    identity: dict[str, Any] = {"encoder": "stub"}  # noqa: RUF012 (as its protocol has it)
    notes: dict[str, Any] = {}  # noqa: RUF012

    def preprocess(self, x: Any) -> Any:
        """Frames as numbers."""
        return x.float()

    def forward(self, x: Any) -> Any:
        """A row a frame."""
        return x.mean((1, 2, 3))[:, None].expand(-1, DIM)

    def __call__(self, x: Any) -> Any:
        """Both."""
        return self.forward(self.preprocess(x))


def decoded(
    manifest: Any, wanted: Iterable[tuple[int, Sequence[Any]]], *_: Any, **__: Any
) -> Generator[Any, None, None]:
    """What `extract.pipeline.outputs.decoded` gives, of clips that are there at once."""
    import numpy as np

    from extract.media.clip import Clip, Frames, Stream
    from extract.processes.child import Outcome
    from store import Status

    frames = Frames(pixels=np.full((1, SIDE, SIDE, 3), 9, np.uint8), seconds=np.zeros(1))
    clip = Clip(
        visual=Stream(status=Status.OK, detail="pyav", data={SIDE: frames}),
        audio=Stream(status=Status.ABSENT),
    )
    for index, _row in enumerate(wanted):
        yield Outcome(value=clip, index=index)


def dask_setup(worker: Any) -> None:
    """Called by dask in each worker, which is told to preload this module."""
    from extract.pipeline import cluster_worker

    cluster_worker.decoded = decoded  # type: ignore[attr-defined]
    cluster_worker._loaded = lambda settings: [Stub()]  # type: ignore[assignment]


def rows_of(units: int, processes: int, folder: Path | None) -> Iterator[dict[str, Any]]:
    """A row a figure."""
    import store
    from benchmarks.cluster import cluster, seconds_of
    from extract.media.sampling import Sampling
    from extract.pipeline.cluster import Scheduler, run_on
    from extract.pipeline.options import Options
    from store import Manifest

    with TemporaryDirectory(dir=folder) as name:
        place, clips = Path(name), units * CLIPS_PER_UNIT
        names = tuple(f"class{i % 20:03d}/clip{i:08d}.mp4" for i in range(clips))
        manifest = Manifest(table={"path": names, "clip_id": names}, root=place)
        started: list[subprocess.Popen[bytes]] = []
        with cluster(
            place, processes, WORKERS_A_PROCESS, preload=PRELOAD, processes=started
        ) as url:
            asked = Options(clips_per_unit=CLIPS_PER_UNIT, workers=WORKERS_A_PROCESS, device="cpu")
            how: dict[str, Any] = {
                "visual": ["stub"], "sampling": Sampling(fps=1.0), "options": asked,
            }  # fmt: skip
            line = Scheduler(url=url, insecure_tcp=True)
            # The first run brings the code into every process; the second one is measured.
            few = manifest.select(names[: CLIPS_PER_UNIT * WORKERS_A_PROCESS])
            run_on(line, few, place / "first", **how)
            before = [seconds_of(process.pid) for process in started]
            begun, own = time.perf_counter(), time.process_time()
            result = run_on(line, manifest, place / "store", **how)
            own, wall = time.process_time() - own, time.perf_counter() - begun
            theirs = [
                seconds_of(process.pid) - spent
                for process, spent in zip(started, before, strict=True)
            ]
        fs = store.open(place / "store")
        feature = fs[fs.features[0]]
        assert feature.clips == clips == result.features[0].new, "every clip once"
        mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    what = f"{units} units of {CLIPS_PER_UNIT}, {processes} x {WORKERS_A_PROCESS} workers"
    for who, spent in {
        "client": own, "scheduler": theirs[0], "a worker": sum(theirs[1:])
    }.items():  # fmt: skip
        yield row(
            f"{what}: {who}", 1e3 * spent / units, "ms a unit", f"{units / spent:.0f} units/s"
        )
    yield row(f"{what}: by the clock", units / wall, "units/s", f"client {mebibytes:.0f} MiB")


def row(what: str, value: float, unit: str, against: str) -> dict[str, Any]:
    """One figure."""
    return {
        "what": what, "value": value, "unit": unit, "ratio": None, "against": against, "goal": None,
    }  # fmt: skip


def measure() -> Iterator[dict[str, Any]]:
    """Few units: the shape of the table."""
    yield from rows_of(UNITS, PROCESSES, None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=UNITS)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    show(rows_of(given.units, given.processes, given.folder))
