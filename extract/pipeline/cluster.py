"""`extract run --scheduler`: units mapped over the workers of a dask scheduler.

All state is in the store. The client keeps a few units per worker thread under way and hears what
became of them; a client, scheduler or worker may die at any time, and the same command goes on.
A unit that was done twice, because a worker died after its commit or because two clients share a
store, is committed once: its record is put if absent.

A unit that has begun has a lease, which its worker renews with every few clips. A worker that hangs
without dying lets it run out, and is started anew: dask gives its units to others.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from queue import Empty, Queue
from secrets import token_hex
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from distributed import Client
from distributed.scheduler import KilledWorker

import store
from extract.datasets.source import read_clips
from extract.media.sampling import Sampling
from extract.pipeline import cluster_calls, cluster_task, cluster_worker
from extract.pipeline.cluster_task import Settings, UnitTask
from extract.pipeline.cluster_worker import Setup, SetupPlugin
from extract.pipeline.options import Options, readable
from extract.pipeline.outputs import named, second_features, usual_sampling
from extract.pipeline.planned import Planned, planned
from extract.pipeline.progress import RunProgress, Watch, metrics_writer
from extract.pipeline.result import FeatureReport, RunResult, Timings
from extract.processes.sandbox import Confinement
from store import Manifest
from store.cluster import check_url, connected
from store.errors import ClusterError

UNITS_PER_THREAD = 2  # under way: one at work, one waiting
TRIES = 3  # of a unit whose workers died
WAIT_SECONDS = 30.0  # for a first worker
GONE_SECONDS = 10.0  # without a scheduler
POLL_SECONDS = 0.2
AT_ONCE = 256  # units whose results are asked for together
COUNT_SECONDS = 1.0  # between looks at the workers that are there
RESTART_SECONDS = 60.0  # for a worker that hangs
TOLD = 20  # times a lease is renewed while it lasts


@runtime_checkable
class _Promise(Protocol):
    """The part of a dask future that is used here."""

    key: str
    status: str

    def result(self) -> Any: ...
    def exception(self) -> BaseException | None: ...
    def add_done_callback(self, call: Any) -> None: ...


@runtime_checkable
class _Workers(Protocol):
    """The part of a dask client that is used here."""

    status: str

    def nthreads(self) -> Mapping[str, int]: ...
    def gather(self, futures: list[Any]) -> Any: ...
    def restart_workers(self, workers: list[str], **kwargs: Any) -> Any: ...
    def map(self, function: Any, *args: Any, **kwargs: Any) -> Any: ...


class _Lease(NamedTuple):
    """Who does a unit, and when that was last heard."""

    worker: str
    renewed: float


@dataclass(slots=True, kw_only=True, eq=False)
class _ClusterRun:
    """One run on a cluster: its tasks, those under way, and what came back."""

    client: _Workers
    tasks: Iterator[UnitTask]
    progress: RunProgress
    new: Counter[str] = field(default_factory=Counter)  # clips by feature
    by_others: Counter[str] = field(default_factory=Counter)  # of them, that others were first with
    items: Counter[str] = field(default_factory=Counter)
    slots: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)  # units whose workers died every time
    lease_seconds: float = math.inf
    hung: list[str] = field(default_factory=list)  # workers that were started anew
    _open: dict[str, UnitTask] = field(default_factory=dict)  # by key of the future
    _leases: dict[int, _Lease] = field(default_factory=dict)  # of units that have begun
    _threads: tuple[float, int] = (-math.inf, 0)  # when they were counted, and how many
    _tries: Counter[int] = field(default_factory=Counter)
    _done: Queue[_Promise] = field(default_factory=Queue)

    def work(self) -> None:
        """Work until all units are done or the run is to end."""
        gone_since, looked_at = 0.0, time.monotonic()
        while True:
            self.progress.check()
            if not self.progress.stopped:
                try:
                    self._submit()
                except OSError:  # dask's own: it had to ask the scheduler
                    raise self._gone() from None
            if not self._open:
                return
            try:
                self._take_all(self._done.get(timeout=POLL_SECONDS))
            except Empty:
                gone_since = self._watch(gone_since)
            else:
                if time.monotonic() > looked_at + COUNT_SECONDS:  # others may hang while some go on
                    looked_at = time.monotonic()
                    self._check_leases()

    def _submit(self) -> None:
        """Submit as many units as the present workers can use."""
        if time.monotonic() - self._threads[0] > COUNT_SECONDS:
            self._threads = (time.monotonic(), sum(self.client.nthreads().values()))
        room = max(1, UNITS_PER_THREAD * self._threads[1]) - len(self._open)
        if room > 0:
            self._send(list(islice(self.tasks, room)))

    def _send(self, tasks: Sequence[UnitTask]) -> None:
        """Send units, all in one message: each costs the scheduler as much as many do."""
        if not tasks:
            return
        keys = [f"microshot-unit-{task.number}-{time.time_ns()}" for task in tasks]
        futures = self.client.map(cluster_calls.work, tasks, key=keys, pure=False)
        for task, key, future in zip(tasks, keys, futures, strict=True):
            self._tries[task.number] += 1
            self._open[key] = task
            future.add_done_callback(self._done.put)

    def _take_all(self, first: _Promise) -> None:
        """Take all that is done: their results come in one answer, not in one each."""
        done = [first]
        with suppress(Empty):
            while len(done) < AT_ONCE:
                done.append(self._done.get_nowait())
        finished = [f for f in done if f.status == "finished" and f.key in self._open]
        results: dict[str, Any] = {}
        with suppress(Exception):  # what is wrong with one of them is told by itself
            keys = [future.key for future in finished]
            results = dict(zip(keys, self.client.gather(finished), strict=True))
        for future in done:
            self._take(future, results)

    def _take(self, future: _Promise, results: Mapping[str, Any]) -> None:
        task = self._open.pop(future.key, None)
        if task is None:
            return
        self._leases.pop(task.number, None)
        if future.status == "finished":
            key = future.key
            self._count(results[key] if key in results else future.result())
            return
        error = future.exception() if future.status == "error" else None
        if error is not None and not isinstance(error, KilledWorker):
            raise error
        if future.status == "error" and self._tries[task.number] < TRIES:
            self._send([task])
        elif future.status == "error":
            self.lost.append(task.number)
        else:
            raise ClusterError(
                f"the scheduler lost unit {task.number + 1}; what was committed stays, run the "
                "same command to go on"
            )

    def _count(self, done: Mapping[str, Any]) -> None:
        timings, theirs = self.progress.timings, done["timings"]
        self.progress.clips -= done["already_done"]
        timings.clips += theirs["clips"]
        for name in ("decode_cpu_seconds", "waiting", "encoding", "device", "writing"):
            setattr(timings, name, getattr(timings, name) + theirs[name])
        timings.decoder_bytes = max(timings.decoder_bytes, theirs["decoder_bytes"])
        if theirs["confinement"] is not None:
            confinement = Confinement(**theirs["confinement"])
            timings.confinement = confinement.and_of(timings.confinement)
        self.progress.failures.update(done["failures"])
        for name, counts in done["outputs"].items():
            self.new[name] += counts["new"]
            self.by_others[name] += counts["by_others"]
            self.items[name] += counts["items"]
            self.slots[name] += counts["slots"]
        keep = ("feature", "clips", "by_others", "rows", "status", "commit_seconds")
        self.progress.report_commits(
            [
                {name: commit[name] for name in keep}
                | {"unit": done["unit"], "worker": done["worker"]}
                for commit in done["commits"]
            ]
        )
        self.progress.report_clip()

    def hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """A worker says that a unit goes on; called by dask, in a thread of its own."""
        _, said = event
        self._leases[said["unit"]] = _Lease(said["worker"], time.monotonic())

    def _check_leases(self) -> None:
        """Start workers anew that have not said for too long that a unit goes on."""
        now, under_way = time.monotonic(), {task.number for task in self._open.values()}
        late = {
            number: lease.worker
            for number, lease in list(self._leases.items())
            if number in under_way and now - lease.renewed > self.lease_seconds
        }
        if not late:
            return
        try:
            there = self.client.nthreads()
        except OSError:
            raise self._gone() from None
        # Dask gives all that such a worker had to others, where it begins, or waits to, again.
        for number, lease in list(self._leases.items()):
            if lease.worker in late.values():
                self._leases.pop(number, None)
        late = {number: worker for number, worker in late.items() if worker in there}
        for number in late:
            self._tries[number] += 1
        for key in [k for k, task in self._open.items() if self._tries[task.number] > TRIES]:
            self.lost.append(self._open.pop(key).number)
        for worker in sorted(set(late.values())):
            self.hung.append(worker)
            try:
                self.client.restart_workers(
                    [worker], timeout=RESTART_SECONDS, raise_for_error=False
                )
            except KeyError:  # dask's own, of a worker that went a moment ago
                continue
            except ValueError:
                raise ClusterError(
                    f"worker {worker} hangs, and has no nanny to start it anew; stop it, start "
                    "another, and run the same command to go on"
                ) from None

    def _watch(self, gone_since: float) -> float:
        """Raise once the scheduler has been gone for some time; returns since when it is."""
        self._check_leases()
        if self.client.status == "running":
            return 0.0
        now = time.monotonic()
        if (gone_since and now - gone_since > GONE_SECONDS) or self.client.status == "closed":
            raise self._gone()
        return gone_since or now

    def _gone(self) -> ClusterError:
        return ClusterError(
            f"the scheduler is gone; {self.progress.timings.clips} clips of this run were "
            "committed, run the same command to go on"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """The address of a dask scheduler."""

    url: str
    insecure_tcp: bool = False  # accept tcp://, which everybody who reaches it may use


def run_on(
    scheduler: Scheduler | str,
    manifest: Manifest | Path | str,
    store_dir: Path | str,
    *,
    visual: Sequence[str] = (),
    audio: Sequence[str] = (),
    sampling: Sampling | None = None,
    options: Options | None = None,
    watch: Watch | None = None,
) -> RunResult:
    """Do what `extract.pipeline.run.run` does by the workers of a dask scheduler.

    Paths of media, weights and store must mean the same on all machines. `options.workers` is the
    number of cores of one worker, and `auto` is what it means there.

    Raises:
        ClusterError: no scheduler, no worker, an unsafe line, or workers that are not like us.
        MicroshotError: as `extract.pipeline.run.run`.
    """
    options, watch = options or Options(), watch or Watch()
    where = Scheduler(url=scheduler) if isinstance(scheduler, str) else scheduler
    manifest, notes = read_clips(manifest)
    manifest = readable(manifest)
    visual, audio, said = named(visual, audio)
    notes += said
    on_commit = metrics_writer(watch.metrics)
    settings = Settings(
        visual=tuple(visual),
        audio=tuple(audio),
        sampling=sampling or usual_sampling(visual),
        options=options,
    )
    with connected(where.url, where.insecure_tcp) as client:
        timings = Timings(workers=0)
        first = _check_workers(client, settings, where.url, where.insecure_tcp)
        specs = [cluster_worker.spec_of(plain) for plain in first["specs"]]
        fs = store.create(store_dir)
        notes += second_features(fs, specs)
        watch.say(notes)
        kept = fs.add_manifest(manifest)
        features = [fs.add_feature(spec) for spec in specs]
        units = planned(manifest, features, options.again, first["clips_per_unit"])
        progress = RunProgress(
            timings=timings, clips=units.clips, units=len(units), progress=watch.progress,
            on_commit=on_commit, max_failures=options.max_failures, stop=watch.stop,
        )  # fmt: skip
        setup = Setup(
            run=f"microshot-{token_hex(8)}",
            settings=settings,
            features=tuple(feature.name for feature in features),
            versions=cluster_worker.versions(),
            store=_absolute(store_dir),
            root=str(manifest.root.absolute()) if manifest.root else "",
            manifest=tuple(kept),
            told_every_seconds=options.unit_deadline_seconds / TOLD,
        )
        run = _ClusterRun(
            client=client,
            progress=progress,
            tasks=_tasks(units, manifest, setup),
            lease_seconds=options.unit_deadline_seconds,
        )
        with _introduced(client, setup, run):
            run.work()
        timings.workers = len(client.nthreads())
    timings.seconds = time.perf_counter() - timings.begun
    if run.lost and not progress.stopped:
        progress.stopped = f"{len(run.lost)} units killed {TRIES} workers each, or had them hang"
    return RunResult(
        features=[
            FeatureReport.of(
                fs[feature.name],  # looked up anew: others wrote it
                manifest.keys,
                new=run.new[feature.name],
                by_others=run.by_others[feature.name],
                fill=run.items[feature.name] / max(run.slots[feature.name], 1) or 1.0,
            )
            for feature in features
        ],
        timings=timings,
        max_failures=options.max_failures,
        stopped=progress.stopped,
        notes=notes,
    )


def _check_workers(
    client: Client, settings: Settings, url: str, insecure_tcp: bool
) -> Mapping[str, Any]:
    """Check that all workers run this code; returns one worker's answer to `prepared`."""
    try:
        client.wait_for_workers(1, timeout=WAIT_SECONDS)
    except TimeoutError:
        raise ClusterError(
            f"no worker at {url} after {WAIT_SECONDS:.0f} s; start one: dask worker {url} "
            "--nthreads 2"
        ) from None
    addresses = list(client.scheduler_info(n_workers=-1)["workers"])
    for address in addresses:
        check_url(address, insecure_tcp)
    own = cluster_worker.versions()
    try:
        versions = client.run(cluster_worker.versions)
    except Exception as error:  # whatever their interpreter says
        raise ClusterError(
            f"a worker cannot run this program ({type(error).__name__}: {error}); install the same "
            "microshot there"
        ) from None
    for address, theirs in versions.items():
        for (name, wanted), (_, version) in zip(own, theirs, strict=True):
            if version != wanted:
                raise ClusterError(
                    f"worker {address} has {name} {version}, this client {wanted}; install the "
                    "same on both"
                )
    future = client.submit(cluster_calls.prepared, settings, pure=False)
    result: Mapping[str, Any] = future.result()
    return result


@contextmanager
def _introduced(client: Client, setup: Setup, run: _ClusterRun) -> Iterator[None]:
    """Have all workers know the run, and hear of its units."""
    client.register_plugin(SetupPlugin(setup))
    client.subscribe_topic(setup.run, run.hear)
    try:
        yield
    finally:
        with suppress(Exception):  # the scheduler may be gone
            client.unregister_worker_plugin(setup.run)


def _tasks(units: Planned, manifest: Manifest, setup: Setup) -> Iterator[UnitTask]:
    cells = manifest.cells.whole(cluster_worker.COLUMNS)
    for number, unit in enumerate(units):
        rows = np.array([row for row, _ in unit])
        yield UnitTask(
            number=number,
            run=setup.run,
            stretches=cluster_task.stretches_of(unit),
            checksum=cluster_worker.checksum(cells.take(rows)),
            retries=tuple(units.retries[number].tolist()),
        )


def _absolute(store_dir: Path | str) -> str:
    return str(store_dir) if "://" in str(store_dir) else str(Path(store_dir).absolute())
