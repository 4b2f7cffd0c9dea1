"""What decoding a clip costs, by whom, and what carrying it to the encoders costs.

    python -m benchmarks decode

Clips are rendered (moving noise, H.264, a key frame every 250), three geometries. Each is looked at
sparsely (one frame a second) and densely (every frame), at most 256 pixels on the short side, in a
decode process, by PyAV and by decord in turns; processor time of the process counts, the best of
several rounds; by torchcodec too where it is installed, its start left out. Times of decord and
torchcodec contain the look at the packets that tells whether they are safe. Then
frames handed over as planes, and what it costs on a processor to make RGB of them afterwards.

The same arrays are then carried from a child through a pipe and through shared memory; processor
time of both sides counts.

The sandbox: what a child spends on confining itself, the least of many children; what a clip costs
in a confined process and in one that is not, which take turns, the median of many clips.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np

from benchmarks._table import show
from extract.media.clip import DECODER, PLANAR, TORCHCODEC, Request
from extract.media.decode import Decoder
from extract.media.samplers import Footage
from extract.media.sampling import Sampling
from extract.pipeline.outputs import with_room
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import OFF, Sandbox, confine

GEOMETRIES = {(256, 192): 100, (1280, 720): 100, (1080, 1920): 100}  # frames at 25 a second
SHORT_SIDE = 256
ROUNDS = 5
MESSAGES = {"10 frames of 455x256": (10, 256, 455, 3), "100 frames of 256x192": (100, 192, 256, 3)}
COUNT = 60
CHILDREN, TURNS = 20, 120


def every(footage: Footage) -> np.ndarray:
    """Dense: all frames."""
    return np.arange(len(footage.seconds))


def render(path: Path, width: int, height: int, frames: int) -> Path:
    """Noise that moves, as real pictures do: neither still nor new in every frame."""
    rng = np.random.default_rng(0)
    size = (height + frames * 2, width + frames * 3)
    grey = rng.integers(40, 216, size, np.uint8)
    for axis in (0, 1, 0, 1):  # smooth it, or all bits go into noise
        grey = grey // 2 + np.roll(grey, 1, axis) // 2
    tint = np.linspace(0, 60, size[1], dtype=np.uint8)[:, None] * np.array([1, 0, 0], np.uint8)
    texture = grey[:, :, None] + tint
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 250
        for k in range(frames):
            pixels = texture[2 * k : 2 * k + height, 3 * k : 3 * k + width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def costs(requests: list[Request]) -> list[tuple[float, str]]:
    """Processor seconds of each, at its best, and who decoded it; all take turns."""
    turns = requests * ROUNDS
    found = [[] for _ in requests]
    told = [""] * len(requests)
    folders = tuple({request.path.parent for request in requests})
    limits = Limits(deadline_seconds=120.0, sandbox=Sandbox(readable=folders))
    loaded = TORCHCODEC if find_spec("torchcodec") else DECODER
    limits = with_room(limits, loaded)
    for outcome in process_map(Decoder(loaded), turns, workers=1, limits=limits):
        k = outcome.index % len(requests)
        found[k].append(outcome.cpu_seconds)
        told[k] = outcome.value.visual.detail
    return list(zip(map(min, found), told, strict=True))


def decoders(folder: Path) -> Iterator[dict[str, Any]]:
    """Two rows a geometry and way of looking."""
    for (width, height), frames in GEOMETRIES.items():
        path = render(folder / f"{width}.mp4", width, height, frames)
        for how, pick in (("1 frame/s", Sampling(fps=1.0)), ("every frame", every)):
            asked = Request(path=path, pick=pick, short_sides=(SHORT_SIDE,), decoder="pyav")
            by = ("pyav", "decord", "auto", PLANAR)
            by = (*by, TORCHCODEC) if find_spec("torchcodec") else by
            (ours, _), (theirs, who), (_, chosen), (planes, _), *more = costs(
                [replace(asked, decoder=d) for d in by]
            )
            what = f"{width}x{height}, {frames / 25:g} s, {how}"
            yield row(f"{what}, PyAV", 1000 * ours, f"auto: {chosen}")
            yield row(f"{what}, {who}", 1000 * theirs, "PyAV", theirs / ours)
            yield row(f"{what}, PyAV, as planes", 1000 * planes, "PyAV", planes / ours)
            for others, name in more:
                yield row(f"{what}, {name}", 1000 * others, "PyAV", others / ours)
            yield row(f"{what}, RGB of the planes", 1000 * made_rgb(asked), "PyAV", None)


def made_rgb(asked: Request) -> float:
    """Processor seconds beside the network that RGB of a clip's planes takes, at its best."""
    import torch  # here, as decode processes import this module

    from extract.encoders._network import Way
    from extract.pipeline.pixels import rgb

    torch.set_num_threads(1)
    way = Way(torch.device("cpu"))
    planes = Decoder()(replace(asked, decoder=PLANAR)).visual.data[SHORT_SIDE]
    best = np.inf
    for _ in range(ROUNDS):
        begun = time.process_time()
        for start in range(0, len(planes), 16):
            rgb(planes, slice(start, start + 16), way)
        best = min(best, time.process_time() - begun)
    return best


