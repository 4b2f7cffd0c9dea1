"""What each recipe of `learn finetune` gives from random weights, what real weights gain from real
clips, and how fast training is.

    python -m benchmarks finetune
    python -m benchmarks.finetune --only supervised --folder rendered
    MICROSHOT_MEDIA=… MICROSHOT_WEIGHTS=… python -m benchmarks.finetune --only real

Gains are points of few-shot accuracy, 5 ways, before against after, on the same episodes of
classes that training lacks. The clips are 2,000 rendered ones of 40 classes: 24 of them teach, ten
are asked about; frames have 96 pixels. Every recipe has as many epochs as a few minutes of one core
allow. `real` trains on every second class of real clips and asks about the others, both ways.
Speed is against the bare steps of the same network on frames that are in memory already: forward,
backward, AdamW.

All of it takes three quarters of an hour on two cores that have nothing else to do.
"""

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks._table import show
from extract.datasets import synth
from extract.trainable.network import load

CLASSES, CLIPS = 40, 50
SIGHT = "simclrv2:variant=r50_1x_sk0,narrow=8,side=96,untrained"
SOUND = "panns:cnn6,narrow=8,window_seconds=1,untrained"
PATCHES = "mae:width=192,depth=6,side=96,pool=mean,untrained"
SMALL_DECODER = ("masked.width=128", "masked.depth=2", "masked.heads=4")
WARM = "optimiser.warmup_epochs=1"
RECIPES = {  # encoders, changes, points wanted
    "supervised": ({"visual": SIGHT}, ("optimiser.epochs=5",), 15),
    "end_to_end": ({"visual": SIGHT}, ("optimiser.epochs=5",), 15),
    "simclrv2_unlabelled": ({"visual": SIGHT}, ("optimiser.epochs=6", WARM), 5),
    "two_tower_pixels": ({"visual": SIGHT, "audio": SOUND}, ("optimiser.epochs=5", WARM), 5),
    "audio_unlabelled": ({"audio": SOUND}, ("optimiser.epochs=5", WARM), 5),
    "mae_unlabelled": (
        {"visual": PATCHES}, ("optimiser.epochs=10", "masked.normalise=false", *SMALL_DECODER), 5,
    ),
}  # fmt: skip
GENTLE = (
    "optimiser.epochs=4", "optimiser.learning_rate=1e-4", "optimiser.frozen=0.5",
    "optimiser.statistics=frozen",
)  # fmt: skip
REAL = ("av_composed", "ucf101_av")  # collections of real clips
YAMNET = "yamnet_int8_dequantised.safetensors"
PARTS = (*RECIPES, "speed", "real")
GOAL = 0.85


def measure(
    parts: Sequence[str] = PARTS, folder: Path | None = None, seeds: int = 1
) -> Iterator[dict]:
    """Rows for every recipe, the speed of the first, and real clips where there are some."""
    with tempfile.TemporaryDirectory() as temporary:
        clips, runs = (folder or Path(temporary)) / "clips", Path(temporary)
        if not clips.is_dir() and set(parts) - {"real"}:
            synth.render(clips, classes=CLASSES, clips=CLIPS)
        for name in parts:
            if name in RECIPES:
                encoders, changes, goal = RECIPES[name]
                made = [
                    trained(clips, name, encoders, changes, runs / f"{name}-{seed}", seed)
                    for seed in range(seeds)
                ]
                minutes = sum(seconds for _, seconds in made) / 60 / seeds
                results = [result for result, _ in made]
                yield from gains(name, results, goal, f"{minutes:.1f} processor minutes")
            elif name == "speed":
                yield speed(clips, runs)
            elif "MICROSHOT_MEDIA" in os.environ and "MICROSHOT_WEIGHTS" in os.environ:
                for collection in REAL:
                    yield from of_real(collection, runs)


