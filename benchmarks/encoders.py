"""Every encoder's speed, plain and fast, as a share of what the processor's matmul reaches.

    python -m benchmarks encoders

Each encoder runs with random weights as fp32 plain (batch norms unfolded, torch's layout), fp32 and
bf16 (folded, channels last), and beside them a matrix product in the same precision; all take
turns, so that other work on the machine slows all alike, and the best of several rounds counts.
One thread runs, its time on the processor is measured, and figures are scaled to all cores.
What is timed is the network on prepared input. A share above 100 % means that convolutions make
better use of the processor than its matrix product does. On a GPU wall time counts, at several
batch sizes.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import extract
from benchmarks._table import show
from extract.encoders import Description, Encoder
from extract.encoders._network import PRECISIONS, plain
from store import plugins

FAMILY = "extract.encoders"
ROUNDS = 5
FRAMES, SECONDS, SOUNDS = 4, 10, 2  # a batch on a processor: so many frames, or windows of 10 s
GPU_BATCHES = (64, 256, 1024)
MATMUL = {"cpu": 1024, "cuda": 8192}
Call = Callable[[], Any]


def specs() -> list[str]:
    """Each encoder's first and usual variant."""
    found = []
    for name in plugins.names(FAMILY):
        module = plugins.module(FAMILY, name)
        if not module.DESCRIPTION.dims:  # of another library
            continue
        usual = getattr(module.Config(), "variant", "")
        if not hasattr(module.Config(), "untrained"):
            continue  # nothing is learnt there: `python -m benchmarks logmel`
        for variant in dict.fromkeys((next(iter(module.DESCRIPTION.dims)), usual)):
            found.append(f"{name}:untrained" + (f",variant={variant}" if variant else ""))
    return found


def prepared(encoder: Encoder, count: int) -> torch.Tensor:
    """Input of the network."""
    generator = torch.Generator().manual_seed(0)
    if encoder.modality == "visual":
        size = (1, 256, 320, 3)
        item = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    else:
        samples = SECONDS * encoder.sample_rate
        item = 0.1 * torch.randn(1, samples, generator=generator)
    x = encoder.preprocess(item)
    return x.expand(count, *x.shape[1:]).contiguous()


def matmul(precision: str, device: str) -> tuple[Call, float]:
    """A large product, and the floating point operations it takes."""
    side = MATMUL[device]
    a, b = torch.randn(2, side, side, device=device).to(PRECISIONS[precision])
    return lambda: torch.mm(a, b), 2.0 * side**3


def best(calls: list[Call], clock: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """Seconds of each call at its best, taking turns; a first turn does not count."""
    taken = [[] for _ in calls]
    for _ in range(rounds + 1):
        for seconds, call in zip(taken, calls, strict=True):
            start = clock()
            call()
            seconds.append(clock() - start)
    return [min(seconds[1:]) for seconds in taken]


def flop(encoder: Encoder, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        encoder.forward(x)
    return counter.get_total_flops()


def described(spec: str) -> Description:
    return plugins.module(FAMILY, plugins.parse_spec(spec).name).DESCRIPTION


def loaded(spec: str, precision: str, device: str = "cpu") -> Encoder:
    if described(spec).modality == "audio":
        spec += ",window_seconds=0"  # one window over the whole sound
    return extract.load_encoder(spec, device, precision)


def on_cpu(spec: str) -> Iterator[dict[str, Any]]:
    """Plain, fast and bf16, in turns with products."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with plain():
        slow = loaded(spec, "fp32")
    fast = loaded(spec, "fp32")
    networks = {"fp32 plain": slow, "fp32": fast}
    if "bf16" in described(spec).precisions:
        networks["bf16"] = loaded(spec, "bf16")
    visual = fast.modality == "visual"
    count = FRAMES if visual else SOUNDS
    x = prepared(fast, count)
    (fine_product, work), (coarse_product, _) = matmul("fp32", "cpu"), matmul("bf16", "cpu")
    calls = [partial(encoder.forward, x) for encoder in networks.values()]
    *seconds, fine, rough = best([*calls, fine_product, coarse_product], time.process_time)
    wanted = flop(slow, x)
    amount, unit = (count, "frames/s") if visual else (SECONDS * count, "x real")
    for how, taken in zip(networks, seconds, strict=True):
        rate = work / (rough if how == "bf16" else fine)
        share = wanted / taken / rate
        yield {
            "what": f"{fast.slug} {how}, {cores} cores",
            "value": cores * amount / taken,
            "unit": unit,
            "ratio": None if how == "fp32 plain" else seconds[0] / taken,
            "against": f"fp32 plain; {share:.0%} of matmul's {rate / 1e9:.0f} GFLOP/s a core",
            "goal": None,
        }


def on_gpu(spec: str) -> Iterator[dict[str, Any]]:
    """What `auto` picks at several batch sizes against the matmul of the same device."""

    def finished(call: Call) -> None:
        call()
        torch.cuda.synchronize()

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    encoder, fine = loaded(spec, "auto", "cuda"), loaded(spec, "fp32", "cuda")
    precision = encoder.identity["precision"]
    product, work = matmul(precision, "cuda")
    for count in GPU_BATCHES:
        x = prepared(encoder, count)
        taken, of_product = best(
            [partial(finished, partial(encoder.forward, x)), partial(finished, product)], clock
        )
        rate = work / of_product
        rows, theirs = encoder.forward(x[:8]), fine.forward(x[:8])
        cosine = float(torch.cosine_similarity(rows, theirs).min())
        visual = encoder.modality == "visual"
        yield {
            "what": f"{encoder.slug} {precision}, GPU, batch {count}",
            "value": count * (1 if visual else SECONDS) / taken,
            "unit": "frames/s" if visual else "x real",
            "ratio": flop(encoder, x[:1]) * count / taken / rate,
            "against": f"matmul's {rate / 1e12:.0f} TFLOP/s; cosine to fp32 {cosine:.5f}",
            "goal": None,
        }


def measure() -> Iterator[dict[str, Any]]:
    """Three rows an encoder on the processor, and one a batch size on a GPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for spec in specs():
            yield from on_cpu(spec)
    finally:
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        for spec in specs():
            yield from on_gpu(spec)
    else:
        yield {
            "what": "GPU: no CUDA device here, figures open",
            "value": float("nan"),
            "unit": "",
            "ratio": None,
            "against": None,
            "goal": None,
        }


if __name__ == "__main__":
    show(measure())
