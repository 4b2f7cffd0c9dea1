"""Steps of `benchmarks/gpu.py` about the machine: ceilings, the marked tests, compilation."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks._gpu_kit import Kit, Row, at_least

ROOT = Path(__file__).resolve().parents[1]


def ceilings(kit: Kit) -> Iterator[Row]:
    """What the card can do at best: products, copies, launches."""
    side = kit.size(8192, 64)
    for name, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = torch.randn(2, side, side, device=kit.device).to(kind)
        taken = kit.median_ms(lambda a=a, b=b: a @ b)
        yield Row(what=f"matmul {name}, {side}", value=2e-9 * side**3 / taken, unit="TFLOP/s")
    size = kit.size(256 << 20, 1 << 16)
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=kit.name == "cuda")
    plain, there = (
        torch.empty(size, dtype=torch.uint8),
        torch.empty(size, dtype=torch.uint8, device=kit.device),
    )
    for what, target, source in (
        ("to the card, pinned", there, pinned), ("to the card, pageable", there, plain),
        ("from the card, pinned", pinned, there),
    ):  # fmt: skip
        taken = kit.median_ms(lambda t=target, s=source: t.copy_(s, non_blocking=True))
        yield Row(what=f"copy {what}", value=1e-6 * size / taken, unit="GB/s")
    one = torch.zeros(1, device=kit.device)
    many = kit.size(2000, 5)

    def launch() -> None:
        for _ in range(many):
            one.add_(1)

    yield Row(what="launch of a kernel", value=1e6 * kit.seconds(launch) / many, unit="µs")


def marked(kit: Kit) -> Iterator[Row]:
    """The tests that need a card."""
    tests = kit.size(["-q", "-m", "gpu", "tests"], ["--version"])  # a dry run has no card to test
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *tests], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | ({} if kit.dry else {"REQUIRE_GPU": "1"}),
    )  # fmt: skip
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    failed = [line[7:120] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    yield Row(
        what="tests marked gpu", value=float(done.returncode), unit="exit code", goal="0",
        met=done.returncode == 0, note="; ".join([last, *failed]),
    )  # fmt: skip


def compiled(kit: Kit) -> Iterator[Row]:
    """Whether torch.compile pays for the largest user of the card."""
    batch = kit.size(128, 1)
    kind = kit.size(torch.bfloat16, torch.float32)
    for variant in kit.size(("r50_1x_sk0", "r50_1x_sk1"), ("r50_1x_sk0",)):
        network = _untrained(kit, variant).eval().to(kind).to(memory_format=torch.channels_last)
        side = kit.size(224, 32)
        x = torch.randn(batch, 3, side, side, device=kit.device, dtype=kind)
        x = x.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            plain = kit.median_ms(lambda n=network, x=x: n(x))
            faster = torch.compile(network, backend=kit.size("inductor", "eager"))
            begun = time.perf_counter()
            faster(x)
            kit.wait()
            took = time.perf_counter() - begun
            after = kit.median_ms(lambda f=faster, x=x: f(x))
        yield Row(
            what=f"compiled {variant}, batch {batch}", value=1000 * batch / after,
            unit="frames/s", bare=1000 * batch / plain, against="as it is",
            predicted="1.4 to 1.9", note=f"{took:.0f} s to compile", **at_least(plain / after, 1.4),
        )  # fmt: skip


def _untrained(kit: Kit, variant: str) -> torch.nn.Module:
    """The network, all of its numbers alike; a layer of one in a dry run."""
    from extract.encoders.simclrv2 import network_of

    if kit.dry:
        return torch.nn.Conv2d(3, 8, 3)
    network = network_of(variant).to_empty(device=kit.device)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data.fill_(0.01)
    return network
