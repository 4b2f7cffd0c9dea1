"""Few-shot episodes, 10,000 at a time, against a loop that draws and scores one after another.

    python -m benchmarks.episodes

Draw and score: clip means are in memory on both sides, groups are kept apart. The loop is
whole-array numpy. The whole call also opens the store, reads the rows and takes the interval. All
on one thread, by processor time, the best of three; both sides agree on the same episodes.

Any ways and shots are drawn of 3,543 clips in 26 classes of 25 groups each; the loop draws shots
until every class has queries of other groups, and other classes after twenty times in vain.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import learn
import store
from benchmarks._table import show
from learn.data.clips import Clips, load_clips
from learn.data.rows import load_rows
from learn.fewshot.heads import Context
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import accuracies, scorer
from learn.fewshot.tasks import Episodes
from store import plugins, testing

WAYS, QUERIES, EPISODES, LOOPED = 5, 15, 10_000, 400
ANY_LOOPED, TRIES = 60, 20
CLIPS, CLASSES = 4000, 20  # of them 1,000 clips in 5 classes are in the test split
HEADS = ("prototypes", "prototypes:metric=cl2n", "nearest")


def draw(
    rng: np.random.Generator, class_ids: np.ndarray, groups: np.ndarray, shots: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of one episode's support and queries, class by class."""
    support, query = [], []
    for c in rng.choice(class_ids.max() + 1, WAYS, replace=False):
        order = rng.permutation(np.flatnonzero(class_ids == c))
        support.append(order[:shots])
        apart = order[~np.isin(groups[order], groups[order[:shots]])]
        query.append(apart[:QUERIES])
    return np.stack(support), np.concatenate(query)


