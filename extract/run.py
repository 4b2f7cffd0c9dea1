"""`extract run`: manifest → units → decode processes → packer → encoders → parts → commit records.

A unit is a fixed stretch of the manifest, less the clips a feature already has. Each clip is
decoded once for all features that still want it; each feature commits its own units. All state is
in the store: interrupt a run in any way, run it again, and it goes on at the first unit that is not
committed, with the same values as if nothing had happened.
"""

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

import store
from extract import load_encoder
from extract.child import Outcome
from extract.decode import DECODERS, Clip, Request, decode, failed, safely
from extract.encode import UnitEncoder, feature_spec, provenance
from extract.encoders import AudioEncoder, Encoder, VisualEncoder
from extract.report import FeatureReport, RunResult, Spent
from extract.sample import Sampling
from extract.workers import process_map
from store import Feature, Manifest, Status, Store
from store.errors import ConfigError, InputError, choices

CLIPS_PER_UNIT = {"cpu": 64, "cuda": 512}  # about a minute's work: what a kill may cost
BATCH_SIZE = {"cpu": 16, "cuda": 128}


# (done, total, message=""): called for every clip; `message` is one line for every commit.
Progress = Callable[..., None]


def _silent(done: int, total: int, message: str = "") -> None: ...


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
    progress: Progress = _silent,
) -> RunResult:
    """Store what every encoder makes of every clip of the manifest.

    `visual` and `audio` are SPECs or loaded encoders. `workers=0` is one decode process per core.
    `decoder` is `auto`, `pyav` or `decord`; `auto` has the pixels of `pyav` within a tolerance.
    With `follow_links`, links may lead out of the manifest's folder. Clips that failed with one of
    the kinds in `retry` are tried again. Nothing is written before all that was asked for is known
    to exist.

    Raises:
        InputError: a manifest or option that cannot be used; see also `store.read_manifest`.
        ConfigError: an encoder, device or precision that cannot be had; see `load_encoder`.
        NotAStore: `store_dir` holds something else.
    """
    begun = time.perf_counter()
    policy = sampling or Sampling(fps=1.0)
    manifest = manifest if isinstance(manifest, Manifest) else store.read_manifest(manifest)
    again = frozenset(_failure(kind) for kind in retry)
    _check(manifest, visual, audio, workers, deadline_seconds, max_failures, clips_per_unit)
    if decoder not in DECODERS:
        raise ConfigError(f"no decoder {decoder!r}; there are {choices(decoder, DECODERS)}")
    device = _resolved(device)
    batch_size = batch_size or BATCH_SIZE[device.partition(":")[0]]
    clips_per_unit = clips_per_unit or CLIPS_PER_UNIT[device.partition(":")[0]]
    encoders = [
        *(_loaded(one, "visual", device, precision) for one in visual),
        *(_loaded(one, "audio", device, precision) for one in audio),
    ]
    specs = [feature_spec(encoder, policy, decoder) for encoder in encoders]
    if len({spec.feature_id for spec in specs}) < len(specs):
        raise InputError("the same encoder with the same settings is asked for twice; name it once")

    fs: Store = store.create(store_dir)
    fs.add_manifest(manifest)
    goals = [
        _Goal(
            feature=fs.add_feature(spec),
            encoder=encoder,
            batch_size=batch_size,
            notes=provenance(device=device, batch_size=batch_size),
        )
        for spec, encoder in zip(specs, encoders, strict=True)
    ]
    units = _units(manifest, goals, again, clips_per_unit)
    workers = workers or _cores()
    spent = Spent(workers=workers)
    outcomes = process_map(
        decode,
        (
            replace(
                _request(manifest, row, wanted, policy),
                root=None if follow_links else manifest.root,
                decoder=decoder,
            )
            for unit in units
            for row, wanted in unit
        ),
        workers=workers,
        deadline_seconds=deadline_seconds,
        ordered=False,
        together=_file,
        again=safely,
    )
    with closing(outcomes), torch.inference_mode():
        _work(manifest, units, outcomes, spent, progress, bool(again))
    spent.seconds = time.perf_counter() - begun
    reports = [
        FeatureReport.of(goal.feature, manifest.clip_ids, new=goal.new, fill=goal.fill)
        for goal in goals
    ]
    return RunResult(features=reports, spent=spent, max_failures=max_failures)


@dataclass(slots=True, kw_only=True, eq=False)
class _Goal:
    """A feature this run fills, and its encoder."""

    feature: Feature
    encoder: Encoder
    batch_size: int
    notes: dict[str, Any]
    new: int = 0  # clips committed by this run
    items: int = 0  # given to the network by finished units
    slots: int = 0  # and what it computed, padding included
    committed: dict[str, Status] = field(default_factory=dict)
    units: dict[int, UnitEncoder] = field(default_factory=dict)  # begun and not finished

    def encoder_of(self, number: int) -> UnitEncoder:
        """What gathers the rows of a unit."""
        if number not in self.units:
            self.units[number] = UnitEncoder(self.encoder, batch_size=self.batch_size)
        return self.units[number]

    @property
    def fill(self) -> float:
        """Share of the network's work that was not padding."""
        return self.items / self.slots if self.slots else 1.0


