"""Scoring 10,000 episodes by heads on products: seconds, against a numpy loop, and what bounds it.

    python -m benchmarks scoring
    python -m benchmarks.scoring --against OTHER_CHECKOUT --clips 1000 4000 --heads default

5-way, 15 queries, 2,048 numbers of sight and 1,024 of sound. Of each row what comes before the
first episode (embedded clips, a table of products) is timed whole, and episodes for as long as
`--seconds` say, from which 10,000 follow. One thread, processor time, the least of `--rounds` in
which all sides take turns. Another checkout is asked the same in a process of its own.

    bound   the least time for the memory given: products of a table by a large matrix product, or
            rows of all episodes at the pace at which rows are gathered, whichever is less
"""

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

WAYS, QUERIES, EPISODES, CLASSES = 5, 15, 10_000, 20
DIMS = {"v": (2048,), "a": (1024,), "av": (2048, 1024)}
SIZES = (1000, 4000, 8000, 20_000)
HEADS = ("prototypes", "nearest", "ridge", "gda", "logistic", "default")
SHARED = ("prototypes", "nearest", "ridge")  # whose six rows come of one call
TIMED, MEMORY = 1.0, 1 << 30
GOALS = {(1000, 1): 20.0, (1000, 5): 12.0, 4000: 4.0, 8000: 1.5, 20_000: 1.5}