def score(vectors: np.ndarray, support: np.ndarray, query: np.ndarray) -> float:
    """Accuracy of the nearest class mean in one episode."""
    mean, x = vectors[support].mean(1), vectors[query]
    distance = (mean**2).sum(1) - 2 * x @ mean.T
    return float((distance.argmin(1) == np.repeat(np.arange(WAYS), len(query) // WAYS)).mean())


def draw_any(
    rng: np.random.Generator, members: list[np.ndarray], groups: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Shots and queries of each class of one episode, as `any_way_any_shot` counts them."""
    while True:
        chosen = rng.permutation(len(members))[: rng.integers(5, len(members) + 1)]
        sizes = np.array([len(members[c]) for c in chosen])
        queries = min(10, max(1, int(sizes.min()) // 2))
        left = sizes - queries
        total = min(500, np.ceil((1 - rng.random()) * np.minimum(100, left)).sum())
        share = np.exp(rng.uniform(np.log(0.5), np.log(2), len(chosen))) * sizes
        counts = np.floor(share / share.sum() * max(0, total - len(chosen))).astype(int) + 1
        counts = np.minimum(np.minimum(counts, left), 100)
        for _ in range(TRIES):
            drawn = []
            for c, k in zip(chosen, counts, strict=True):
                order = rng.permutation(members[c])
                apart = order[~np.isin(groups[order], groups[order[:k]])]
                if len(apart) < queries:
                    break
                drawn.append((order[:k], apart[:queries]))
            else:
                return drawn


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it gave, and its processor seconds."""
    seconds = []
    for _ in range(3):
        begun = time.process_time()
        result = call()
        seconds.append(time.process_time() - begun)
    return result, min(seconds)


def measure() -> Iterator[dict[str, Any]]:
    """Rows per vector size and number of shots."""
    torch.set_num_threads(1)
    with threadpool_limits(1), TemporaryDirectory() as folder:
        for dim in (512, 2048):
            path = Path(folder) / str(dim)
            testing.fill(path, clips=CLIPS, rows=4, dim=dim, classes=CLASSES)
            for shots in (1, 5):
                yield against_the_loop(path, dim, shots)
            yield in_one_call(path, dim, modes=("v",), heads=("prototypes",), shots=(1,))
            yield in_one_call(path, dim, modes=(), heads=HEADS, shots=(1, 5))
    yield drawn_any_way()


def against_the_loop(path: Path, dim: int, shots: int) -> dict[str, Any]:
    fs = store.open(path)
    clips = load_clips(fs.manifest(), split="test", label="label")
    (feature,) = (fs[name] for name in fs.features if fs[name].modality == "visual")
    vectors = load_rows(feature, clips.ids).means()
    pair = Pair(support=vectors, query=vectors, modality_dims=(dim,))
    head = plugins.build("learn.fewshot.heads", "prototypes")
    asked = {"ways": WAYS, "shots": shots, "queries": QUERIES, "episodes": EPISODES}
    rng = np.random.default_rng(0)

    def ours() -> tuple[Episodes, np.ndarray]:
        drawn = plugins.build("learn.fewshot.tasks", plugins.Spec("n_way_k_shot", asked))(
            clips, seed=0
        )
        context = Context(modality_dims=(dim,), origin=vectors.mean(0))
        predictions = scorer(head, pair, context, queries=drawn.query.size)(drawn)
        return drawn, accuracies(drawn, predictions)

    def loop() -> list[float]:
        x, class_ids, groups = vectors.numpy(), clips.class_ids, clips.groups
        return [score(x, *draw(rng, class_ids, groups, shots)) for _ in range(LOOPED)]

    (drawn, accuracy), seconds = timed(ours)
    _, theirs = timed(loop)
    same = [score(vectors.numpy(), drawn.support[i], drawn.query[i]) for i in range(LOOPED)]
    alike = float((np.abs(np.array(same) - accuracy[:LOOPED]) < 1e-9).mean())
    each = theirs / LOOPED
    return {
        "what": f"draw, score by prototypes, {shots}-shot, {dim}-d",
        "value": seconds,
        "unit": "s",
        "ratio": each * EPISODES / seconds,
        "against": f"numpy loop, {1e3 * each:.3g} ms an episode; {alike:.1%} of episodes alike",
        "goal": 20 if shots == 1 else None,
    }


def collection() -> Clips:
    """Clips like those of a collection of actions: many groups of few clips in every class."""
    rng = np.random.default_rng(0)
    class_ids = np.arange(3543, dtype=np.int32) % 26
    return Clips(
        ids=tuple(f"{i:04}" for i in range(len(class_ids))),
        class_ids=class_ids,
        classes=tuple(f"class{c:02}" for c in range(26)),
        groups=(25 * class_ids + rng.integers(0, 25, len(class_ids))).astype(np.int32),
        split="test",
    )


def drawn_any_way() -> dict[str, Any]:
    """Drawing alone, of any ways and shots."""
    clips, rng = collection(), np.random.default_rng(0)
    task = plugins.build("learn.fewshot.tasks", "any_way_any_shot")
    members = [np.flatnonzero(clips.class_ids == c) for c in range(26)]
    _, seconds = timed(lambda: task(clips, seed=0))
    _, theirs = timed(lambda: [draw_any(rng, members, clips.groups) for _ in range(ANY_LOOPED)])
    each = theirs / ANY_LOOPED
    return {
        "what": "draw any ways and shots",
        "value": seconds,
        "unit": "s",
        "ratio": each * EPISODES / seconds,
        "against": f"numpy loop, {1e3 * each:.3g} ms an episode",
        "goal": 10,
    }


def in_one_call(
    path: Path, dim: int, *, modes: tuple[str, ...], heads: tuple[str, ...], shots: tuple[int, ...]
) -> dict[str, Any]:
    """All rows share the reading, the drawing and the vectors."""
    result, seconds = timed(
        lambda: learn.run_episodes(
            path, ways=WAYS, queries=QUERIES, episodes=EPISODES, support=modes, heads=heads,
            shots=shots,
        )
    )  # fmt: skip
    return {
        "what": f"the whole call, {len(result.results)} rows, {dim}-d",
        "value": seconds,
        "unit": "s",
        "ratio": None,
        "against": None,
        "goal": None,
    }


if __name__ == "__main__":
    show(measure())