def gains(name: str, results: Sequence[dict], goal: float | None, told: str) -> Iterator[dict]:
    """A row for every mode and number of shots, over all trainings alike."""
    for rows in zip(*(result["gains"] for result in results), strict=True):
        before, after = (100 * sum(row[k] for row in rows) / len(rows) for k in ("before", "after"))
        width = 100 * sum(row["ci95"] ** 2 for row in rows) ** 0.5 / len(rows)
        each = ", ".join(f"{100 * (row['after'] - row['before']):+.1f}" for row in rows)
        yield {
            "what": f"{name}: {rows[0]['mode']} {rows[0]['shots']}-shot, {rows[0]['ways']}-way, "
            f"{before:.1f} → {after:.1f} %, {told}",
            "value": after - before, "unit": "points", "ratio": None,
            "against": f"± {width:.1f}" + (f" ({each})" if len(rows) > 1 else ""),
            "goal": goal if rows[0]["mode"] != "av" else None,
        }  # fmt: skip


def trained(
    clips: Path,
    recipe: str,
    encoders: dict[str, str],
    changes: Sequence[str],
    run: Path,
    seed: int = 0,
) -> tuple[dict, float]:
    """The result of one training, by the command, and what it took of a core in seconds."""
    words = [word for modality, spec in encoders.items() for word in (f"--{modality}", spec)]
    words += [word for change in ("data.val_split=test", *changes) for word in ("--set", change)]
    command = [sys.executable, "-m", "learn", "finetune", str(clips), "--recipe", recipe, *words,
               "--memory", "3GiB", "--seed", str(seed), "-o", str(run), "--json"]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode not in (0, 1):  # 1: some clips could not be learnt from
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout), seconds


def of_real(collection: str, folder: Path) -> Iterator[dict]:
    """The gains of weights of ImageNet and AudioSet on classes that training lacks: every second
    one of a collection, and then the others."""
    media, weights = (Path(os.environ[f"MICROSHOT_{n}"]) for n in ("MEDIA", "WEIGHTS"))
    sound = f"yamnet:weights={weights / YAMNET}"
    clips = folder / collection
    shutil.copytree(media / collection, clips)  # a manifest names what lies below it
    for modality, spec in {"visual": "efficientnet_lite:side=96", "audio": sound}.items():
        results, seconds = [], 0.0
        for half in (0, 1):
            table, run = halves(clips, half), folder / f"{collection}-{modality}-{half}"
            result, took = trained(table, "supervised", {modality: spec}, GENTLE, run)
            results.append(result)
            seconds += took
        yield from gains(
            f"real weights, {collection}", results, None, f"{seconds / 60:.1f} processor minutes"
        )


def halves(collection: Path, half: int) -> Path:
    """A manifest whose train split has every second class, and its test split the others."""
    with (collection / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = sorted({row["label"] for row in rows})[half::2]
    path = collection / f"half_{half}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "group", "split"])
        for row in rows:
            split = "train" if row["label"] in kept else "test"
            writer.writerow([row["path"], row["label"], row["group"], split])
    return path


def speed(clips: Path, folder: Path) -> dict:
    """Frames a second of training, and of bare steps in turns with it."""
    one = ("optimiser.epochs=2", "optimiser.warmup_epochs=0")
    before = bare()
    result, _ = trained(clips, "supervised", {"visual": SIGHT}, one, folder / "speed")
    rate = (before + bare()) / 2
    return {
        "what": "supervised: frames learnt from", "value": result["frames_per_second"],
        "unit": "1/s", "ratio": result["frames_per_second"] / rate,
        "against": f"bare steps, {rate:.0f}/s", "goal": GOAL,
    }  # fmt: skip


def bare(batch: int = 64, steps: int = 12) -> float:
    """Frames a second of bare steps, as many frames in each as the recipe's."""
    learner = load(SIGHT, "visual")
    head = torch.nn.Linear(learner.dim, 12)
    optimiser = torch.optim.AdamW([*learner.module.parameters(), *head.parameters()])
    learner.module.train()
    x = torch.rand(batch, 3, learner.side, learner.side)
    labels = torch.arange(batch) % 12
    for step in range(steps):
        if step == 2:
            begun = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(head(learner.forward(x)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return batch * (steps - 2) / (time.perf_counter() - begun)


def main() -> None:
    """Show a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--folder", type=Path, help="Keep the rendered clips here.")
    parser.add_argument("--seeds", type=int, default=1, help="Train each recipe so many times.")
    asked = parser.parse_args()
    show(measure(asked.only, asked.folder, asked.seeds))


if __name__ == "__main__":
    main()
