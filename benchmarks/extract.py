"""`extract run` against what its parts can do alone, and against a plain loop.

    python -m benchmarks extract

Clips are rendered (moving noise, H.264), three geometries of four seconds, and looked at sparsely
(one frame a second) and densely (every frame), with a small network on a processor (MobileNetV2)
and ResNet-50 on a GPU, both with random weights. Per geometry and way of looking:

    decode     clips a second of the decode processes alone, as a share of cores ÷ processor seconds
               of a clip in its process
    encoders   frames a second of pack, prepare, network and rows on clips that are decoded, as a
               share of the same network on one prepared batch that stays where it is
    run        `extract run` as a whole, as a share of the slower of both. On a processor decode and
               network share the cores, so that this cannot be reached; the line below has the share
               of cores ÷ (processor seconds of decode + of the network)
    loop       clip after clip, frame after frame through the network, a file a clip: what
               extractors commonly do

All are measured one after the other on the same clips. Then the memory of runs of 100, 1,000 and
5,000 clips, by a process each.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

import store
from benchmarks._table import show
from benchmarks.decode import render
from extract import load_encoder
from extract.encoders import VisualEncoder
from extract.media.sampling import Sampling
from extract.pipeline.options import Options, cores
from extract.pipeline.outputs import decoded
from extract.pipeline.run import run
from extract.pipeline.unit_encoder import UnitEncoder
from extract.processes.heap import kept
from store import Manifest

GEOMETRIES = {(256, 192): (96, 24), (1280, 720): (48, 12), (1080, 1920): (32, 12)}  # clips
FRAMES, RATE = 100, 25
LOOKS = {"1 frame/s": Sampling(fps=1.0), "every frame": Sampling(fps=float(RATE))}
NETWORK = {"cpu": "mobilenetv2:untrained", "cuda": "simclrv2:variant=r50_1x_sk0,untrained"}
SIZES = (100, 1000, 5000)
DECODED_CLIPS = 192  # enough for start-up to be nothing
LOOP_CLIPS = 6  # a plain loop needs no more to be known
MEMORY = """
import resource, sys
from pathlib import Path
from extract.pipeline.options import Options
from extract.pipeline.run import run
from extract.media.sampling import Sampling
done = run(sys.argv[1], sys.argv[2], visual=["mobilenetv2:untrained"],
           sampling=Sampling(frames=1), options=Options(device="cpu"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, done.timings.decoder_bytes // 1024)
"""


def measure() -> Iterator[dict[str, Any]]:
    """Speed, then memory."""
    options = Options().resolved()
    encoder = load_encoder(NETWORK[options.device.partition(":")[0]], device=options.device)
    assert isinstance(encoder, VisualEncoder)
    with tempfile.TemporaryDirectory() as folder:
        for (width, height), counts in GEOMETRIES.items():
            clip = render(Path(folder) / f"{width}.mp4", width, height, FRAMES)
            for (how, policy), count in zip(LOOKS.items(), counts, strict=True):
                place = Path(folder) / f"{width}-{policy.fps:g}"
                manifest = copies(clip, place, count)
                what = f"{width}x{height}, {how}"
                yield from speeds(what, manifest, place, policy, options, encoder)
        yield from memory(Path(folder))


def copies(clip: Path, place: Path, count: int) -> Manifest:
    """A manifest of one clip under many names."""
    place.mkdir()
    names = [f"{k:05}.mp4" for k in range(count)]
    for name in names:
        (place / name).hardlink_to(clip)
    (place / "clips.csv").write_text("path\n" + "\n".join(names) + "\n")
    return store.read_manifest(place / "clips.csv")


def speeds(
    what: str,
    manifest: Manifest,
    place: Path,
    policy: Sampling,
    options: Options,
    encoder: VisualEncoder,
) -> Iterator[dict[str, Any]]:
    """The four figures, and how full the batches were."""
    clips, machine = len(manifest), cores()
    every = [(row, [encoder]) for row in range(clips)]
    some = decoded(manifest, every[: 2 * machine], policy, options, ordered=True)
    held = [outcome.value for outcome in some]  # and files are in memory now
    decode_rate, decode_cpu = decoding(manifest, every, policy, options)
    yield row(
        f"{what}: decode", decode_rate, "clips/s", decode_rate * decode_cpu / machine, "cores", 0.85
    )

    frames = sum(len(clip.visual.data[encoder.short_side].pixels) for clip in held)
    unit = UnitEncoder(encoder, batch_size=options.batch_size)
    with kept(options.device):  # as a run computes
        bare_rate = bare(encoder, held[0], options.batch_size)
        cpu = time.process_time()
        stage_seconds, _ = timed(lambda: stage(unit, held))
        stage_cpu = (time.process_time() - cpu) / len(held)
    stage_rate = frames / stage_seconds * unit.packer.fill
    stage_clips = stage_rate * len(held) / frames
    yield row(
        f"{what}: encoders", stage_rate, "frames/s", stage_rate / bare_rate, "bare network", 0.9
    )

    with torch.inference_mode():
        result = run(manifest, place / "s", visual=[encoder], sampling=policy, options=options)
    rate = clips / result.timings.seconds
    slower = min(decode_rate, stage_clips)
    yield row(f"{what}: run", rate, "clips/s", rate / slower, "slower of both", 0.9)
    if options.device == "cpu":
        ideal = machine / (decode_cpu + stage_cpu)
        yield row(f"{what}: run", rate, "clips/s", rate / ideal, "cores ÷ all CPU", 0.9)
    else:
        busy = clips / stage_clips / result.timings.seconds
        yield row(f"{what}: GPU at work", busy, "of time", None, None, None)
    fill = result.features[0].batch_fill
    yield row(f"{what}: batches filled", fill, "of all", None, None, 0.95)
    few = min(clips, LOOP_CLIPS)
    loop_seconds, _ = timed(lambda: loop(manifest, few, policy, encoder, place))
    yield row(f"{what}: run", rate, "clips/s", rate * loop_seconds / few, "plain loop", None)


def stage(unit: UnitEncoder, held: list[Any]) -> None:
    for k, clip in enumerate(held):
        unit.put(str(k), clip)
    unit.rows()


def bare(encoder: VisualEncoder, clip: Any, size: int) -> float:
    """Frames a second of the network on a batch that stays where it is."""
    pixels = torch.from_numpy(np.array(clip.visual.data[encoder.short_side].pixels))
    batch = encoder.preprocess(pixels.repeat(-(-size // len(pixels)), 1, 1, 1)[:size])
    best = 0.0
    with torch.inference_mode():
        encoder.forward(batch).cpu()
        for _ in range(5):
            seconds, _ = timed(lambda: encoder.forward(batch).cpu())
            best = max(best, size / seconds)
    return best


def loop(
    manifest: Manifest, count: int, policy: Sampling, encoder: VisualEncoder, place: Path
) -> None:
    """One process, one clip at a time, one frame at a time."""
    assert manifest.root is not None
    with torch.inference_mode():
        for name in manifest.paths[:count]:
            rows = []
            with av.open(str(manifest.root / name)) as file:
                due = 0.0
                for frame in file.decode(video=0):
                    if frame.time >= due:
                        due += 1.0 / (policy.fps or 1.0)
                        pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                        rows.append(encoder(pixels[None])[0].cpu().numpy())
            np.save(place / f"{name}.npy", np.stack(rows))


def decoding(
    manifest: Manifest, every: list[Any], policy: Sampling, options: Options
) -> tuple[float, float]:
    """Clips a second once the processes have started, and processor seconds of a clip."""
    several = every * max(1, DECODED_CLIPS // len(every))
    cpu, count, begun = 0.0, 0, 0.0
    for outcome in decoded(manifest, several, policy, options, ordered=False):
        if not begun:
            begun = time.perf_counter()
            continue
        cpu += outcome.cpu_seconds
        count += 1
    return count / (time.perf_counter() - begun), cpu / count


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def memory(folder: Path) -> Iterator[dict[str, Any]]:
    """The most that a run's process, and the largest of its decode processes, ever held."""
    clip = render(folder / "small.mp4", 256, 192, RATE)
    first: list[float] = []
    for count in SIZES:
        place = folder / f"memory-{count}"
        copies(clip, place, count)
        answer = subprocess.run(
            [sys.executable, "-c", MEMORY, str(place / "clips.csv"), str(place / "s")],
            capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        found = [int(kib) / 1024 for kib in answer.stdout.split()]
        first = first or found
        for who, held, before in zip(("run", "largest child"), found, first, strict=True):
            ratio = held / before
            yield row(f"memory of {count} clips, {who}", held, "MiB", ratio, "100 clips", None)


def row(
    what: str, value: float, unit: str, ratio: float | None, against: str | None, goal: float | None
) -> dict[str, Any]:
    return {
        "what": what,
        "value": value,
        "unit": unit,
        "ratio": ratio,
        "against": against,
        "goal": goal,
    }


if __name__ == "__main__":
    show(measure())
