"""Steps of `benchmarks/gpu.py` about learning: training, heads, search."""

import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import learn
from benchmarks import train as loops
from benchmarks._gpu_kit import Kit, Row, at_least, at_most
from learn.fewshot.heads import Context
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import scorer
from learn.inference.vector_index import VectorIndex
from learn.training.dataset import load_setup
from learn.training.recipe import load
from store import plugins, testing

HEADS = "learn.fewshot.heads"


def training(kit: Kit) -> Iterator[Row]:
    """A training against the bare loop, its waits, and whether it can be repeated and resumed."""
    path = kit.folder / "store"
    clips, rows, dim = kit.size((4096, 10, 1024), (64, 2, 8))
    testing.fill(path, clips=clips, rows=rows, dim=dim, ragged=True, classes=16)
    for name in kit.size(("linear", "mlp", "transformer"), ("linear",)):
        file = kit.folder / f"{name}.toml"
        file.write_text(loops.RECIPE.format(name=name, epochs=kit.size(10, 1)))
        recipe = load(file, ())
        data = load_setup(path, None, recipe).data
        steps = recipe.stages[0].optimiser.epochs * -(-len(data.clips) // loops.BATCH)
        bare = loops.bare_epoch(recipe, data, kit.device)
        ours, plain = [], []
        for turn in range(kit.size(3, 1)):
            plain.append(kit.seconds(bare))
            one = loops.trainer(recipe, data, kit.folder / f"{name}-{turn}", kit.device)
            ours.append(kit.seconds(one.run))
        yield Row(
            what=f"training, {name}", value=steps / min(ours), unit="steps/s",
            bare=steps / min(plain), against="forward and backward on resident tensors",
            note=f"{_waits(kit, recipe, data, name) / max(steps, 1):.2f} waits a step",
            **at_least(min(plain) / min(ours), 0.9),
        )  # fmt: skip
    yield from _repeated(kit, path)


def _waits(kit: Kit, recipe: Any, data: Any, name: str) -> int:
    """How often a training waits for the card, as torch tells it."""
    if kit.name != "cuda":
        return 0
    one = loops.trainer(recipe, data, kit.folder / f"{name}-waits", kit.device)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            one.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in told)


def _repeated(kit: Kit, path: Any) -> Iterator[Row]:
    settings = ("optimiser.epochs=3", "projection.dim_out=8", "optimiser.batch_size=32")
    asked = {"settings": settings, "device": kit.name}
    learn.train(path, "infonce", run_dir=kit.folder / "a", **asked)
    if not kit.dry:
        learn.train(path, "infonce", run_dir=kit.folder / "b", **asked)
    steps = iter(range(10**9))
    try:
        learn.train(
            path, "infonce", run_dir=kit.folder / "c", stop=lambda: next(steps) == 2, **asked
        )
    except KeyboardInterrupt:
        learn.train(path, "infonce", run_dir=kit.folder / "c", resume=True, **asked)
    for name, what in (("b", "the same seed"), ("c", "stopped and resumed")):
        if not (kit.folder / name).exists():
            continue
        first, second = (load_file(kit.folder / n / "weights.safetensors") for n in ("a", name))
        same = all(torch.equal(first[key], second[key]) for key in first)
        yield Row(what=f"{what}: the same bytes", value=float(same), goal="1", met=same)


def heads(kit: Kit) -> Iterator[Row]:
    """Every head on the device against one thread and all threads of the processor."""
    clips, dim, many, few = kit.size((4000, 2048, 2000, 100), (200, 8, 4, 4))
    classes = np.arange(clips) % 50
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(50, dim, generator=generator)
    vectors = F.normalize(means[classes] + 2 * torch.randn(clips, dim, generator=generator), dim=-1)
    there, threads = vectors.to(kit.device), torch.get_num_threads()
    for shots in kit.size((1, 5), (1,)):
        long, short = _drawn(classes, shots, many), _drawn(classes, shots, few)
        for name in kit.size(plugins.names(HEADS), ("prototypes", "ridge")):
            what = f"{name}, {shots}-shot, {many} episodes"
            try:
                of_card, answers = _timed(name, there, long, short)
                torch.set_num_threads(1)
                of_one, expected = _timed(name, vectors, short, short)
                torch.set_num_threads(threads)
                of_all, _ = _timed(name, vectors, short, short)
            except Exception as error:  # one head must not end the others
                why = f"{type(error).__name__}: {str(error)[:120]}"
                yield Row(what=what, note=why, met=False, goal="answers")
                continue
            finally:
                torch.set_num_threads(threads)
            of_one, of_all = (seconds * many / few for seconds in (of_one, of_all))
            same = float((answers == expected).mean())
            yield Row(
                what=what, value=of_card, unit="s", bare=of_all,
                against=f"{threads} threads, from {few} episodes; one thread {of_one:.3g} s",
                ratio=of_all / of_card, goal="answers equal ≥ .999", met=same >= 0.999,
                note=f"{same:.5f} of the answers are equal",
            )  # fmt: skip


