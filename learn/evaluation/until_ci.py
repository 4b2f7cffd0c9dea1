"""`learn episodes --until-ci`: as many episodes as an interval needs to be narrow enough.

Episodes come in blocks, each drawn from a seed of its own, which the first has from the caller and
any other from that and its number. Every row is scored on the first block; then the widest interval
says how many blocks it takes for half its width to be small enough, and those are added, and so on.
The same clips, settings and seed end with the same episodes, whatever the machine.

Shapes: E = episodes.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from learn.evaluation.config import Until
from learn.evaluation.results import Result
from learn.fewshot import statistics
from learn.fewshot.tasks import Episodes


def seed_of(block: int, seed: int) -> int:
    """The seed of a block: the first has the caller's."""
    digest = hashlib.sha256(f"{seed} {block}".encode()).digest()
    return seed if block == 0 else int.from_bytes(digest[:4], "big")


def draw_until(
    until: Until,
    *,
    seed: int,
    draw: Callable[[int], Sequence[Episodes]],
    score: Callable[[Sequence[Episodes]], Iterable[Result]],
    ci: str,
) -> tuple[list[Episodes], bool]:
    """Draws of as many blocks as the interval needs, and whether it is narrow enough then; `draw`
    takes a seed, `score` gives a result for every row."""
    most = until.most // until.block
    blocks: list[Sequence[Episodes]] = []
    rows: list[list[np.ndarray]] = []
    wanted = 1
    while True:
        new = [draw(seed_of(b, seed)) for b in range(len(blocks), wanted)]
        blocks += new
        scored = score([joined(parts) for parts in zip(*new, strict=True)])
        numbers = [row.of_episodes for row in scored]
        rows = [[*old, row] for old, row in zip(rows or [[]] * len(numbers), numbers, strict=True)]
        widest = max(statistics.ci95(np.concatenate(row), ci) or 0.0 for row in rows)
        if widest <= until.width or wanted == most:
            break
        needed = ceil(wanted * (widest / until.width) ** 2)
        wanted = min(most, max(wanted + 1, needed))
    draws = [joined(parts) for parts in zip(*blocks, strict=True)]
    facts = {"blocks": len(blocks), "until_ci": until.width}
    settled = [replace(draw, seed=seed, facts={**draw.facts, **facts}) for draw in draws]
    return settled, widest <= until.width


def joined(parts: Sequence[Episodes]) -> Episodes:
    """The episodes of all parts, one after the other; settings are those of the first."""
    return replace(
        parts[0],
        indices=np.concatenate([part.indices for part in parts]),
        classes=np.concatenate([part.classes for part in parts]),
    )
