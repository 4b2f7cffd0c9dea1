"""The work of a cluster's worker: a unit, by the same pipeline as a run on one machine.

Only small records travel: names of encoders and files there, counts and seconds back. Rows go from
the worker into the store. Networks are loaded once a process and kept.
"""

import hashlib
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

import numpy as np
import torch
from distributed import get_worker

import store
from extract.encoders import Encoder
from extract.media.sampling import Sampling
from extract.pipeline.options import Options
from extract.pipeline.outputs import Output, Units, decoded, encoders_of, outputs_of, specs_of
from extract.pipeline.planned import Planned
from extract.pipeline.progress import RunProgress
from extract.pipeline.result import Timings
from extract.pipeline.stages import Pipeline
from store import FeatureSpec, Manifest
from store.errors import ClusterError

LIBRARIES = ("torch", "av", "zarr", "numpy", "distributed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings that all units of a run have in common."""

    visual: tuple[str, ...]
    audio: tuple[str, ...]
    sampling: Sampling
    options: Options


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTask:
    """One unit of a run, as it travels to a worker."""

    number: int
    settings: Settings
    features: tuple[str, ...]  # what the encoders must give, in their order
    versions: tuple[tuple[str, str], ...]  # that the worker must have
    store: str
    root: str  # of the paths
    table: Mapping[str, tuple[str, ...]]  # the unit's rows of the manifest
    wanted: tuple[tuple[int, ...], ...]  # by row: which features want it
    retries: tuple[int, ...]  # by feature: which retry of its clips the unit is

    @property
    def planned(self) -> Planned:
        """The unit as a run on one machine has it."""
        wanted = np.zeros((len(self.wanted), len(self.features)), bool)
        for row, mask in enumerate(self.wanted):
            wanted[row, list(mask)] = True
        return Planned(
            rows=np.arange(len(wanted)),
            wanted=wanted,
            first=np.array([0, len(wanted)]),
            retries=np.array([self.retries], np.int64).reshape(1, -1),
        )


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
    _check(task.versions)
    options = _shared(task.settings.options.resolved())
    encoders = _encoders(task.settings)
    specs = _specs(task.settings)
    if tuple(spec.feature_id for spec in specs) != task.features:
        raise ClusterError(
            f"worker {process_name()} makes other features than the first; give all workers "
            "the same weights, kind of device and `precision`"
        )
    manifest = Manifest(table=task.table, root=Path(task.root))
    fs = store.open(task.store)
    outputs = outputs_of(fs, encoders, specs, batch_size=options.batch_size, device=options.device)
    units = Units(_uncommitted(task.planned, outputs, manifest), outputs)
    commits: list[Mapping[str, Any]] = []
    timings = Timings(workers=options.workers)
    progress = RunProgress(
        timings=timings, clips=units.planned.clips, units=1, on_commit=commits.append
    )
    if len(units):
        pipeline = Pipeline(manifest=manifest, units=units, progress=progress)
        outcomes = decoded(manifest, units.wanted(), task.settings.sampling, options, ordered=False)
        with closing(outcomes), torch.inference_mode():
            pipeline.work(outcomes)
    timings.seconds = time.perf_counter() - timings.begun
    return {
        "unit": task.number,
        "worker": process_name(),
        "already_done": len(task.wanted) - units.planned.clips,  # clips
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


def _check(wanted: tuple[tuple[str, str], ...]) -> None:
    own = dict(versions())
    for name, theirs in wanted:
        if own.get(name) != theirs:
            raise ClusterError(
                f"worker {process_name()} has {name} {own.get(name)}, this client {theirs}; "
                "install the same on both"
            )


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
