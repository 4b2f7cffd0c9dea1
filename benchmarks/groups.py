"""Sources that `learn groups` finds, against twins that are made of real clips; and its cost.

    MICROSHOT_MEDIA=… python -m benchmarks groups
    python -m benchmarks.groups --clips 200 --sizes 10000 50000

Of each real clip (`av_composed` and `ucf101_av`, one of a source) six twins are made with settings
drawn anew: half its size and encoded coarsely; cropped; mirrored; overlaid with a bar and a mark;
the middle of it; and other pictures, mirrored, under its own soundtrack at another level. All are
encoded by what an install brings, and pairs of one clip counted: found of those there are (recall),
true of those found (precision). Then `ucf101_av` itself against its true sources, and made-up rows
of many clips, a tenth of them with a copy, for seconds and MiB: a process each.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks._table import show

GOAL, SECONDS = 0.95, 60.0
CLIPS, SIZES = 200, (10_000, 50_000)
ROWS, DIM, KINDS = 4, 512, 20  # of made-up clips

Picture = np.ndarray  # [H, W, 3]
Change = Callable[[Picture], Picture]


def measure() -> Iterator[dict[str, Any]]:
    """Rows for the twins, for the clips with known sources, and for many clips."""
    yield from run(CLIPS, SIZES)


def run(clips: int, sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """The rows, for so many real clips and so many made-up ones."""
    media = os.environ.get("MICROSHOT_MEDIA")
    if media:
        yield from _real(Path(media), clips)
    else:
        print("MICROSHOT_MEDIA is not set: no real clips", file=sys.stderr)
    for size in sizes:
        yield from _made_up(size)


def _real(media: Path, clips: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = [*_one_a_source(media / "av_composed"), *_one_a_source(media / "ucf101_av")]
        chosen = np.random.default_rng(0).permutation(len(sources))[:clips]
        rows = []
        for number, i in enumerate(sorted(chosen.tolist())):
            rng = np.random.default_rng([0, i])
            for name, path in twins(sources[i], folder / f"{i:03d}", rng):
                inside = str(path.relative_to(folder))
                rows.append([inside, inside, f"{i:03d}", name])
            print(f"\r{number + 1} of {len(chosen)} clips", end="", file=sys.stderr)
        manifest = folder / "twins.csv"
        _write(manifest, ["path", "clip_id", "group", "kind"], rows)
        yield from _found(manifest, folder, f"{len(chosen)} real clips, six twins each", goal=GOAL)
        own = media / "ucf101_av" / "manifest.csv"
        yield from _found(own, folder, "ucf101_av, its true sources", goal=None)


def _one_a_source(folder: Path) -> list[Path]:
    """A clip of every source, as clips of one are alike before anybody copies them."""
    with (folder / "manifest.csv").open(newline="") as file:
        found = {(r["label"], r["group"]): folder / r["path"] for r in csv.DictReader(file)}
    if folder.name == "av_composed":  # photographs and recordings are paired anew in every clip
        with (folder / "manifest.csv").open(newline="") as file:
            return [folder / r["path"] for r in csv.DictReader(file)]
    return list(found.values())


def twins(source: Path, folder: Path, rng: np.random.Generator) -> Iterator[tuple[str, Path]]:
    """The clip and its six twins, as name and file."""
    folder.mkdir()
    pictures, rate, sound, sample_rate = _decoded(source)
    height, width = pictures[0].shape[:2]
    cut = [int(rng.uniform(0.06, 0.14) * side) for side in (height, height, width, width)]
    colour, mark = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    first = int(rng.uniform(0.1, 0.25) * len(pictures))
    last = len(pictures) - int(rng.uniform(0.1, 0.25) * len(pictures))
    level, turn = rng.uniform(0.4, 0.8), rng.permutation(3)

    def overlaid(x: Picture) -> Picture:
        x = x.copy()
        x[int(0.84 * height) :] = (0.3 * x[int(0.84 * height) :] + 0.7 * colour).astype(np.uint8)
        x[: height // 8, : width // 5] = mark
        return x

    changes: dict[str, Change] = {
        "smaller": lambda x: x[::2, ::2],
        "cropped": lambda x: x[cut[0] : height - cut[1], cut[2] : width - cut[3]],
        "mirrored": lambda x: x[:, ::-1],
        "overlaid": overlaid,
        "shorter": lambda x: x,
        "other pictures": lambda x: 255 - x[::-1, :, turn],
    }
    yield "itself", Path(shutil.copy(source, folder / f"itself{source.suffix}"))
    for name, change in changes.items():
        shown, heard = pictures, sound
        if name == "shorter":
            shown = pictures[first:last]
            if sound is not None:
                edges = (int(at * sound.shape[1] / len(pictures)) for at in (first, last))
                heard = sound[:, slice(*edges)]
        if name == "other pictures":
            if sound is None or not np.abs(sound).max() > 1e-3:
                continue  # a silent clip has no soundtrack to be known by
            heard = sound * level
        path = folder / f"{name.replace(' ', '_')}.mp4"
        coarse = name == "smaller"
        _encode(path, [change(x) for x in shown], rate, heard, sample_rate, coarse=coarse)
        yield name, path


def _decoded(
    path: Path,
) -> tuple[list[Picture], Fraction, np.ndarray | None, int]:
    """Pictures, frames a second, sound as one channel, and its rate."""
    with av.open(str(path)) as file:
        rate = file.streams.video[0].average_rate or Fraction(12)
        pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        if not file.streams.audio:
            return pictures, rate, None, 0
        sample_rate = file.streams.audio[0].rate
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=sample_rate)
        parts = [r.to_ndarray() for f in file.decode(audio=0) for r in resampler.resample(f)]
    return pictures, rate, np.concatenate(parts, axis=1) if parts else None, sample_rate


def _encode(
    path: Path,
    pictures: list[Picture],
    rate: Fraction,
    sound: np.ndarray | None,
    sample_rate: int,
    *,
    coarse: bool,
) -> None:
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=rate)
        height, width = (side // 2 * 2 for side in pictures[0].shape[:2])
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"crf": "36" if coarse else "24", "preset": "veryfast"}
        audio = None if sound is None else file.add_stream("aac", rate=sample_rate, layout="mono")
        for x in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(x[:height, :width]), "rgb24")
            file.mux(video.encode(frame))
        file.mux(video.encode())
        if audio is not None and sound is not None:
            for first in range(0, sound.shape[1], 1024):
                part = np.ascontiguousarray(sound[:, first : first + 1024], np.float32)
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = sample_rate, first
                file.mux(audio.encode(frame))
            file.mux(audio.encode())


def _found(manifest: Path, folder: Path, what: str, goal: float | None) -> Iterator[dict[str, Any]]:
    """Recall and precision of the pairs that the command finds among a manifest's clips."""
    import learn

    store = folder / f"store_{manifest.stem}"
    command = [sys.executable, "-m", "extract", "run", str(manifest), "--store", str(store)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: some clips lack a sense
        sys.exit(done.stderr)
    result = learn.groups(store, folder / f"{manifest.stem}_groups.csv")
    assert result.known is not None
    for name in ("recall", "precision"):
        yield {
            "what": f"{what}: {name}", "value": float(result.known[name]), "unit": "",
            "ratio": None, "goal": goal,
            "against": f"{result.clips} clips, {result.groups} groups, {dict(result.reasons)}",
        }  # fmt: skip


def _made_up(clips: int) -> Iterator[dict[str, Any]]:
    """Seconds and MiB of a process that groups so many made-up clips."""
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch, "s")
        _fill(store, clips)
        code = (
            "import resource, time, learn, sys\n"
            "begun = time.monotonic()\n"
            f"made = learn.groups({str(store)!r}, {str(Path(scratch, 'g.csv'))!r})\n"
            "print(time.monotonic() - begun, made.known['recall'], made.known['precision'],\n"
            "      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        seconds, recall, precision, mib = map(float, done.stdout.split())
        yield {
            "what": f"{clips:,} made-up clips, sight and sound", "value": seconds, "unit": "s",
            "ratio": None, "goal": SECONDS if clips == 50_000 else None,
            "against": f"{mib:.0f} MiB, recall {recall:.3f}, precision {precision:.3f}",
        }  # fmt: skip


def _fill(path: Path, clips: int) -> None:
    """A store of clips of some kinds, every tenth a noisy copy of the one before."""
    import store

    rng = np.random.default_rng(0)
    ids = tuple(f"c{i:07d}" for i in range(clips))
    source = np.arange(clips) - (np.arange(clips) % 10 == 9)
    fs = store.create(path)
    groups = tuple(f"g{s}" for s in source.tolist())
    fs.add_manifest(store.Manifest(table={"path": ids, "clip_id": ids, "group": groups}))
    for modality in ("visual", "audio"):
        kinds = 0.8 * rng.standard_normal((KINDS, DIM), np.float32)
        own = kinds[rng.integers(0, KINDS, clips)] + rng.standard_normal((clips, DIM), np.float32)
        values = np.empty((clips, ROWS, DIM), np.float16)
        for row in range(ROWS):
            own += 0.3 * rng.standard_normal((clips, DIM), np.float32)
            noise = 0.2 * rng.standard_normal((clips, DIM), np.float32)
            values[:, row] = own[source] + noise
        spec = store.FeatureSpec(slug=modality, modality=modality, dim=DIM, identity={})
        fs.add_feature(spec).commit(
            store.UnitRows(
                clip_ids=ids, values=values.reshape(-1, DIM),
                row_time_ms=np.tile(np.arange(ROWS, dtype=np.int32) * 1000, clips),
                row_count=np.full(clips, ROWS, np.uint16), status=np.zeros(clips, np.uint8),
                media_sha256=np.zeros((clips, 32), np.uint8), detail=("",) * clips,
            )
        )  # fmt: skip


def _write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    asked = parser.parse_args()
    show(run(asked.clips, tuple(asked.sizes)))


if __name__ == "__main__":
    main()
