"""Every head, many episodes at once against one at a time, on the same 5-way 15-query episodes.

    python -m benchmarks.heads [--episodes 10000] [--dim 2048] [--seconds 2] [--only HEAD…]

The loops are what a careful user writes for one episode: whole-array numpy, scikit-learn or
PyTorch, clips gathered by index. Each side runs through the same list of episodes from its start
until `seconds` are over; what a head needs before its first episode (the table of inner products)
counts. Both run on one thread, and its time on the processor is what counts: other work on the
machine changes the ratios little.
"""

import argparse
import ctypes
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from benchmarks._table import show
from learn.fewshot.heads import Context, ExtraShotsHead
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import MEMORY, scorer
from learn.fewshot.tasks import Episodes
from store import plugins

WAYS, QUERIES, CLASSES, CLIPS, AT_ONCE = 5, 15, 20, 60, 1000
ALLOWED = 64 << 20
GOALS = {"prototypes": 20.0, "logistic": 20.0, "tim": 4.0, "pt_map": 4.0}
Loop = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Task:
    clips: torch.Tensor  # V D
    support: np.ndarray  # E N K positions of clips
    query: np.ndarray  # E M
    classes: np.ndarray  # E N

    @property
    def shots(self) -> int:
        return self.support.shape[2]

    @cached_property
    def parts(self) -> list[Episodes]:
        """`AT_ONCE` after another: both sides find their episodes drawn."""
        queries = self.query.reshape(len(self.query), WAYS, QUERIES)
        indices = np.concatenate([self.support, queries], axis=2)
        return [
            Episodes(
                indices=indices[first : first + AT_ONCE],
                classes=self.classes[first : first + AT_ONCE],
                shots=self.shots,
                seed=0,
                clips_sha256="",
            )
            for first in range(0, len(indices), AT_ONCE)
        ]


def task(episodes: int, dim: int, shots: int) -> Task:
    """Classes as a ReLU leaves them: about half the entries zero, far from perfectly apart."""
    rng = np.random.default_rng(shots)
    centre = 0.3 * rng.standard_normal((CLASSES, 1, dim), dtype=np.float32)
    clips = np.maximum(centre + rng.standard_normal((CLASSES, CLIPS, dim), dtype=np.float32), 0)
    drawn = np.empty((episodes, WAYS, shots + QUERIES), np.int32)
    classes = np.stack([rng.choice(CLASSES, WAYS, replace=False) for _ in range(episodes)])
    for episode, ways in zip(drawn, classes, strict=True):
        for row, chosen in zip(episode, ways, strict=True):
            row[:] = chosen * CLIPS + rng.choice(CLIPS, shots + QUERIES, replace=False)
    return Task(
        clips=torch.from_numpy(clips.reshape(-1, dim)),
        support=drawn[..., :shots],
        query=drawn[..., shots:].reshape(episodes, -1),
        classes=classes.astype(np.int32),
    )


