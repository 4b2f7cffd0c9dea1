"""What finding the work of ten million clips takes: a store of records and a look-up, and no rows.

    python -m benchmarks large
    python -m benchmarks.large --clips 1000000 10000000

Made up: a manifest, a commit record for every unit of 512 clips, and the look-up that a reader of
their tables would have built. Measured: reading the kept manifest, keys, records one by one and
from their segment, and planning. Each size is a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks._table import show

CLIPS, CLIPS_PER_UNIT = (100_000,), 512


def measure_one(folder: Path, clips: int) -> dict[str, float]:
    """Seconds by what was done, and the most memory, in MiB."""
    import numpy as np

    import store
    from extract.pipeline.planned import planned
    from store import FeatureSpec
    from store.columns import Columns, arrow_of
    from store.features import committed
    from store.features.clip_index import PartTable, build
    from store.features.records import Records
    from store.manifest import Manifest
    from store.parts import layout
    from store.parts.commit import CommitRecord
    from store.storage.posix import FileRecord

    seconds: dict[str, float] = {}
    committed.INDEX_PARTS = 1  # a look-up file, however few the parts

    def timed(name: str, call: Any) -> Any:
        begun = time.process_time()
        found = call()
        seconds[name] = time.process_time() - begun
        return found

    names = arrow_of([f"class{i % 1000:04d}/clip{i:09d}.mp4" for i in range(clips)])
    manifest = Manifest(table=Columns({"path": names, "clip_id": names}), root=folder)
    fs = store.create(folder / "store")
    timed("keep the manifest", lambda: fs.add_manifest(manifest))
    feature = fs.add_feature(FeatureSpec(slug="f", modality="visual", dim=32, identity={}))
    keys = manifest.keys
    parts, tables = [], []
    digest = FileRecord.of("x", b"")
    for number, first in enumerate(range(0, clips, CLIPS_PER_UNIT)):
        own = keys[first : first + CLIPS_PER_UNIT]
        n = len(own)
        unit = f"u-{number:020x}"
        wanted = layout.part_files(clips=n, rows=n, dim=32)
        record = CommitRecord(
            feature_id=feature.name, unit=unit, part=f"{unit}-{number:012x}", nonce="0" * 32,
            retry=0, clips=n, rows=n, dim=32, status={"ok": n}, written="now",
            files=tuple(
                FileRecord(key=k, size=size or 100, crc32c=digest.crc32c, sha256=digest.sha256)
                for k, size in sorted(wanted.items())
            ),
        )  # fmt: skip
        path = fs.path / feature._keys.record(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.to_bytes())
        parts.append(record.part)
        ones = np.ones(n, np.int64)
        tables.append(PartTable(own, np.cumsum(ones) - ones, ones, np.zeros(n, np.uint8)))
    del keys, manifest
    sums = sha256("\n".join(parts).encode())
    index = fs.path / "index" / feature.name / f"{sums.hexdigest()[:32]}.idx"
    index.parent.mkdir(parents=True, exist_ok=True)
    timed("build the look-up", lambda: build(index, enumerate(tables), parts))
    tables.clear()
    timed("records, one by one", lambda: Records(feature._keys, 32))
    timed("records, from the segment", lambda: Records(feature._keys, 32))
    kept = timed("read the kept manifest, keys", fs.manifest)
    plan = timed(
        "plan, all done", lambda: planned(kept, [fs[feature.name]], frozenset(), CLIPS_PER_UNIT)
    )
    assert len(plan) == 0
    empty = fs.add_feature(FeatureSpec(slug="g", modality="visual", dim=32, identity={}))
    plan = timed("plan, nothing done", lambda: planned(kept, [empty], frozenset(), CLIPS_PER_UNIT))
    assert plan.clips == clips
    seconds["most memory, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return seconds


def rows_of(sizes: list[int] | tuple[int, ...], folder: Path | None) -> Iterator[dict[str, Any]]:
    """A row a figure."""
    for clips in sizes:
        with TemporaryDirectory(dir=folder) as scratch:
            words = ["-m", "benchmarks.large", "--one", scratch, "--clips", str(clips)]
            done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE)
        for name, value in json.loads(done.stdout).items():
            yield {
                "what": f"{clips:,} clips: {name}", "value": value,
                "unit": "" if "MiB" in name else "cpu s", "ratio": None, "against": None,
                "goal": None,
            }  # fmt: skip


def measure() -> Iterator[dict[str, Any]]:
    """A hundred thousand clips."""
    yield from rows_of(CLIPS, None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=list(CLIPS))
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure_one(asked.one, asked.clips[0])))
    else:
        show(rows_of(asked.clips, asked.folder))
