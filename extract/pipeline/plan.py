"""`extract plan`: what a run would take, from a sample of its clips. Nothing is written.

Clips are drawn from those that are left to do, decoded by the same processes and given to the same
networks as in a run; what that cost is scaled to all of them. Networks begin when the sample, or
the first GiB of it, is decoded, so that neither slows the other down. On a processor both share the
cores and their processor times add up; on a GPU they work at the same time, and the slower one
decides. A first clip warms the networks up.
"""

import math
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import store
from extract.datasets.source import read_clips
from extract.encoders import Encoder
from extract.media.clip import Clip, failed
from extract.media.sampling import Sampling
from extract.pipeline.batching import device_of
from extract.pipeline.checks import Sample
from extract.pipeline.options import Options, cores, readable
from extract.pipeline.outputs import (
    decoded,
    encoders_of,
    named,
    second_features,
    specs_of,
    usual_sampling,
)
from extract.pipeline.planned import wanted
from extract.pipeline.progress import Progress, silent
from extract.pipeline.unit_encoder import UnitEncoder
from extract.processes.child import Outcome
from extract.processes.heap import kept
from extract.processes.sandbox import Confinement
from store import FeatureSpec, Manifest, Status
from store.parts.layout import CHUNK_BYTES

CLIP_BYTES = 150  # of a part's tables per clip, about
HELD_BYTES = 1 << 30  # of decoded clips
Z95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePlan:
    """The forecast for one feature."""

    feature: str
    modality: str
    pending: int  # clips
    rows: int  # about
    bytes: int  # about, on disk
    rows_per_clip: float
    seconds_per_clip: float  # of the network, alone on the machine
    batch_fill: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The result of `extract plan`."""

    clips: int  # of the manifest
    pending: int  # that any feature wants
    sampled: int
    device: str
    workers: int
    cores: int
    features: list[FeaturePlan]
    statuses: dict[str, int]  # of the sample: a clip's worst
    decoders: dict[str, int]  # who decoded the frames of the sample, and why
    decode_cpu_seconds_per_clip: float
    encoder_seconds_per_clip: float
    clips_per_second: float
    hours: float
    hours_low: float  # 95 % interval from how unlike the sample's clips are; not of the machine
    hours_high: float
    bytes: int
    free_bytes: int | None  # where the store is or would be, if that is a directory
    bottleneck: str
    examples: dict[str, str]  # a clip and what went wrong, by kind
    max_failures: float
    sandbox: Confinement | None  # of the processes that decoded the sample
    notes: tuple[str, ...] = ()  # what is to be known before the run

    @property
    def findings(self) -> list[str]:
        """Problems to look at before the run, one line each."""
        findings = []
        bad = sum(n for kind, n in self.statuses.items() if Status.from_kind(kind).failed)
        if self.sampled and bad > self.max_failures * self.sampled:
            findings.append(f"{bad} of {self.sampled} sampled clips failed: the run may stop early")
        if self.free_bytes is not None and self.bytes > self.free_bytes:
            findings.append(
                f"the disk has {self.free_bytes} bytes left, the run needs {self.bytes}"
            )
        return findings

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self) | {"findings": self.findings}


@dataclass(slots=True)
class _Trial:
    """One encoder at work on the sample."""

    encoder: Encoder
    spec: FeatureSpec
    pending: set[int]  # rows of the manifest
    unit: UnitEncoder
    clips: int = 0
    rows: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all cores


@dataclass(slots=True, kw_only=True, eq=False)
class _Tried:
    """Costs and outcomes of the sampled clips."""

    costs: list[float] = field(default_factory=list)  # processor seconds of decoding, by clip
    statuses: Counter[str] = field(default_factory=Counter)
    decoders: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # of a failure of each kind
    confinement: Confinement | None = None


def plan(
    manifest: Manifest | Path | str,
    store_dir: Path | str,
    *,
    visual: Sequence[str | Encoder] = (),
    audio: Sequence[str | Encoder] = (),
    sampling: Sampling | None = None,
    options: Options | None = None,
    sample: Sample | None = None,
    progress: Progress = silent,
) -> Plan:
    """Forecast the run with the same arguments from a sample of its clips.

    Raises:
        InputError: as `extract.pipeline.run.run`; a sample without clips.
        ConfigError, NotAStore: as `extract.pipeline.run.run`.
    """
    sample = sample or Sample()
    options = (options or Options()).resolved()
    policy = sampling or usual_sampling(visual)
    manifest, notes = read_clips(manifest)
    manifest = readable(manifest)
    visual, audio, said = named(visual, audio)
    notes += said
    encoders = encoders_of(visual, audio, options)
    specs = specs_of(encoders, policy, options.decoder)
    trials = _trials(manifest, store_dir, encoders, specs, options)
    pending = sorted(set().union(*(trial.pending for trial in trials)))
    drawn = np.random.default_rng(sample.seed).permutation(len(pending))[: sample.clips]
    rows = [pending[i] for i in sorted(drawn.tolist())]

    tried = _Tried()
    wanted_of = ((row, [t.encoder for t in trials if row in t.pending]) for row in rows)
    outcomes = decoded(manifest, wanted_of, policy, options, ordered=False)
    with kept(options.device), closing(outcomes), torch.inference_mode():
        for held in _gathered(outcomes, progress, len(rows)):
            for outcome in held:
                row = rows[outcome.index]
                tried.costs.append(outcome.cpu_seconds)
                if outcome.confinement is not None:
                    tried.confinement = outcome.confinement.and_of(tried.confinement)
                clip: Clip = outcome.value or failed(outcome.status, outcome.detail)
                asked = [trial for trial in trials if row in trial.pending]
                for trial in asked:
                    _try(trial, manifest.clip_ids[row], clip)
                status, detail = _worst(clip, asked)
                tried.statuses[status.kind] += 1
                if status.failed:
                    tried.examples.setdefault(status.kind, f"{manifest.clip_ids[row]}: {detail}")
                if clip.visual.data:
                    tried.decoders[_decoder(clip.visual.detail)] += 1
        for trial in trials:
            _finish(trial)
    notes += second_features(store.find(store_dir), specs)
    return replace(
        _scaled(manifest, store_dir, pending, trials, options, tried), notes=tuple(notes)
    )


def _trials(
    manifest: Manifest,
    store_dir: Path | str,
    encoders: Sequence[Encoder],
    specs: Sequence[FeatureSpec],
    options: Options,
) -> list[_Trial]:
    """The encoders, each with the clips that its feature lacks."""
    fs = store.find(store_dir)
    trials = []
    for encoder, spec in zip(encoders, specs, strict=True):
        status = np.full(len(manifest), Status.PENDING, np.uint8)
        if fs is not None and spec.feature_id in fs.features:
            status = fs[spec.feature_id].status_of_keys(manifest.keys)
        left = set(np.flatnonzero(wanted(manifest, status, options.again)).tolist())
        unit = UnitEncoder(encoder, batch_size=options.batch_size)
        trials.append(_Trial(encoder, spec, left, unit))
    return trials


def _gathered(
    outcomes: Iterator[Outcome], progress: Progress, total: int
) -> Iterator[list[Outcome]]:
    """The outcomes in one list, or in lists of about a GiB."""
    held, size, done = list[Outcome](), 0, 0
    for done, outcome in enumerate(outcomes, start=1):
        held.append(outcome)
        clip: Clip | None = outcome.value
        if clip is not None:
            size += sum(frames.nbytes for frames in clip.visual.data.values())
            size += sum(sound.samples.nbytes for sound in clip.audio.data.values())
        progress(done, total, "", "")
        if size > HELD_BYTES:
            yield held
            held, size = [], 0
    yield held


def _try(trial: _Trial, clip_id: str, clip: Clip) -> None:
    if not trial.clips:
        extra = UnitEncoder(trial.encoder, batch_size=trial.unit.batch_size)
        extra.put("warm-up", clip)
        extra.rows()
    with _clock(trial):
        trial.unit.put(clip_id, clip)
    trial.clips += 1


def _finish(trial: _Trial) -> None:
    if not trial.clips:
        return
    with _clock(trial):
        trial.rows = len(trial.unit.rows().values)
    # A run fills its batches with the clips that follow; a sample's last one is mostly padding.
    trial.seconds *= trial.unit.packer.fill
    trial.cpu_seconds *= trial.unit.packer.fill


@contextmanager
def _clock(trial: _Trial) -> Iterator[None]:
    """Add the time spent here to the trial's."""
    begun, cpu = time.perf_counter(), time.process_time()
    yield
    device = device_of(trial.encoder)
    if device.type == "cuda":  # which has been given the work, and may not have done it
        torch.cuda.synchronize(device)
    trial.seconds += time.perf_counter() - begun
    trial.cpu_seconds += time.process_time() - cpu