@cache
def vectors(clips: int, dim: int) -> torch.Tensor:
    """Classes as a ReLU leaves them."""
    rng = np.random.default_rng([clips, dim])
    centre = 0.3 * rng.standard_normal((CLASSES, 1, dim), dtype=np.float32)
    noise = rng.standard_normal((CLASSES, clips // CLASSES, dim), dtype=np.float32)
    return torch.from_numpy(np.maximum(centre + noise, 0).reshape(-1, dim))


@cache
def drawn(clips: int, shots: int, count: int = 4000) -> np.ndarray:
    """Positions of the clips of each class of some episodes: shots, then queries."""
    rng = np.random.default_rng([clips, shots])
    each = clips // CLASSES
    classes = rng.permuted(np.tile(np.arange(CLASSES), (count, 1)), axis=1)[:, :WAYS]
    places = rng.random((count, WAYS, each)).argpartition(shots + QUERIES, axis=-1)
    return (classes[..., None] * each + places[..., : shots + QUERIES]).astype(np.int32)


def episodes(clips: int, shots: int, first: int, last: int) -> Any:
    from learn.fewshot.tasks import Episodes

    indices = drawn(clips, shots)[first:last]
    classes = (indices[..., 0] // (clips // CLASSES)).astype(np.int32)
    return Episodes(indices=indices, classes=classes, shots=shots, seed=0, clips_sha256="")


def prior() -> Any:
    from learn.fewshot.fusions import Prior

    return Prior(value=(0.8, 0.2), origin="given")


def set_up(head: str, mode: str, clips: int, shots: Sequence[int], memory: int, **more: Any) -> Any:
    """A function that answers episodes; all that is done once is done."""
    from learn.fewshot.default_head import resolved
    from learn.fewshot.fused import FusedPredictor
    from learn.fewshot.heads import Context
    from learn.fewshot.modes import Pair
    from learn.fewshot.scoring import scorer
    from store import plugins

    try:
        from learn.fewshot.kept import queries_of

        queries = queries_of(episodes(clips, k, 0, 100) for k in shots) * (EPISODES // 100)
    except ImportError:  # a checkout of before
        queries = len(shots) * EPISODES * WAYS * QUERIES
    built = plugins.build("learn.fewshot.heads", resolved(head))
    views = [vectors(clips, dim) for dim in DIMS[mode]]
    pairs = [Pair(support=x, query=x, modality_dims=(x.shape[1],)) for x in views]
    known = [Context(modality_dims=p.modality_dims, origin=p.support.mean(0)) for p in pairs]
    if len(pairs) == 1:
        return scorer(built, pairs[0], known[0], queries=queries, memory=memory, **more)
    predictor = FusedPredictor(
        head=built, fusion=plugins.build("learn.fewshot.fusions", "weighted"), pairs=pairs,
        contexts=known, prior_of=lambda _: prior(), queries=queries, memory=memory, **more,
    )  # fmt: skip
    _ = getattr(predictor, "products", None) or predictor.tables
    return predictor.predict


def ours(row: dict[str, Any]) -> dict[str, Any]:
    """Seconds for all episodes, MiB and the first answers of one row."""
    head, mode, clips, shots = (row[key] for key in ("head", "mode", "clips", "shots"))
    for dim in DIMS[mode]:
        vectors(clips, dim)
    cuts = (0, 100, 1000, 2000, 3000, 4000)
    parts = [episodes(clips, shots, *cut) for cut in pairwise(cuts)]
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before, begun = _resident("VmRSS"), time.process_time()
    score = set_up(head, mode, clips, [shots], row["memory"])
    once, given, spent = time.process_time() - begun, [], list[float]()
    for part in parts:
        begun = time.process_time()
        given.append(score(part))
        spent.append((time.process_time() - begun) / len(part))
        if time.process_time() - begun > row["seconds"]:
            break
    each = min(spent)  # a few episodes cost more than many, each
    return {
        "seconds": once + EPISODES * each,
        "once": once,
        "mib": (_resident("VmHWM") - before) / 1024,
        "answers": given[0].tolist(),
    }


def loop(row: dict[str, Any]) -> dict[str, Any]:
    """The same of the loop."""
    from benchmarks._scoring_loops import answers, log_prior

    clips, shots = row["clips"], row["shots"]
    senses = [vectors(clips, dim).numpy() for dim in DIMS[row["mode"]]]
    known, chosen = (prior(), log_prior(prior(), shots)), drawn(clips, shots)[:300]
    given, begun = [], time.process_time()
    for of in chosen:
        support, query = of[:, :shots], of[:, shots:].reshape(-1)
        given.append(answers(row["head"], senses, support, query, *known).tolist())
        if time.process_time() - begun > row["seconds"]:
            break
    each = (time.process_time() - begun) / len(given)
    return {"seconds": EPISODES * each, "answers": given}


def together(row: dict[str, Any]) -> dict[str, Any]:
    """Seconds of several heads at 1 and 5 shots in one call."""
    begun, each = time.process_time(), 0.0
    more: dict[str, Any] = {}
    try:
        from learn.fewshot.kept import Kept

        more = {"kept": Kept()}
    except ImportError:
        pass
    clips, once = row["clips"], 0.0
    for head in SHARED:
        begun = time.process_time()
        score = set_up(head, row["mode"], clips, (1, 5), row["memory"], **more)
        once += time.process_time() - begun
        for shots in (1, 5):
            part = episodes(clips, shots, 0, 1000)
            begun = time.process_time()
            score(part)
            each += (time.process_time() - begun) / 1000
    return {"seconds": once + EPISODES * each, "once": once}


def pace() -> dict[str, float]:
    """FLOP a second of a large product, and bytes a second of rows gathered into a cache."""
    x, rows = torch.randn(1500, 2048), torch.empty(80, 2048)
    many = torch.randn(20_000, 2048)
    places = torch.from_numpy(np.random.default_rng(0).integers(20_000, size=(50, 80)))
    best = [9.0, 9.0]
    for _ in range(5):
        begun = time.process_time()
        x @ x.T
        best[0] = min(best[0], time.process_time() - begun)
        begun = time.process_time()
        for some in places:
            torch.index_select(many, 0, some, out=rows)
        best[1] = min(best[1], time.process_time() - begun)
    return {"flops": 2 * 1500**2 * 2048 / best[0], "bytes": 50 * 80 * 2048 * 4 / best[1]}


def bound(row: dict[str, Any], paces: dict[str, float]) -> tuple[float, str]:
    """The least seconds, and of what."""
    numbers, clips = sum(DIMS[row["mode"]]), row["clips"]
    of_table = clips**2 * numbers / paces["flops"]
    of_rows = EPISODES * WAYS * (QUERIES + row["shots"]) * 4 * numbers / paces["bytes"]
    fits = 4 * (clips**2 * len(DIMS[row["mode"]]) + clips * numbers) <= row["memory"] // 2
    return min((of_rows, "rows"), (of_table if fits else np.inf, "table"))


def _resident(what: str) -> int:
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if what in one)
    return int(line.split()[1])


TASKS = {"ours": ours, "loop": loop, "together": together}


class Side:
    """A checkout that answers in a process of its own."""

    def __init__(self, checkout: Path) -> None:
        code = f"import sys; sys.path[:0] = [{str(checkout)!r}]; import runpy; " + (
            f"runpy.run_path({__file__!r}, run_name='__side__')"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=checkout, env=None,
        )  # fmt: skip

    def ask(self, task: str, row: dict[str, Any]) -> dict[str, Any]:
        """What the task gives there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([task, row]), file=self.process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    """Answer a line with a line until there are no more."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for line in sys.stdin:
            task, row = json.loads(line)
            print(json.dumps(TASKS[task](row)), flush=True)


def measure(
    clips: Sequence[int] = SIZES,
    heads: Sequence[str] = HEADS,
    modes: Sequence[str] = tuple(DIMS),
    shots: Sequence[int] = (1, 5),
    against: str | None = None,
    seconds: float = TIMED,
    rounds: int = 2,
    memory: int = MEMORY,
) -> Iterator[dict[str, Any]]:
    """A row for every number of clips and shots, mode and head."""
    torch.set_num_threads(1)
    here = Path(__file__).resolve().parents[1]
    sides = {"ours": Side(here), "loop": Side(here)}
    if against:
        sides["before"] = Side(Path(against).resolve())
    asked = {"seconds": seconds, "memory": memory}
    try:
        with threadpool_limits(1):
            paces = pace()
        for n in clips:
            for mode in modes:
                for k in shots:
                    for head in heads:
                        row = {"head": head, "mode": mode, "clips": n, "shots": k, **asked}
                        yield _told(row, _in_turns(sides, row, rounds), paces)
            yield _shared(sides, {"mode": "v", "clips": n, **asked}, rounds)
    finally:
        for side in sides.values():
            side.close()


def _in_turns(
    sides: dict[str, Side], row: dict[str, Any], rounds: int, task: str = ""
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            new = side.ask(task or ("loop" if name == "loop" else "ours"), row)
            if name not in found or new["seconds"] < found[name]["seconds"]:
                found[name] = new
    return found


def _told(
    row: dict[str, Any], found: dict[str, dict[str, Any]], paces: dict[str, float]
) -> dict[str, Any]:
    mine, least, of = found["ours"], *bound(row, paces)
    both = min(len(mine["answers"]), len(found["loop"]["answers"]))
    given = (np.array(side["answers"][:both]) for side in (mine, found["loop"]))
    alike = np.mean(np.equal(*given))
    before = f"; before {found['before']['seconds']:.3g} s" if "before" in found else ""
    if before:
        same = np.mean(np.array(found["before"]["answers"]) == np.array(mine["answers"]))
        before += f", {same:.2%} alike"
    goal = GOALS.get(row["clips"], GOALS.get((row["clips"], row["shots"])))
    return {
        "what": f"{row['clips']} clips, {row['shots']}-shot, {row['mode']}, {row['head']}",
        "value": mine["seconds"],
        "unit": "s",
        "ratio": found["loop"]["seconds"] / mine["seconds"],
        "against": f"loop {found['loop']['seconds']:.3g} s, {alike:.2%} of answers alike; "
        f"{mine['once']:.2g} s once; {mine['mib']:.0f} MiB; bound {least:.2g} s ({of}){before}",
        "goal": goal if row["head"] == "prototypes" else None,
    }


def _shared(sides: dict[str, Side], row: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Six rows of one call."""
    both = {name: side for name, side in sides.items() if name != "loop"}
    found = _in_turns(both, row, rounds, "together")
    loops = sum(
        sides["loop"].ask("loop", {**row, "head": head, "shots": shots})["seconds"]
        for head in SHARED for shots in (1, 5)
    )  # fmt: skip
    before = f"; before {found['before']['seconds']:.3g} s" if "before" in found else ""
    return {
        "what": f"{row['clips']} clips, v, six rows of one call",
        "value": found["ours"]["seconds"],
        "unit": "s",
        "ratio": loops / found["ours"]["seconds"],
        "against": f"loops {loops:.3g} s; {found['ours']['once']:.2g} s once{before}",
        "goal": 10.0 if row["clips"] == 4000 else None,
    }


if __name__ == "__side__":
    serve()

if __name__ == "__main__":
    from benchmarks._table import show

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", nargs="*", type=int, default=SIZES)
    parser.add_argument("--heads", nargs="*", default=HEADS)
    parser.add_argument("--modes", nargs="*", default=tuple(DIMS))
    parser.add_argument("--shots", nargs="*", type=int, default=(1, 5))
    parser.add_argument("--against", help="another checkout, asked the same")
    parser.add_argument("--seconds", type=float, default=TIMED)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", type=int, default=MEMORY, help="bytes")
    show(measure(**vars(parser.parse_args())))
