"""The work of a cluster's worker: a unit, by the same pipeline as a run on one machine.

Only small records travel. What all units have in common is sent once to every worker that is there
or comes (`Setup`); a unit is rows of the manifest that the store keeps, counts and seconds come
back, and a word now and then that the unit goes on. Rows go from the worker into the store.
Networks are loaded once a process and kept.
"""

import hashlib
import math
import os
import platform
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
from distributed import WorkerPlugin, get_worker

import store
from extract.encoders import Encoder
from extract.pipeline.cluster_task import Settings, UnitTask
from extract.pipeline.options import Options
from extract.pipeline.outputs import Output, Units, decoded, encoders_of, outputs_of, specs_of
from extract.pipeline.planned import Planned
from extract.pipeline.progress import RunProgress
from extract.pipeline.result import Timings
from extract.pipeline.stages import Pipeline
from extract.processes.heap import kept
from store import FeatureSpec, Manifest
from store.columns import Columns
from store.errors import ClusterError
from store.kept import KeptFile, KeptRows

LIBRARIES = ("torch", "av", "zarr", "numpy", "distributed")
COLUMNS = ("path", "clip_id", "start_seconds", "end_seconds")  # that a run reads of a clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all units of a run have in common."""

    run: str  # the name of the run
    settings: Settings
    features: tuple[str, ...]  # what the encoders must give, in their order
    versions: tuple[tuple[str, str], ...]  # that the worker must have
    store: str
    root: str  # of the paths
    manifest: tuple[KeptFile, ...]  # whose rows are meant
    told_every_seconds: float  # that a unit goes on


class SetupPlugin(WorkerPlugin):
    """Gives a setup to every worker of a cluster, those that come later included."""

    def __init__(self, setup: Setup) -> None:
        self.name = setup.run
        self._setup = setup

    def setup(self, worker: Any) -> None:
        """Called by dask when the worker hears of the run."""
        _setups[self._setup.run] = self._setup

    def teardown(self, worker: Any) -> None:
        """Called by dask when the run is over."""
        _setups.pop(self._setup.run, None)


_setups: dict[str, Setup] = {}


def checksum(table: Columns) -> int:
    """The checksum of the cells that a run reads of its clips."""
    cells = [
        cell for name in COLUMNS if name in table for cell in (name, *table.arrow(name).to_pylist())
    ]
    value: int = google_crc32c.value("\0".join(cells).encode())
    return value


def versions() -> tuple[tuple[str, str], ...]:
    """Versions that must be equal everywhere: Python, libraries, and our code to the letter."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    versions |= {name: version(name).partition("+")[0] for name in LIBRARIES}
    return (*versions.items(), ("microshot code", _code()))


def prepared(settings: Settings) -> dict[str, Any]:
    """Load the networks, and say what features they give and on what they run."""
    options = settings.options.resolved()
    specs = _specs(settings)
    return {
        "specs": [_plain(spec) for spec in specs],
        "device": options.device,
        "clips_per_unit": options.clips_per_unit,
    }


def work(task: UnitTask) -> dict[str, Any]:
    """Commit a unit, and say what it was.

    Raises:
        ClusterError: this worker's code or networks are others than the client's.
        MicroshotError: as a run.
    """
    setup = _setup_of(task)
    lease = _Lease(setup, task.number)
    options = _shared(setup.settings.options.resolved())
    encoders = _encoders(setup.settings)
    specs = _specs(setup.settings)
    if tuple(spec.feature_id for spec in specs) != setup.features:
        raise ClusterError(
            f"worker {process_name()} makes other features than the first; give all workers "
            "the same weights, kind of device and `precision`"
        )
    fs = store.open(setup.store)
    table = _rows(setup, task)
    manifest = Manifest(table=table, root=Path(setup.root))
    planned = task.planned
    outputs = outputs_of(fs, encoders, specs, batch_size=options.batch_size, device=options.device)
    units = Units(_uncommitted(planned, outputs, manifest), outputs)
    commits: list[Mapping[str, Any]] = []
    timings = Timings(workers=options.workers)
    progress = RunProgress(
        timings=timings, clips=units.planned.clips, units=1, on_commit=commits.append,
        progress=lease.renew,
    )  # fmt: skip
    if len(units):
        pipeline = Pipeline(manifest=manifest, units=units, progress=progress)
        outcomes = decoded(
            manifest, units.wanted(), setup.settings.sampling, options, ordered=False
        )
        with kept(options.device), closing(outcomes), torch.inference_mode():
            pipeline.work(outcomes)
    timings.seconds = time.perf_counter() - timings.begun
    return {
        "unit": task.number,
        "worker": process_name(),
        "already_done": planned.clips - units.planned.clips,  # clips
        "timings": asdict(timings),
        "commits": [dict(commit) for commit in commits],
        "failures": dict(progress.failures),
        "outputs": {
            output.feature.name: {
                "new": output.new,
                "by_others": output.by_others,
                "items": output.items,
                "slots": output.slots,
            }
            for output in outputs
        },
    }


def _rows(setup: Setup, task: UnitTask) -> Columns:
    """The unit's rows of the kept manifest. One thread looks at a time: what it reads, others
    would read as well."""
    with _looking:
        table = _kept_rows(setup.store, setup.manifest).take(task.rows, COLUMNS)
    if checksum(table) != task.checksum:
        raise ClusterError(
            f"worker {process_name()} finds other clips in {setup.store} than this client; give "
            "all machines the same store"
        )
    return table


_looking = threading.Lock()


class _Lease:
    """Word to the client that a unit goes on: when it begins, and with its clips now and then."""

    def __init__(self, setup: Setup, number: int) -> None:
        self._setup, self._number = setup, number
        self._told = -math.inf
        self.renew()

    def renew(self, *_: Any) -> None:
        """Say so, if it was not said lately."""
        now = time.monotonic()
        if now - self._told >= self._setup.told_every_seconds:
            self._told = now
            worker = get_worker()
            worker.log_event(self._setup.run, {"unit": self._number, "worker": worker.address})


def process_name() -> str:
    """This process, as an error names it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def spec_of(plain: Mapping[str, Any]) -> FeatureSpec:
    """A feature's identity as it travelled."""
    return FeatureSpec(**plain)


