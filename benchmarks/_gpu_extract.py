"""Steps of `benchmarks/gpu.py` about extraction: right, fast, within memory."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import extract
from benchmarks import encoders as networks
from benchmarks import extract as whole
from benchmarks._gpu_kit import Kit, Row, at_least, at_most, load, mean
from benchmarks.decode import render
from extract.encoders import Encoder, VisualEncoder, _resize
from extract.encoders._network import Frozen
from extract.media.clip import PLANAR, Clip, Frames, Sound, Stream
from extract.media.sampling import Sampling
from extract.pipeline.batching import limits_of
from extract.pipeline.options import Options
from extract.pipeline.run import run
from extract.pipeline.unit_encoder import UnitEncoder
from store import Manifest, Status

MAIN = "simclrv2:variant=r50_1x_sk1,untrained"
SMALL = "efficientnet_lite"  # in a dry run
SPEEDS = "4 to 7 k frames/s; graph ≥ 1.3x at 32, 1.05x at 128"
SILENT = Stream(status=Status.ABSENT)
# Clips a second that reading the code predicted for 16 cores and one H100, clips of 4 s.
PREDICTED = {
    ("640x360", "1 frame/s"): "490",
    ("1280x720", "1 frame/s"): "223 to 246",
    ("1920x1080", "1 frame/s"): "107 to 118",
    ("640x360", "every frame"): "40 to 70",
    ("1280x720", "every frame"): "40 to 70",
    ("1920x1080", "every frame"): "36 to 40",
}


def pictures(count: int, side: int = 256, wide: bool = True, seed: int = 0) -> torch.Tensor:
    """Frames as decode processes give them: the short side, 16:9."""
    size = (side, round(side * 16 / 9) if wide else side, 3)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *size), dtype=torch.uint8, generator=generator)


def clip_of(encoder: Encoder, frames: int = 4, seconds: float = 4.0) -> Clip:
    """A decoded clip."""
    if isinstance(encoder, VisualEncoder):
        pixels = pictures(frames, encoder.short_side).numpy()
        seen = Frames(pixels=pixels, seconds=np.arange(frames) / 25)
        stream = Stream(status=Status.OK, data={encoder.short_side: seen})
        return Clip(visual=stream, audio=SILENT)
    rate = encoder.sample_rate
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)).astype(np.float32)
    stream = Stream(status=Status.OK, data={rate: Sound(samples=samples, rate=rate)})
    return Clip(visual=SILENT, audio=stream)


def put(unit: UnitEncoder, clip: Clip, count: int) -> None:
    for k in range(count):
        unit.put(str(k), clip)
    unit.rows()


def right(kit: Kit) -> Iterator[Row]:
    """Rows of the card against those of the processor, against themselves, among others."""
    names = kit.size(networks.specs(), [SMALL, "logmel"])
    for name in names:
        reference = extract.load_encoder(name, "cpu", "fp32")
        visual = isinstance(reference, VisualEncoder)
        generator = torch.Generator().manual_seed(0)
        x = (
            pictures(kit.size(6, 2), kit.size(256, 64))
            if visual
            else 0.1 * torch.randn(2, 2 * reference.sample_rate, generator=generator)
        )
        expected = reference(x)
        scale = expected.abs().max()
        for precision in ("fp32", "bf16"):
            if precision not in networks.described(name).precisions:
                continue
            encoder = extract.load_encoder(name, kit.name, precision)
            rows = encoder(x).cpu()
            cosine = float(torch.cosine_similarity(rows, expected).min())
            off = float((rows - expected).abs().max() / scale)
            same = torch.equal(rows, encoder(x).cpu())
            other = encoder(torch.cat([x[:1], x.flip(0)])).cpu()[: len(rows) // len(x)]
            neighbours = float((other - rows[: len(other)]).abs().max() / scale)
            note = (
                f"cosine {cosine:.6f}; twice the same bytes: {'yes' if same else 'NO'}; "
                f"among others off by {neighbours:.1e}"
            )
            yield Row(
                what=f"{reference.slug} {precision} against fp32 of the processor", unit="of max",
                note=note,
                **(
                    at_most(off, 1e-5) if precision == "fp32"
                    else {"value": off, "ratio": cosine, "goal": "cosine ≥ .999",
                          "met": cosine >= 0.999}
                ),
            )  # fmt: skip
            yield Row(
                what=f"{reference.slug} {precision}: twice the same bytes", value=float(same),
                goal="1", met=same,
            )  # fmt: skip


def as_before() -> ExitStack:
    """Matrices copied for every clip, and frames out of memory that is not pinned."""
    stack = ExitStack()
    plain = _resize.kept.__wrapped__
    from extract.encoders import mae, simclrv2

    for module in (_resize, mae, simclrv2):
        stack.enter_context(mock.patch.object(module, "kept", plain))
    stack.enter_context(mock.patch.object(Frozen, "take", lambda self, x: x.to(self.device)))
    return stack


def sync(kit: Kit) -> Iterator[Row]:
    """The wait of every clip: matrices kept on the device against copied anew."""
    encoder = extract.load_encoder(kit.size(MAIN, SMALL), kit.name, "auto")
    batch = kit.size(128, 2)
    for frames, before in ((4, "50 %"), (128, "75 %")):
        frames = kit.size(frames, 2)
        clips = kit.size(1024 if frames == 4 else 64, 2)
        clip = clip_of(encoder, frames)
        seconds, busy = {}, {}
        for how in ("before", "now"):
            with as_before() if how == "before" else ExitStack():
                put(UnitEncoder(encoder, batch_size=batch), clip, min(clips, 2 * batch))
                unit = UnitEncoder(encoder, batch_size=batch)
                seconds[how] = kit.seconds(lambda u=unit, c=clip, n=clips: put(u, c, n))
                busy[how] = unit.packer.clock.seconds / seconds[how]
        yield Row(
            what=f"clips of {frames} frames: the card at work, now", value=clips / seconds["now"],
            unit="clips/s", bare=clips / seconds["before"],
            against=f"copied for every clip, at work {busy['before']:.0%}",
            predicted=f"{before} before", **at_least(busy["now"], 0.9),
        )  # fmt: skip


def runs(kit: Kit) -> Iterator[Row]:
    """`extract run` as a whole against the slower of its halves, and against a plain loop."""
    encoder = extract.load_encoder(kit.size(MAIN, SMALL), kit.name, "auto")
    assert isinstance(encoder, VisualEncoder)
    options = Options(device=kit.name, workers=kit.size(0, 1)).resolved()
    sizes = kit.size([(640, 360), (1280, 720), (1920, 1080)], [(64, 48)])
    frames = kit.size(100, 4)
    for width, height in sizes:
        rendered = render(kit.folder / f"{width}.mp4", width, height, frames)
        for fps in kit.size((1.0, 25.0), (1.0,)):
            name, how = f"{width}x{height}", "1 frame/s" if fps == 1 else "every frame"
            rough = {640: 490, 1280: 230, 1920: 110}.get(width, 2) if fps == 1 else 45
            count = kit.size(rough * 7, 2)  # about ten seconds of each
            place = kit.folder / f"{width}-{fps:g}"
            manifest, policy = whole.copies(rendered, place, count), Sampling(fps=fps)
            every = [(row, [encoder]) for row in range(count)]
            decode_rate = _decode_rate(kit, manifest, every, policy, options)
            clip = clip_of(encoder, 4 if fps == 1 else frames)
            unit = UnitEncoder(encoder, batch_size=kit.size(options.batch_size, 2))
            few = kit.size(512 if fps == 1 else 64, 1)
            stage = few / kit.seconds(lambda u=unit, c=clip, n=few: put(u, c, n))
            with load() as seen:
                result = run(
                    manifest, place / "s", visual=[encoder], sampling=policy, options=options
                )
            rate = count / result.timings.seconds
            slower = min(decode_rate, stage)
            shown = mean(seen)
            percent = "unknown" if shown is None else f"{shown:.0f} %"
            yield Row(
                what=f"{name}, {how}: run", value=rate, unit="clips/s", bare=slower,
                against="decode" if decode_rate < stage else "encoder",
                predicted=PREDICTED.get((name, how), ""),
                note=f"mean load {percent}; the card at work "
                     f"{result.timings.device / result.timings.seconds:.0%} of the time",
                **at_least(rate / slower, 0.9),
            )  # fmt: skip
            some = min(count, kit.size(6, 1))
            taken = kit.seconds(
                lambda m=manifest, n=some, s=policy, p=place: whole.loop(m, n, s, encoder, p)
            )
            yield Row(
                what=f"{name}, {how}: run ÷ plain loop", value=rate, unit="clips/s",
                bare=some / taken, against="clip by clip, frame by frame",
                **at_least(rate * taken / some, 10),
            )  # fmt: skip
            if fps > 1 or kit.size(0, 1):
                yield _planar(place, manifest, encoder, policy, options, rate, f"{name}, {how}")


def _planar(
    place: Path, manifest: Manifest, encoder: Encoder, policy: Sampling, options: Options,
    rate: float, what: str,
) -> Row:  # fmt: skip
    """The same with frames that come as planes, of which the card makes RGB."""
    result = run(
        manifest, place / "planes", visual=[encoder], sampling=policy,
        options=replace(options, decoder=PLANAR),
    )  # fmt: skip
    planar = len(manifest) / result.timings.seconds
    return Row(
        what=f"{what}: run, frames as planes", value=planar, unit="clips/s", bare=rate,
        against="frames as RGB", ratio=planar / rate,
    )  # fmt: skip


def _decode_rate(kit: Kit, manifest, every, policy: Sampling, options: Options) -> float:
    """Clips a second of the decode processes alone, their start left out."""
    warm = max(1, min(options.workers, len(every) // 4))
    done, begun = 0, 0.0
    for _ in whole.decoded(manifest, every, policy, options, ordered=False):
        done += 1
        if done == warm:
            begun = time.perf_counter()
    return max(done - warm, 1) / (time.perf_counter() - begun)


def speeds(kit: Kit) -> Iterator[Row]:
    """Networks at several batch sizes against a matrix product, with cuDNN's choice and a graph."""
    names = kit.size(
        [MAIN, "simclrv2:variant=r50_1x_sk0,untrained", "mae:untrained", "mobilenetv2:untrained",
         SMALL, "panns:untrained", "yamnet:untrained"],
        [SMALL],
    )  # fmt: skip
    for name in names:
        encoder = networks.loaded(name, "auto", kit.name)
        precision = encoder.identity["precision"]
        side = kit.size(8192, 64)
        a, b = torch.randn(2, side, side, device=kit.device).to(networks.PRECISIONS[precision])
        rate = 2e-9 * side**3 / kit.median_ms(lambda a=a, b=b: a @ b)  # TFLOP/s
        visual = isinstance(encoder, VisualEncoder)
        for batch in kit.size((32, 128, 256, 512) if visual else (32, 128), (2,)):
            x = networks.prepared(encoder, batch)
            work = networks.flop(encoder, x[:1]) * batch * 1e-12
            with torch.inference_mode():
                plain = kit.median_ms(lambda e=encoder, x=x: e.forward(x))
                note = ""
                if kit.device.type == "cuda":
                    torch.backends.cudnn.benchmark = True
                    tuned = kit.median_ms(lambda e=encoder, x=x: e.forward(x))
                    torch.backends.cudnn.benchmark = False
                    graph = _graph(kit, encoder, x, plain)
                    note = f"cudnn.benchmark {plain / tuned:.2f}x; graph {graph}"
            yield Row(
                what=f"{encoder.slug} {precision}, batch {batch}", value=1000 * batch / plain,
                unit="items/s", bare=rate, against="TFLOP/s of matmul",
                ratio=1000 * work / plain / rate, note=note,
                predicted=SPEEDS if name == MAIN else "",
            )  # fmt: skip


