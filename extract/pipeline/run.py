"""`extract run`: manifest → units → decode processes → packer → encoders → parts → commit records.

A unit is a fixed stretch of the manifest, less the clips a feature already has. Each clip is
decoded once for all features that still want it; each feature commits its own units. All state is
in the store: interrupt a run in any way, run it again, and it goes on at the first unit that is not
committed, with the same values as if nothing had happened.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

import store
from extract.datasets.source import read_clips
from extract.encoders import Encoder
from extract.media.sampling import Sampling
from extract.media.sampling import sampling as sampling
from extract.pipeline.options import Options, readable
from extract.pipeline.outputs import (
    Units,
    decoded,
    encoders_of,
    named,
    outputs_of,
    second_features,
    specs_of,
    usual_sampling,
)
from extract.pipeline.planned import planned
from extract.pipeline.progress import RunProgress, Watch, metrics_writer
from extract.pipeline.result import FeatureReport, RunResult, Timings
from extract.pipeline.stages import Pipeline
from extract.processes.heap import kept
from store import Manifest, Store


def run(
    manifest: Manifest | Path | str,
    store_dir: Path | str,
    *,
    visual: Sequence[str | Encoder] = (),
    audio: Sequence[str | Encoder] = (),
    sampling: Sampling | None = None,
    options: Options | None = None,
    watch: Watch | None = None,
) -> RunResult:
    """Store what every encoder makes of every clip of the manifest, or of a folder of media.

    `visual` and `audio` are SPECs or loaded encoders; without any, those that an install brings
    (`extract.encoders.DEFAULTS`). Nothing is written before all that was asked
    for is known to exist.

    Once `watch.stop` is set, or after 500 clips of which more than `options.max_failures` failed,
    the units that the networks have begun are finished and the run ends; the result says why.

    Raises:
        InputError: a manifest that cannot be used; or a folder without media; see `read_clips`.
        ConfigError: an encoder, device or precision that cannot be had; see `load_encoder`.
        NotAStore: `store_dir` holds something else.
    """
    options = (options or Options()).resolved()
    policy = sampling or usual_sampling(visual)
    manifest, notes = read_clips(manifest)
    manifest = readable(manifest)
    visual, audio, said = named(visual, audio)
    notes += said
    encoders = encoders_of(visual, audio, options)
    specs = specs_of(encoders, policy, options.decoder)
    watch = watch or Watch()
    on_commit = metrics_writer(watch.metrics)

    fs: Store = store.create(store_dir)
    notes += second_features(fs, specs)
    watch.say(notes)
    fs.add_manifest(manifest)
    outputs = outputs_of(fs, encoders, specs, batch_size=options.batch_size, device=options.device)
    features = [output.feature for output in outputs]
    units = Units(planned(manifest, features, options.again, options.clips_per_unit), outputs)
    timings = Timings(workers=options.workers)
    progress = RunProgress(
        timings=timings, clips=units.planned.clips, units=len(units), progress=watch.progress,
        on_commit=on_commit, max_failures=options.max_failures, stop=watch.stop,
    )  # fmt: skip
    pipeline = Pipeline(manifest=manifest, units=units, progress=progress)
    outcomes = decoded(manifest, units.wanted(), policy, options, ordered=False)
    with kept(options.device), closing(outcomes), torch.inference_mode():
        pipeline.work(outcomes)
    timings.seconds = time.perf_counter() - timings.begun
    reports = [
        FeatureReport.of(
            output.feature,
            manifest.keys,
            new=output.new,
            by_others=output.by_others,
            fill=output.fill,
        )
        for output in outputs
    ]
    return RunResult(
        features=reports,
        timings=timings,
        max_failures=options.max_failures,
        stopped=progress.stopped,
        notes=notes,
    )
