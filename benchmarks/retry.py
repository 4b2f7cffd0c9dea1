"""Trying failed clips again, by number of units: planning, and commits as a cluster's workers do.

    python -m benchmarks retry
    python -m benchmarks.retry --units 50 200 800

Every unit is a task that opens the store anew, sees whether its retry is there, and commits it. The
disk is not waited for. Processor seconds; the exponent is between a size and the one before.
"""

import argparse
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

import store
from benchmarks._table import show
from extract.pipeline.planned import planned
from store import FeatureSpec, Manifest, Status, UnitRows

SIZES, CLIPS_PER_UNIT, GOAL = (50, 200), 8, 1.1


def failed(clip_ids: Sequence[str]) -> UnitRows:
    """A unit whose decoders all died."""
    n = len(clip_ids)
    return UnitRows(
        clip_ids=tuple(clip_ids), values=np.empty((0, 4), np.float16),
        row_time_ms=np.empty(0, np.int32), row_count=np.zeros(n, np.uint16),
        status=np.full(n, Status.CRASH, np.uint8), media_sha256=np.zeros((n, 32), np.uint8),
        detail=("died",) * n,
    )  # fmt: skip


def seconds_of(folder: Path, units: int) -> tuple[float, float]:
    """Seconds of planning, and of all units."""
    clips = tuple(f"clip{i:07d}.mp4" for i in range(units * CLIPS_PER_UNIT))
    manifest = Manifest(table={"path": clips, "clip_id": clips})
    fs = store.create(folder / f"s{units}")
    spec = FeatureSpec(slug="f", modality="visual", dim=4, identity={})
    feature = fs.add_feature(spec)
    for first in range(0, len(clips), CLIPS_PER_UNIT):
        feature.commit(failed(clips[first : first + CLIPS_PER_UNIT]))
    begun = time.process_time()
    again = frozenset({Status.CRASH})
    plan = planned(manifest, [store.open(fs.path)[feature.name]], again, CLIPS_PER_UNIT)
    planning = time.process_time() - begun
    assert plan.clips == len(clips)
    for number, unit in enumerate(plan):
        own = store.open(fs.path).add_feature(spec)
        clip_ids = [clips[row] for row, _ in unit]
        retry = int(plan.retries[number, 0])
        assert not own.has_unit(own.unit_name(clip_ids, retry=retry))
        assert own.commit(failed(clip_ids), retry=retry)
    return planning, time.process_time() - begun - planning


def rows_of(sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row a size, and one for how it grows."""
    before: tuple[int, float] | None = None
    with TemporaryDirectory() as folder, patch.object(os, "fsync"):
        seconds_of(Path(folder), 8)  # what is imported is imported
        for units in sizes:
            planning, working = seconds_of(Path(folder), units)
            row = {"unit": "cpu s", "ratio": None, "goal": None}
            what = f"--retry, {units} units"
            yield {
                "what": what, "value": planning + working,
                "against": f"{planning:.2f} of them planning", **row,
            }  # fmt: skip
            if before:
                grown = math.log((planning + working) / before[1]) / math.log(units / before[0])
                yield {
                    "what": f"{what}, exponent", "value": grown, "unit": "", "ratio": None,
                    "against": f"from {before[0]} units on", "goal": GOAL,
                }  # fmt: skip
            before = (units, planning + working)


def measure() -> Iterator[dict[str, Any]]:
    """Fifty and two hundred units."""
    yield from rows_of(SIZES)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=list(SIZES))
    show(rows_of(parser.parse_args().units))