Unit = list[tuple[int, list[_Goal]]]  # rows of the manifest, each with the features that want it


def _units(
    manifest: Manifest, goals: list[_Goal], again: frozenset[Status], clips_per_unit: int
) -> list[Unit]:
    """The stretches of the manifest in which something is left to do."""
    for goal in goals:
        goal.committed = goal.feature.committed()
    units = []
    for first in range(0, len(manifest), clips_per_unit):
        unit = []
        for row in range(first, min(first + clips_per_unit, len(manifest))):
            clip_id = manifest.clip_ids[row]
            known = ((goal, goal.committed.get(clip_id)) for goal in goals)
            if wanted := [goal for goal, status in known if status is None or status in again]:
                unit.append((row, wanted))
        if unit:
            units.append(unit)
    return units


def _work(
    manifest: Manifest,
    units: list[Unit],
    outcomes: Iterator[Outcome],
    spent: Spent,
    progress: Progress,
    retrying: bool,
) -> None:
    """Take clips as they are decoded, encode them, and commit a unit when its last clip is in."""
    total = sum(map(len, units))
    for number, place, outcome in _in_turn(units, outcomes, spent):
        unit = units[number]
        row, wanted = unit[place]
        spent.clips += 1
        spent.decode_cpu_seconds += outcome.cpu_seconds
        clip: Clip = outcome.value or failed(outcome.status, outcome.detail)
        with spent.on("encoding"):
            for goal in wanted:
                goal.encoder_of(number).put(manifest.clip_ids[row], clip)
        progress(spent.clips, total)
        if place + 1 < len(unit):
            continue
        for goal in {id(goal): goal for _, wanted in unit for goal in wanted}.values():
            message = _commit(goal, goal.units.pop(number), spent, retrying)
            progress(spent.clips, total, f"unit {number + 1}/{len(units)} {message}")


def _in_turn(
    units: list[Unit], outcomes: Iterator[Outcome], spent: Spent
) -> Iterator[tuple[int, int, Outcome]]:
    """Outcomes with their unit and place in it: in order within a unit, so that its batches are the
    same every time; a clip that hangs holds up the rest of its own unit only.
    """
    firsts = [0, *accumulate(map(len, units))]
    waiting: dict[int, dict[int, Outcome]] = {}
    due: dict[int, int] = {}
    while True:
        with spent.on("waiting"):
            outcome = next(outcomes, None)
        if outcome is None:
            return
        number = bisect_right(firsts, outcome.index) - 1
        held = waiting.setdefault(number, {})
        held[outcome.index - firsts[number]] = outcome
        place = due.get(number, 0)
        while place in held:
            yield number, place, held.pop(place)
            place += 1
        due[number] = place
        if place == len(units[number]):
            del waiting[number], due[number]


def _commit(goal: _Goal, unit: UnitEncoder, spent: Spent, retrying: bool) -> str:
    """Commit what a unit has gathered; says what it was."""
    with spent.on("encoding"):
        rows = unit.finish()
    goal.items += unit.packer.items
    goal.slots += unit.packer.slots
    with spent.on("committing"):
        retry = goal.feature.tries(rows.clip_ids) if retrying else 0
        goal.feature.commit(rows, goal.notes, retry=retry)
    goal.new += len(rows.clip_ids)
    kinds = [Status(int(code)).kind for code in rows.status]
    told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{goal.feature.name}: {len(rows.values)} rows of {len(kinds)} clips ({told})"


def _request(manifest: Manifest, row: int, wanted: list[_Goal], policy: Sampling) -> Request:
    """What to decode of one clip for the features that want it."""
    assert manifest.root is not None
    encoders = [goal.encoder for goal in wanted]
    sides = {e.short_side for e in encoders if isinstance(e, VisualEncoder)}
    rates = {e.sample_rate for e in encoders if isinstance(e, AudioEncoder)}
    start = float(manifest.start_seconds[row])
    return Request(
        path=manifest.root / manifest.paths[row],
        start_seconds=start,
        end_seconds=float(manifest.end_seconds[row]),
        limit_seconds=policy.max_seconds,
        pick=policy if sides else None,
        short_sides=tuple(sorted(sides)),
        sample_rates=tuple(sorted(rates)),
    )


def _file(request: Request) -> Path:
    """What pieces of one file have in common: one child decodes them from one open."""
    return request.path


def _cores() -> int:
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
    visual: Sequence[str | Encoder],
    audio: Sequence[str | Encoder],
    workers: int,
    deadline_seconds: float,
    max_failures: float,
    clips_per_unit: int | None,
) -> None:
    if not visual and not audio:
        raise InputError("no encoder; give --visual SPEC or --audio SPEC (see: extract encoders)")
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


def _loaded(encoder: str | Encoder, modality: str, device: str, precision: str) -> Encoder:
    """The encoder itself, which must be of this modality."""
    if isinstance(encoder, str):
        encoder = load_encoder(encoder, device=device, precision=precision)
    if encoder.modality != modality:
        raise ConfigError(
            f"{encoder.name} is an encoder for --{encoder.modality}, not for --{modality}"
        )
    return encoder