def _graph(kit: Kit, encoder: Encoder, x: torch.Tensor, plain_ms: float) -> str:
    """How much faster a captured graph of the same forward is; why not, where it cannot be."""
    try:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                encoder.forward(x)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            encoder.forward(x)
        return f"{plain_ms / kit.median_ms(graph.replay):.2f}x"
    except RuntimeError as error:
        return f"failed ({str(error).splitlines()[0][:60]})"


def profile(kit: Kit) -> Iterator[Row]:
    """What waits, and how much of the copying goes on while the card computes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    encoder = extract.load_encoder(kit.size(MAIN, SMALL), kit.name, "auto")
    clip, clips = clip_of(encoder, kit.size(4, 2)), kit.size(256, 2)
    batch = kit.size(128, 2)
    put(UnitEncoder(encoder, batch_size=batch), clip, clips)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if kit.name == "cuda" else [])]
    unit = UnitEncoder(encoder, batch_size=batch)
    with recorded(activities=kinds) as prof:
        put(unit, clip, clips)
        kit.wait()
    events = prof.events()
    pageable = sum("Memcpy" in e.name and "Pageable" in e.name for e in events)
    waits = sum(e.name in ("cudaStreamSynchronize", "cudaDeviceSynchronize") for e in events)
    yield Row(
        what=f"copies that wait, of {clips} clips", unit="copies", against="1,024 before",
        note=f"{waits} waits for a stream", **at_most(float(pageable), 0),
    )  # fmt: skip
    spans = {"copy": [], "kernel": []}
    for event in events:
        if event.device_type.name == "CUDA":
            kind = "copy" if event.name.startswith("Memcpy") else "kernel"
            spans[kind].append((event.time_range.start, event.time_range.end))
    copying = sum(end - start for start, end in spans["copy"])
    hidden = _shared(spans["copy"], spans["kernel"])
    yield Row(
        what="copying while the card computes", value=hidden / copying if copying else 0.0,
        unit="of copying", goal="≥ 0.9", met=(hidden / copying >= 0.9) if copying else None,
    )  # fmt: skip


def _shared(left: list[tuple[float, float]], right: list[tuple[float, float]]) -> float:
    """The time in which both kinds of spans are open; spans of one kind follow one another."""
    left, right, at, total = sorted(left), sorted(right), 0, 0.0
    for start, end in left:
        while at < len(right) and right[at][1] <= start:
            at += 1
        for other_start, other_end in right[at:]:
            if other_start >= end:
                break
            total += max(0.0, min(end, other_end) - max(start, other_start))
    return total


def memory(kit: Kit) -> Iterator[Row]:
    """Rows leave the card, so that units of any length take the same; short memory halves."""
    encoder = extract.load_encoder(kit.size(MAIN, SMALL), kit.name, "auto")
    clip, batch = clip_of(encoder, kit.size(16, 2)), kit.size(128, 2)
    held = []
    for clips in kit.size((500, 2000), (2, 4)):
        if kit.name == "cuda":
            torch.cuda.reset_peak_memory_stats()
        put(UnitEncoder(encoder, batch_size=batch), clip, clips)
        held.append(torch.cuda.max_memory_allocated() / 2**20 if kit.name == "cuda" else 1.0)
        yield Row(
            what=f"the most on the card, a unit of {clips} clips", value=held[-1], unit="MiB",
            bare=held[0], against="the first", ratio=held[-1] / held[0], goal="≤ 1.05",
            met=held[-1] <= 1.05 * held[0],
        )  # fmt: skip
    for what in ("forward", "preprocess"):
        yield _short(kit, what)


def _short(kit: Kit, what: str) -> Row:
    """A unit on a card that is given too little memory for its batches."""
    encoder = extract.load_encoder(kit.size(MAIN, SMALL), kit.name, "fp32")
    batch = kit.size(1024, 8)
    clip = clip_of(encoder, batch)
    if kit.name == "cuda":
        torch.cuda.empty_cache()
        whole_card = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(
            {"forward": 6, "preprocess": 1.5}[what] * 2**30 / whole_card
        )
        try:
            unit = UnitEncoder(encoder, batch_size=batch)
            put(unit, clip, 2)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    else:  # a processor has no such error of its own
        whole_call = getattr(encoder, what)

        def narrow(x: torch.Tensor) -> torch.Tensor:
            if len(x) > batch // 2:
                raise torch.OutOfMemoryError("as a card says it")
            return whole_call(x)

        setattr(encoder, what, narrow)
        put(UnitEncoder(encoder, batch_size=batch), clip, 1)
    limits = limits_of(encoder)
    found = [limits.preprocess.items, limits.forward.items, limits.buffer.items]
    small = [items for items in found if items is not None]
    return Row(
        what=f"too little memory ({what}): it goes on with", value=float(min(small, default=batch)),
        unit="items", bare=float(batch), against="asked for", met=bool(small), goal="fewer",
        note=f"prepared {found[0]}, computed {found[1]}, gathered {found[2]}",
    )  # fmt: skip


def two(kit: Kit) -> Iterator[Row]:
    """Two encoders of one run against each of them alone."""
    names = kit.size((MAIN, "panns:untrained"), (SMALL, "logmel"))
    encoders = [extract.load_encoder(name, kit.name, "auto") for name in names]
    clips, batch = kit.size(512, 2), kit.size(128, 2)
    held = [clip_of(encoder, kit.size(16, 2)) for encoder in encoders]

    def both() -> None:
        units = [UnitEncoder(encoder, batch_size=batch) for encoder in encoders]
        for k in range(clips):
            for unit, clip in zip(units, held, strict=True):
                unit.put(str(k), clip)
        for unit in units:
            unit.rows()

    def alone() -> None:
        for encoder, clip in zip(encoders, held, strict=True):
            put(UnitEncoder(encoder, batch_size=batch), clip, clips)

    both()
    one_by_one, together = kit.seconds(alone), kit.seconds(both)
    yield Row(
        what=f"{' and '.join(e.slug for e in encoders)} at once", value=clips / together,
        unit="clips/s", bare=clips / one_by_one, against="one after the other",
        **at_least(one_by_one / together, 0.95),
    )  # fmt: skip


def threads(kit: Kit) -> Iterator[Row]:
    """fp32 under two threads: before, one's switch of TF32 undid the other's."""
    encoder = extract.load_encoder(kit.size(MAIN, SMALL), kit.name, "fp32")
    x = encoder.preprocess(pictures(kit.size(16, 1), kit.size(256, 32)))
    expected, rounds = encoder.forward(x).cpu(), kit.size(308, 2)
    other: list[bool] = []

    def work() -> None:
        for _ in range(rounds):
            other.append(not torch.equal(encoder.forward(x).cpu(), expected))

    pair = [threading.Thread(target=work) for _ in range(2)]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()
    yield Row(
        what=f"other bytes among {len(other)} forwards of two threads", unit="forwards",
        predicted="1 of 616 before", **at_most(float(sum(other)), 0),
    )  # fmt: skip