def _worst(clip: Clip, wanted: Sequence[_Trial]) -> tuple[Status, str]:
    """The status of what was asked for: a failure, if there is one."""
    modalities = {trial.encoder.modality for trial in wanted}
    streams = [clip.stream(modality) for modality in sorted(modalities, reverse=True)]
    worst = next((stream for stream in streams if stream.status.failed), streams[0])
    return worst.status, worst.detail


def _decoder(detail: str) -> str:
    """The decoder, and the reason if it was PyAV."""
    decoder = detail.partition(";")[0]
    return decoder if decoder.startswith("pyav") else decoder.partition(" (")[0]


def _scaled(
    manifest: Manifest,
    store_dir: Path | str,
    pending: Sequence[int],
    trials: Sequence[_Trial],
    options: Options,
    tried: _Tried,
) -> Plan:
    """Scale the sample's costs up to the run."""
    n, costs = len(tried.costs), tried.costs
    decode_cost = statistics.fmean(costs) if n else 0.0
    error = Z95 * statistics.stdev(costs) / math.sqrt(n) if n > 1 else 0.0
    features = [_feature(trial, options.clips_per_unit) for trial in trials]
    # A clip that one feature lacks costs that network only.
    weights = [(t, len(t.pending) / max(len(pending) * t.clips, 1)) for t in trials]
    network_cost = sum(weight * trial.seconds for trial, weight in weights)
    network_cpu = sum(weight * trial.cpu_seconds for trial, weight in weights)
    rate, bottleneck = _rate(decode_cost, network_cost, network_cpu, options)
    slow, _ = _rate(decode_cost + error, network_cost, network_cpu, options)
    fast, _ = _rate(max(decode_cost - error, 0.0), network_cost, network_cpu, options)
    hours = [len(pending) / speed / 3600 if speed else 0.0 for speed in (rate, fast, slow)]
    return Plan(
        clips=len(manifest),
        pending=len(pending),
        sampled=n,
        device=options.device,
        workers=options.workers,
        cores=cores(),
        features=features,
        statuses=dict(tried.statuses.most_common()),
        decoders=dict(tried.decoders.most_common()),
        decode_cpu_seconds_per_clip=round(decode_cost, 4),
        encoder_seconds_per_clip=round(network_cost, 4),
        clips_per_second=round(rate, 2),
        hours=round(hours[0], 4),
        hours_low=round(hours[1], 4),
        hours_high=round(hours[2], 4),
        bytes=sum(feature.bytes for feature in features),
        free_bytes=_free_bytes(store_dir),
        bottleneck=bottleneck,
        examples=tried.examples,
        max_failures=options.max_failures,
        sandbox=tried.confinement,
    )


