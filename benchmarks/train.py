"""Training: steps a second against the bare forward and backward pass on resident tensors.

    python -m benchmarks train

The bare loop has the same modules and the same optimiser, and every batch lies padded in memory as
float32. Ours gathers each batch from cached float16 rows, or from means that it takes of them once
where the projection looks at nothing else, in an order of its own each epoch, and writes metrics
and checkpoints. Where means suffice a second bare loop has every batch of means in memory: what is
left to win. All in turn, the best of several trainings each, by the clock; the machine should be
quiet. Then the same split streamed, at half its size in memory.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks._table import show
from learn.data.batching import cut
from learn.data.devices import CPU
from learn.models.embedder import Embedder
from learn.training import row_means, runs
from learn.training.dataset import TrainingData, load_setup
from learn.training.loop import Trainer
from learn.training.objectives import Batch
from learn.training.optimisers import make_optimiser
from learn.training.recipe import Recipe, load
from store import testing

CLIPS, ROWS, DIM, BATCH = 2048, 10, 1024, 256
GOAL, STREAMED_GOAL = 0.9, 0.6
EPOCHS, ROUNDS = {"linear": 10, "mlp": 10, "transformer": 2}, 3
RECIPE = f"""
[projection]
name = "{{name}}"
dim_out = 128
[objective]
name = "infonce"
[optimiser]
batch_size = {BATCH}
epochs = {{epochs}}
watch = "none"
"""


def measure(names: Sequence[str] = tuple(EPOCHS)) -> Iterator[dict[str, Any]]:
    """Rows by threads, projection, and where the rows are."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        testing.fill(path, clips=2 * CLIPS, rows=ROWS, dim=DIM, ragged=False, classes=16)
        for threads in dict.fromkeys((1, torch.get_num_threads())):
            torch.set_num_threads(threads)
            for name in names:
                yield row(path, Path(folder), name, "8GiB", threads)
        size = CLIPS * ROWS * (2 * DIM + 4) * 2
        for name in names:
            yield row(path, Path(folder), name, str(size // 2), threads)


def row(path: Path, folder: Path, name: str, memory: str, threads: int) -> dict[str, Any]:
    """Both loops of one projection."""
    file = folder / f"{name}.toml"
    file.write_text(RECIPE.format(name=name, epochs=EPOCHS[name]))
    recipe = load(file, (f"data.memory={memory}",))
    data, whole = (load_setup(path, None, r).data for r in (recipe, load(file)))
    kind = "streamed" if data.disk_blocks else "in memory"
    steps = recipe.stages[0].optimiser.epochs * len(cut(torch.arange(len(data.clips)), BATCH))
    ours, bare, of_means = [], [], []
    plain = bare_epoch(recipe, whole)
    plain_of_means = bare_epoch(recipe, with_means(recipe, whole))
    for turn in range(ROUNDS):
        bare.append(timed(plain))
        ours.append(timed(trainer(recipe, data, folder / f"{name}-{kind}-{threads}-{turn}").run))
        of_means.append(timed(plain_of_means))
    taken = with_means(recipe, data).means
    beside = f"; {min(of_means) / min(ours):.2f} of the same on means" if taken else ""
    return {
        "what": f"training, {name}, {kind}, batch {BATCH}, {threads} threads",
        "value": steps / min(ours),
        "unit": "steps/s",
        "ratio": min(bare) / min(ours),
        "against": f"forward and backward on resident tensors{beside}",
        "goal": STREAMED_GOAL if data.disk_blocks else GOAL,
    }


def timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def parts(recipe: Recipe, data: TrainingData) -> tuple[Embedder, Any]:
    torch.manual_seed(0)
    dims = {m: rows.dim for m, rows in data.rows.items()}
    space = Embedder(recipe.projection, recipe.network, dims)
    objective = runs.build_objective(
        recipe.stages[0], space, dims=dims, classes=data.clips.classes, clips=len(data.clips),
        known=None, states={},
    )  # fmt: skip
    return space, objective


def with_means(recipe: Recipe, data: TrainingData) -> TrainingData:
    """The clips as a training has them: with means where these suffice."""
    space, _ = parts(recipe, data)
    return row_means.with_means(space, recipe.stages, data, None)[0]


def trainer(
    recipe: Recipe, data: TrainingData, run_dir: Path, device: torch.device = CPU
) -> Trainer:
    space, objective = parts(recipe, data)
    run_dir.mkdir()
    return Trainer(
        run_dir=run_dir, embedder=space, stages=recipe.stages, objectives=[objective], states={},
        data=data.to(device), val=None, watches={}, seed=0, device=device,
    )  # fmt: skip


def bare_epoch(
    recipe: Recipe, data: TrainingData, device: torch.device = CPU
) -> Callable[[], None]:
    """All batches of an epoch, in memory as the network takes them."""
    data = data.to(device)
    space, objective = (part.to(device) for part in parts(recipe, data))
    labels = torch.from_numpy(data.clips.class_ids).long().to(device)
    every = cut(torch.arange(len(data.clips)), BATCH)
    ready = [(places.to(device), data.inputs(places)) for places in every]
    learning = dict(space.named_parameters()) | dict(objective.named_parameters())
    optimiser = make_optimiser(recipe.stages[0].optimiser, learning)
    space.train()

    def run() -> None:
        for places, inputs in ready * recipe.stages[0].optimiser.epochs:
            embeddings = space(inputs)
            batch = Batch(
                embeddings=embeddings,
                labels=labels[places],
                clips=places,
                inputs=inputs,
                present={m: x.mask.any(1) for m, x in inputs.items()},
                copies=(embeddings,),
                seed=0,
            )
            loss = torch.stack(list(objective.terms(batch).values())).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", nargs="*", default=tuple(EPOCHS))
    show(measure(**vars(parser.parse_args())))