def _plain(spec: FeatureSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in ("slug", "modality", "dim", "identity", "notes")}


def _uncommitted(planned: Planned, outputs: Sequence[Output], manifest: Manifest) -> Planned:
    """The unit without what was committed meanwhile, by another client or an earlier try."""
    wanted = planned.wanted.copy()
    for i, output in enumerate(outputs):
        clip_ids = [manifest.clip_ids[row] for row in np.flatnonzero(wanted[:, i]).tolist()]
        name = output.feature.unit_name(clip_ids, retry=int(planned.retries[0, i]))
        if output.feature.has_unit(name):
            wanted[:, i] = False
    left = wanted.any(1)
    first = np.array([0, left.sum()] if left.any() else [0])
    return replace(planned, rows=planned.rows[left], wanted=wanted[left], first=first)


def _setup_of(task: UnitTask) -> Setup:
    """The setup of a unit's run, which this worker can do."""
    if task.run not in _setups:
        raise ClusterError(
            f"worker {process_name()} has not heard of this run; run the same command to go on"
        )
    setup = _setups[task.run]
    if task.run not in _able:
        _check(setup.versions)
        _able.add(task.run)
    return setup


_able: set[str] = set()  # runs whose versions were compared


def _check(wanted: tuple[tuple[str, str], ...]) -> None:
    own = dict(versions())
    for name, theirs in wanted:
        if own.get(name) != theirs:
            raise ClusterError(
                f"worker {process_name()} has {name} {own.get(name)}, this client {theirs}; "
                "install the same on both"
            )


@lru_cache(maxsize=2)
def _kept_rows(where: str, files: tuple[KeptFile, ...]) -> KeptRows:
    return KeptRows(store.open(where).storage, files)


_loading = threading.Lock()


def _encoders(settings: Settings) -> list[Encoder]:
    """The networks of this process."""
    with _loading:
        return _loaded(settings)


def _specs(settings: Settings) -> list[FeatureSpec]:
    return specs_of(_encoders(settings), settings.sampling, settings.options.decoder)


@lru_cache(maxsize=1)
def _loaded(settings: Settings) -> list[Encoder]:
    options = settings.options.resolved()
    return encoders_of(settings.visual, settings.audio, options)


def _shared(options: Options) -> Options:
    """The options for one of the units done at once: its share of the decode processes.

    Dask's nanny gives its workers one thread for products of matrices; `workers` says how many
    cores they may have.
    """
    torch.set_num_threads(options.workers)
    at_once = max(1, get_worker().state.nthreads)
    return replace(options, workers=-(-options.workers // at_once))


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of the sources that decide what a worker does."""
    digest = hashlib.sha256()
    for package in ("extract", "store"):
        folder = Path(__file__).parents[2] / package
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