def _timed(name: str, x: torch.Tensor, episodes: Any, compared: Any) -> tuple[float, np.ndarray]:
    """Seconds of a head for all of the episodes, and its answers to those that are compared."""
    score = _scorer(name, x, episodes)
    answers = score(compared)  # the first time does not count
    begun = time.perf_counter()
    score(episodes)  # which waits for its answers
    return time.perf_counter() - begun, answers


def _drawn(classes: np.ndarray, shots: int, count: int) -> Any:
    from learn.data.clips import Clips

    clips = Clips(
        ids=tuple(f"c{k:05}" for k in range(len(classes))),
        class_ids=classes.astype(np.int32),
        classes=tuple(f"k{c:02}" for c in range(50)),
        groups=None,
        split="test",
    )
    queries = 15 if len(classes) > 1000 else 2
    settings = {"ways": 5, "shots": shots, "queries": queries, "episodes": count}
    return plugins.build("learn.fewshot.tasks", plugins.Spec("n_way_k_shot", settings))(
        clips, seed=0
    )


def _scorer(name: str, x: torch.Tensor, drawn: Any) -> Any:
    mean = x.mean(0)
    context = Context(modality_dims=(x.shape[1],), support_mean=mean, query_mean=mean, origin=mean)
    pair = Pair(support=x, query=x, modality_dims=(x.shape[1],), other_modality=x)
    return scorer(plugins.build(HEADS, name), pair, context, queries=drawn.query.size)


def search(kit: Kit) -> Iterator[Row]:
    """Exact neighbours among a million: FAISS on the card, torch on it, FAISS on the processor."""
    size, dim, asked, k = kit.size((1_000_000, 512, 1000, 10), (500, 8, 5, 3))
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(size, dim, generator=generator), dim=-1)
    queries = F.normalize(torch.randn(asked, dim, generator=generator), dim=-1)
    index, plain = VectorIndex(vectors, device=kit.device), VectorIndex(vectors)
    found: dict[str, Any] = {}

    def by_torch() -> None:
        parts = [(q @ held.T).topk(k).indices for q in torch.split(queries.to(kit.device), 256)]
        found["torch"] = torch.cat(parts).cpu()

    index.search(queries[:8], k)
    of_card = kit.seconds(lambda: found.update(card=index.search(queries, k).indices))
    held = vectors.to(kit.device)
    by_torch()
    of_torch = kit.seconds(by_torch)
    of_cpu = kit.seconds(lambda: found.update(cpu=plain.search(queries, k).indices))
    same, theirs = (
        float((found[who] == found["cpu"]).double().mean()) for who in ("card", "torch")
    )
    yield Row(
        what=f"exact search, {size:,} x {dim}, {asked} queries", value=of_card, unit="s",
        bare=of_torch, against="torch: matmul and topk on the card", ratio=of_torch / of_card,
        goal="equal", met=same == 1.0,
        note=f"{index.note or 'FAISS on the card'}; {same:.4f} equal to the processor's; of "
             f"torch's {theirs:.4f}",
    )  # fmt: skip
    yield Row(
        what="the same on the processor", value=of_cpu, unit="s", bare=of_card,
        against="FAISS on the card", ratio=of_cpu / of_card, note=f"{os.cpu_count()} cores",
    )  # fmt: skip
    many = min(size, kit.size(3000, 400))
    far = index.search(queries[:4], many).indices
    yield Row(
        what=f"{many} neighbours, which FAISS has no kernel for", unit="other answers",
        note=index.note or "by the processor",
        **at_most(float((far != plain.search(queries[:4], many).indices).sum()), 0),
    )  # fmt: skip