def carried(shape: tuple[int, ...], shared: bool, count: int) -> float:
    """Processor seconds of both sides for `count` arrays."""
    before = sum(os.times()[:4])
    make = [partial(np.full, shape, 7, np.uint8)] * count
    for outcome in process_map(
        call, make, workers=1, limits=Limits(deadline_seconds=60.0), shared=shared
    ):
        assert outcome.value.ravel()[:: 1 << 12].sum()
    return sum(os.times()[:4]) - before


def call(function: Any) -> Any:
    """So that a child makes the array."""
    return function()


def transports() -> Iterator[dict[str, Any]]:
    """Two rows a message; what a child costs that carries nothing is taken off."""
    for name, shape in MESSAGES.items():
        best = {True: np.inf, False: np.inf}
        for _ in range(3):
            idle = carried((1,), True, COUNT)
            for shared in best:
                best[shared] = min(best[shared], carried(shape, shared, COUNT) - idle)
        pipe, memory = (1000 * best[shared] / COUNT for shared in (False, True))
        yield row(f"carry {name}, pipe", pipe, None)
        yield row(f"carry {name}, shared memory", memory, "pipe", memory / pipe)


def confining(folder: Path) -> float:
    """Seconds that a child takes to confine itself; the least of many, as others have the core."""
    begun = time.perf_counter()
    confinement = confine(Sandbox(readable=(folder,)))
    assert not confinement.missing, confinement.missing
    return time.perf_counter() - begun


def sandboxes(folder: Path) -> Iterator[dict[str, Any]]:
    """What the sandbox costs: a child, then a clip, by two children that take turns."""
    limits = Limits(deadline_seconds=60.0, recycle_items=1, sandbox=OFF)
    outcomes = process_map(confining, [folder] * CHILDREN, workers=1, limits=limits)
    yield row("confine a child", 1000 * min(o.value for o in outcomes), None)
    path = render(folder / "small.mp4", 256, 192, 100)
    for pick, how in ((Sampling(fps=1.0), "1 frame/s"), (every, "every frame")):
        asked = Request(path=path, pick=pick, short_sides=(SHORT_SIDE,), decoder="pyav")
        maps = [
            process_map(
                Decoder(),
                [asked] * TURNS,
                workers=1,
                limits=Limits(deadline_seconds=60.0, ahead=1, sandbox=sandbox),
            )
            for sandbox in (Sandbox(readable=(folder,)), OFF)
        ]
        turns = list(zip(*maps, strict=True))
        assert all(outcome.value.visual.data for turn in turns for outcome in turn)
        confined, free = (
            1000 * median(outcome.cpu_seconds for outcome in outcomes)
            for outcomes in zip(*turns, strict=True)
        )
        what = f"256x192, 4 s, {how}, confined"
        yield row(what, confined, "not confined, median", confined / free)


def row(
    what: str, milliseconds: float, against: str | None, ratio: float | None = None
) -> dict[str, Any]:
    return {
        "what": what,
        "value": milliseconds,
        "unit": "CPU-ms",
        "ratio": ratio,
        "against": against,
        "goal": None,
    }


def measure() -> Iterator[dict[str, Any]]:
    """Decoders, then transports, then the sandbox."""
    with tempfile.TemporaryDirectory() as folder:
        yield from decoders(Path(folder))
        yield from sandboxes(Path(folder))
    yield from transports()


if __name__ == "__main__":
    show(measure())