def _rate(
    decode_cost: float, network_cost: float, network_cpu: float, options: Options
) -> tuple[float, str]:
    """Clips a second, and what bounds them: `decode` or `encoder`."""
    if not decode_cost + network_cost:
        return 0.0, "nothing to do"
    limits = {
        "decode": _per(min(options.workers, cores()), decode_cost),
        "encoder": _per(1, network_cost),
    }
    slowest = min(limits, key=lambda name: limits[name])
    if options.device.startswith("cuda"):
        return limits[slowest], slowest
    shared = _per(cores(), decode_cost + network_cpu)
    dearer = "decode" if decode_cost > network_cpu else "encoder"
    return min(shared, limits[slowest]), dearer if shared < limits[slowest] else slowest


def _per(parallel: int, cost: float) -> float:
    return parallel / cost if cost else math.inf


def _feature(trial: _Trial, clips_per_unit: int) -> FeaturePlan:
    pending = len(trial.pending)
    rows_per_clip = trial.rows / trial.clips if trial.clips else 0.0
    units = math.ceil(pending / clips_per_unit)
    per_unit = rows_per_clip * min(clips_per_unit, max(pending, 1)) * 2 * trial.encoder.dim
    on_disk = math.ceil(per_unit / CHUNK_BYTES) * CHUNK_BYTES * units + CLIP_BYTES * pending
    return FeaturePlan(
        feature=trial.spec.feature_id,
        modality=trial.encoder.modality,
        pending=pending,
        rows=round(rows_per_clip * pending),
        bytes=on_disk,
        rows_per_clip=round(rows_per_clip, 2),
        seconds_per_clip=round(trial.seconds / trial.clips, 5) if trial.clips else 0.0,
        batch_fill=round(trial.unit.packer.fill, 3),
    )


def _free_bytes(store_dir: Path | str) -> int | None:
    if "://" in str(store_dir):
        return None
    directory = Path(store_dir).absolute()
    return shutil.disk_usage(next(p for p in (directory, *directory.parents) if p.exists())).free