# --- one episode at a time: support N K D, query M D -> answers M


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def squared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left**2).sum(-1)[:, None] + (right**2).sum(-1) - 2 * left @ right.T


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def prototypes(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    return squared(query, support.mean(1)).argmin(-1)


def nearest(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    return squared(query, support.reshape(-1, query.shape[1])).argmin(-1) // support.shape[1]


def logistic(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    labels = np.repeat(np.arange(WAYS), support.shape[1])
    model = LogisticRegression(C=1.0, max_iter=1000).fit(support.reshape(len(labels), -1), labels)
    return model.predict(query)


def ridge(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    targets = np.repeat(np.eye(WAYS), support.shape[1], axis=0)
    return (
        Ridge(alpha=1.0).fit(support.reshape(len(targets), -1), targets).predict(query).argmax(-1)
    )


def label_propagation(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    shots = WAYS * support.shape[1]
    points = unit(np.concatenate([support.reshape(shots, -1), query]))
    d2 = np.maximum(squared(points, points), 0)
    np.fill_diagonal(d2, np.inf)
    near = np.zeros(d2.shape, bool)
    np.put_along_axis(near, np.argsort(d2, axis=1)[:, :10], True, axis=1)
    near |= near.T
    weight = np.where(near, np.exp(-d2 / (2 * 0.5**2 * d2[near].mean())), 0)
    root = weight.sum(1) ** -0.5
    system = np.eye(len(points)) - 0.8 * root[:, None] * weight * root
    targets = np.zeros((len(points), WAYS))
    targets[np.arange(shots), np.arange(shots) // support.shape[1]] = 1
    return np.linalg.solve(system, targets)[shots:].argmax(-1)


def bdcspn(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    support, query = unit(support), unit(query)
    query = query + support.mean((0, 1)) - query.mean(0)
    mean = unit(support.mean(1))
    cosine = unit(query) @ mean.T
    sure, label = softmax(cosine).max(-1), cosine.argmax(-1)
    rectified = []
    for n in range(WAYS):
        own = np.flatnonzero(label == n)
        own = own[np.argsort(-sure[own])[:8]]
        members = np.concatenate([support[n], query[own]])
        rectified.append(softmax(10 * unit(members) @ mean[n]) @ members)
    return (unit(query) @ unit(np.stack(rectified)).T).argmax(-1)


def laplacian(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    support, query = unit(support), unit(query)
    unary = squared(query, support.mean(1))
    d2 = squared(query, query)
    np.fill_diagonal(d2, np.inf)
    near = np.zeros_like(d2)
    np.put_along_axis(near, np.argpartition(d2, 3, axis=1)[:, :3], 1, axis=1)
    y = softmax(-unary)
    for _ in range(20):
        y = softmax(0.5 * near @ y - unary)
    return y.argmax(-1)


def tim(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    z_s = torch.from_numpy(unit(support))
    z_q = torch.from_numpy(unit(query))
    w = z_s.mean(1).requires_grad_()
    z_s, labels = z_s.flatten(0, 1), torch.arange(WAYS).repeat_interleave(support.shape[1])
    adam = torch.optim.Adam([w], lr=1e-4)

    def logits(z: torch.Tensor) -> torch.Tensor:
        return 15 * (z @ w.T - w.square().sum(-1) / 2)

    for _ in range(150):
        log_p = logits(z_q).log_softmax(-1)
        p = log_p.exp()
        conditional = -(p * log_p).sum(-1).mean()
        marginal = -(p.mean(0) * p.mean(0).log()).sum()
        cross_entropy = torch.nn.functional.cross_entropy(logits(z_s), labels)
        adam.zero_grad()
        (0.1 * cross_entropy - marginal + 0.1 * conditional).backward()
        adam.step()
    return logits(z_q).argmax(-1).numpy()


def finetune(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    x, z = torch.from_numpy(unit(support)).flatten(0, 1), torch.from_numpy(unit(query))
    labels = torch.arange(WAYS).repeat_interleave(support.shape[1])
    layer = torch.nn.Linear(x.shape[1], WAYS)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    sgd = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3)
    for _ in range(100):
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(layer(x), labels).backward()
        sgd.step()
    return layer(z).argmax(-1).numpy()


def pt_map(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    shots = WAYS * support.shape[1]
    z_s = unit(np.sqrt(support.reshape(shots, -1) + 1e-6))
    z_q = unit(np.sqrt(query + 1e-6))
    z_s, z_q = unit(z_s - z_s.mean(0)), unit(z_q - z_q.mean(0))
    points = np.concatenate([z_s, z_q])
    answer = np.repeat(np.eye(WAYS, dtype=points.dtype), support.shape[1], axis=0)
    mean = answer.T @ z_s / support.shape[1]

    def plan() -> np.ndarray:
        p = np.exp(-10 * squared(z_q, mean))
        p, before = p / p.sum(), np.zeros(len(p))
        for _ in range(1000):
            given = p.sum(1)
            if np.abs(given - before).max() <= 1e-6:
                break
            before = given
            p = p / given[:, None]
            p = p * (len(p) / WAYS / p.sum(0))
        return p

    for _ in range(20):
        mask = np.concatenate([answer, plan()])
        mean = mean + 0.2 * (mask.T @ points / mask.sum(0)[:, None] - mean)
    return plan().argmax(-1)


LOOPS: dict[str, tuple[Loop, str]] = {
    "prototypes": (prototypes, "numpy"),
    "nearest": (nearest, "numpy"),
    "logistic": (logistic, "scikit-learn"),
    "ridge": (ridge, "scikit-learn"),
    "label_propagation": (label_propagation, "numpy"),
    "bdcspn": (bdcspn, "numpy"),
    "laplacian": (laplacian, "numpy"),
    "finetune": (finetune, "PyTorch"),
    "tim": (tim, "PyTorch"),
    "pt_map": (pt_map, "numpy"),
}


# --- many episodes at once


def batched(name: str, task: Task, memory: int = MEMORY) -> Iterator[np.ndarray]:
    """Answers of `AT_ONCE` episodes after another, E M each, as `learn episodes` gets them."""
    clips, parts = task.clips, task.parts
    pair = Pair(support=clips, query=clips, modality_dims=(clips.shape[1],))
    context = Context(modality_dims=pair.modality_dims, origin=clips.mean(0))
    head = plugins.build("learn.fewshot.heads", name)
    score = scorer(head, pair, context, queries=task.query.size, memory=memory)
    for part in parts:
        yield score(part)


def looped(name: str, task: Task) -> Iterator[np.ndarray]:
    """Answers of one episode after another, 1 M each."""
    clips = task.clips.numpy()
    for support, query in zip(task.support, task.query, strict=True):
        yield LOOPS[name][0](clips[support], clips[query])[None]


def timed(answers: Iterator[np.ndarray], seconds: float) -> tuple[np.ndarray, float]:
    """The answers given before time was up, and milliseconds an episode."""
    given, start = [], time.process_time()
    for some in answers:
        given.append(some)
        if time.process_time() - start > seconds:
            break
    taken = time.process_time() - start
    all_given = np.concatenate(given)
    return all_given, 1e3 * taken / len(all_given)


def peak(name: str, memory: int) -> float:
    """MiB beside the vectors that scoring some episodes takes in this process, set up before."""
    problem = task(2000, 2048, 5)
    few = Task(
        clips=problem.clips, support=problem.support[:1], query=problem.query[:1],
        classes=problem.classes[:1],
    )  # fmt: skip
    list(batched(name, few, memory=1))
    ctypes.CDLL(None).malloc_trim(0)  # or the heap that is left would be used again, unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before = _resident("VmRSS")
    timed(batched(name, problem, memory), 10)
    return (_resident("VmHWM") - before) / 1024


def _resident(what: str) -> int:
    """KiB, as the kernel counts."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if what in one)
    return int(line.split()[1])


def peaks(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row a head, each in a process of its own."""
    for name in names:
        command = [sys.executable, "-m", "benchmarks.heads", "--peak", name]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        yield {
            "what": f"{name}, 5-shot, 2048-d, memory",
            "value": float(told), "unit": "MiB", "ratio": None,
            "against": f"beside the vectors, at --memory {ALLOWED >> 20}MiB",
            "goal": ALLOWED >> 20,
        }  # fmt: skip


def measure(
    episodes: int = 10_000, dim: int = 2048, seconds: float = 2.0, only: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """One row a head and number of shots; `value` is of the batched head."""
    torch.set_num_threads(1)
    known = plugins.names("learn.fewshot.heads")
    # Those that live of what is beside the clips have nothing to live of here.
    able = [
        n for n in known if not isinstance(plugins.build("learn.fewshot.heads", n), ExtraShotsHead)
    ]
    chosen = [name for name in able if name in (only or able)]
    yield from peaks(chosen)
    for shots in (1, 5):
        problem = task(episodes, dim, shots)
        for name in chosen:
            library = LOOPS[name][1]
            with threadpool_limits(1):
                next(looped(name, problem))  # imports and first-call set-up are nobody's time
                assert problem.parts
                fast, ms = timed(batched(name, problem), seconds)
                slow, loop_ms = timed(looped(name, problem), seconds)
            both = min(len(fast), len(slow))
            agree = float((fast[:both] == slow[:both]).mean())
            yield {
                "what": f"{name}, {shots}-shot, {dim}-d, {len(fast)} episodes",
                "value": ms,
                "unit": "ms/episode",
                "ratio": loop_ms / ms,
                "against": f"{library} loop, {loop_ms:.3g} ms; {agree:.2%} of answers alike",
                "goal": GOALS.get(name),
            }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", nargs="*", default=(), metavar="HEAD")
    parser.add_argument("--peak", metavar="HEAD", help="only this figure, in MiB")
    options = vars(parser.parse_args())
    if of := options.pop("peak"):
        torch.set_num_threads(1)
        print(peak(of, ALLOWED))
    else:
        show(measure(**options))
