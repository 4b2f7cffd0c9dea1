"""Attention, forwards and backwards: time and peak memory against T, fast forms against dense.

    python -m benchmarks.attention [--longest 4096] [--seconds 0.5]

One clip of T tokens, 4 heads of 64, float32, one thread. Time is the processor's, best of several
runs, so other work on the machine changes it little. Memory is the most that was held at once
beyond the inputs, by the allocator's own count. The last rows ask whether cost grows as T does:
from a quarter of the longest T to the longest, 1 is linear and 0.25 quadratic. Time stays somewhat
below 1 where the shorter clip fits the cache and the longer one does not.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler greets on stderr otherwise

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks._table import show
from learn.models.attention import Pattern, attend, dense, path

HEADS, CHANNELS = 4, 64
PATTERNS = {
    "full": Pattern(),
    "window": Pattern(one_sided_window=8),
    "dilated": Pattern(one_sided_window=8, dilation=4),
    "global_window": Pattern(one_sided_window=8, global_tokens=1),
}
GOAL, GOAL_TOKENS = 8.0, 4096  # windows against dense, in time and in memory, at this T
LINEAR_GOALS = {"ms": 0.6, "MiB": 0.9}

Way = Callable[[Tensor, Tensor, Tensor, Tensor, Pattern], Tensor]


def step(way: Way, pattern: Pattern, tokens: int) -> Callable[[], None]:
    """One forward and backward pass over fixed inputs."""
    generator = torch.Generator().manual_seed(tokens)
    q, k, v, pull = torch.randn(4, 1, HEADS, tokens, CHANNELS, generator=generator).unbind()
    mask = torch.ones(1, tokens, dtype=torch.bool)
    qkv = [x.clone().requires_grad_() for x in (q, k, v)]

    def run() -> None:
        torch.autograd.grad(way(*qkv, mask, pattern), qkv, pull)

    return run


def milliseconds(run: Callable[[], None], seconds: float) -> float:
    run()
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 2:
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return 1e3 * min(taken)


def peak_mebibytes(run: Callable[[], None]) -> float:
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = torch.tensor([nbytes for _, nbytes in changes]).cumsum(0)
    return held.max().item() / 2**20


def measure(longest: int = 4096, seconds: float = 0.5) -> Iterator[dict[str, Any]]:
    """One row per pattern, length and unit; then how both costs of each pattern grow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lengths = [longest >> i for i in range(6, -1, -1)]
    costs: dict[tuple[str, int], tuple[float, float]] = {}
    try:
        for name, pattern in PATTERNS.items():
            for tokens in lengths:
                fast, slow = step(attend, pattern, tokens), step(dense, pattern, tokens)
                ours = milliseconds(fast, seconds), peak_mebibytes(fast)
                others = milliseconds(slow, seconds), peak_mebibytes(slow)
                costs[name, tokens] = ours
                for value, other, unit in zip(ours, others, ("ms", "MiB"), strict=True):
                    yield {
                        "what": f"attention {name}, T={tokens} ({path(pattern, tokens)})",
                        "value": value,
                        "unit": unit,
                        "ratio": other / value,
                        "against": f"dense, {other:.4g} {unit}",
                        "goal": GOAL if name != "full" and tokens == GOAL_TOKENS else None,
                    }
    finally:
        torch.set_num_threads(threads)
    for name in PATTERNS:
        for i, unit in enumerate(("ms", "MiB")):
            growth = costs[name, lengths[-1]][i] / costs[name, lengths[-3]][i]
            linear = name != "full" or unit == "MiB"
            yield {
                "what": f"attention {name}, {unit} from T={lengths[-3]} to {lengths[-1]}",
                "value": growth,
                "unit": "times",
                "ratio": 4 / growth,
                "against": "4 times, which is linear",
                "goal": LINEAR_GOALS[unit] if linear else None,
            }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--longest", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=0.5, help="at least this long a cell")
    options = parser.parse_args()
    show(measure(options.longest, options.seconds))
