"""`extract run`: manifest → units → decode processes → packer → encoders → parts → commit records.

A unit is a fixed stretch of the manifest, less the clips a feature already has. Each clip is
decoded once for all features that still want it; each feature commits its own units. All state is
in the store: interrupt a run in any way, run it again, and it goes on at the first unit that is not
committed, with the same values as if nothing had happened.
"""

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event

import torch

import store
from extract.decode import DECODERS, decode, safely
from extract.encoders import Encoder
from extract.goals import encoders_of, file_of, goals_of, request_of, specs_of, units_of
from extract.pipeline import Pipeline, Progress, check_metrics
from extract.report import FeatureReport, RunResult, Spent
from extract.sample import Sampling
from extract.workers import process_map
from store import Manifest, Status, Store
from store.errors import ConfigError, InputError, choices

CLIPS_PER_UNIT = {"cpu": 64, "cuda": 512}  # about a minute's work: what a kill may cost
BATCH_SIZE = {"cpu": 16, "cuda": 128}


def _silent(done: int, total: int, message: str = "", told: str = "") -> None: ...


def sampling(
    *,
    fps: float | None = None,
    frames: int | None = None,
    sample: str | None = None,
    max_seconds: float = 30.0,
) -> Sampling:
    """How to look at clips; one frame a second unless said otherwise."""
    fps = 1.0 if fps is None and frames is None and sample is None else fps
    return Sampling(fps=fps, frames=frames, sample=sample, max_seconds=max_seconds)


def run(
    manifest: Manifest | Path | str,
    store_dir: Path | str,
    *,
    visual: Sequence[str | Encoder] = (),
    audio: Sequence[str | Encoder] = (),
    sampling: Sampling | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 0,
    decoder: str = "auto",
    follow_links: bool = False,
    deadline_seconds: float = 60.0,
    retry: Sequence[str] = (),
    max_failures: float = 0.05,
    clips_per_unit: int | None = None,
    batch_size: int | None = None,
    metrics: Path | None = None,
    stop: Event | None = None,
    progress: Progress = _silent,
) -> RunResult:
    """Store what every encoder makes of every clip of the manifest.

    `visual` and `audio` are SPECs or loaded encoders. `workers=0` is one decode process per core.
    `decoder` is `auto`, `pyav` or `decord`; `auto` has the pixels of `pyav` within a tolerance.
    With `follow_links`, links may lead out of the manifest's folder. Clips that failed with one of
    the kinds in `retry` are tried again. Nothing is written before all that was asked for is known
    to exist. `metrics` gets a line of JSON for every commit.

    Once `stop` is set, or after 500 clips of which more than `max_failures` failed, the units that
    the networks have begun are finished and the run ends; the result says why.

    Raises:
        InputError: a manifest or option that cannot be used; see also `store.read_manifest`.
        ConfigError: an encoder, device or precision that cannot be had; see `load_encoder`.
        NotAStore: `store_dir` holds something else.
    """
    policy = sampling or Sampling(fps=1.0)
    manifest = manifest if isinstance(manifest, Manifest) else store.read_manifest(manifest)
    again = frozenset(_failure(kind) for kind in retry)
    _check(manifest, workers, deadline_seconds, max_failures, clips_per_unit)
    if decoder not in DECODERS:
        raise ConfigError(f"no decoder {decoder!r}; there are {choices(decoder, DECODERS)}")
    device = _resolved(device)
    batch_size = batch_size or BATCH_SIZE[device.partition(":")[0]]
    clips_per_unit = clips_per_unit or CLIPS_PER_UNIT[device.partition(":")[0]]
    encoders = encoders_of(visual, audio, device, precision)
    specs = specs_of(encoders, policy, decoder)
    check_metrics(metrics)

    fs: Store = store.create(store_dir)
    fs.add_manifest(manifest)
    goals = goals_of(fs, encoders, specs, batch_size=batch_size, device=device)
    units = units_of(manifest, goals, again, clips_per_unit)
    spent = Spent(workers=workers or cores())
    pipeline = Pipeline(
        manifest=manifest, units=units, spent=spent, progress=progress, retrying=bool(again),
        max_failures=max_failures, stop=stop or Event(), metrics=metrics,
    )  # fmt: skip
    outcomes = process_map(
        decode,
        (
            replace(
                request_of(manifest, row, [goal.encoder for goal in wanted], policy),
                root=None if follow_links else manifest.root,
                decoder=decoder,
            )
            for unit in units
            for row, wanted in unit
        ),
        workers=spent.workers,
        deadline_seconds=deadline_seconds,
        ordered=False,
        together=file_of,
        again=safely,
    )
    with closing(outcomes), torch.inference_mode():
        pipeline.work(outcomes)
    spent.seconds = time.perf_counter() - spent.begun
    reports = [
        FeatureReport.of(goal.feature, manifest.clip_ids, new=goal.new, fill=goal.fill)
        for goal in goals
    ]
    return RunResult(
        features=reports, spent=spent, max_failures=max_failures, stopped=pipeline.stopped
    )


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _failure(kind: str) -> Status:
    status = Status.from_kind(kind)
    if not status.failed:
        failures = [s.kind for s in Status if s.failed]
        raise InputError(f"{kind!r} is nothing to try again; there are {choices(kind, failures)}")
    return status


def _check(
    manifest: Manifest,
    workers: int,
    deadline_seconds: float,
    max_failures: float,
    clips_per_unit: int | None,
) -> None:
    if manifest.root is None:
        raise InputError("a manifest kept in a store does not say where its files are; give a file")
    if not 0 <= workers <= 1024:
        raise InputError(f"workers={workers} must be between 0 (one per core) and 1024")
    if not 0 < deadline_seconds <= 86_400:
        raise InputError(f"deadline_seconds={deadline_seconds:g} must be above 0, at most 86400")
    if not 0 <= max_failures <= 1:
        raise InputError(f"max_failures={max_failures:g} is a share between 0 and 1")
    if clips_per_unit is not None and not 1 <= clips_per_unit <= 65_536:
        raise InputError(f"clips_per_unit={clips_per_unit} must be between 1 and 65536")


def _resolved(device: str) -> str:
    """What `auto` means here: a GPU if there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in BATCH_SIZE:
        raise ConfigError(f"no device {device!r}; write {', '.join(['auto', *BATCH_SIZE])}")
    return device
