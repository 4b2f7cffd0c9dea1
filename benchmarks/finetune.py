"""What each recipe of `learn finetune` gives from random weights, and how fast it learns.

Gains are points of few-shot accuracy of one sense, 5 ways, on five classes of rendered clips that
training lacks, before against after. Speed is against the bare steps of the same network on frames
that are in memory already: forward, backward, AdamW.

`python -m benchmarks finetune` takes a quarter of an hour on two cores.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from extract.datasets import synth
from extract.trainable.network import load

SIGHT = "simclrv2:variant=r50_1x_sk0,narrow=4,side=64,untrained"
SOUND = "yamnet:untrained"
PATCHES = "mae:width=192,depth=6,side=64,untrained"
SMALL_DECODER = ("masked.width=128", "masked.depth=2", "masked.heads=4")
RECIPES = {  # encoders, changes, points wanted
    "supervised": ({"visual": SIGHT}, (), 15),
    "end_to_end": ({"visual": SIGHT}, (), 15),
    "simclrv2_unlabelled": ({"visual": SIGHT}, (), 5),
    "two_tower_pixels": ({"visual": SIGHT, "audio": SOUND}, (), 5),
    "audio_unlabelled": ({"audio": SOUND}, (), 5),
    "mae_unlabelled": ({"visual": PATCHES}, SMALL_DECODER, 5),
}
GOAL = 0.85


def measure() -> Iterator[dict]:
    """Rows for every recipe, then for the speed of the first."""
    with tempfile.TemporaryDirectory() as folder:
        clips = Path(folder) / "clips"
        synth.render(clips, classes=20, clips=18)
        for name, (encoders, changes, goal) in RECIPES.items():
            result = trained(clips, name, encoders, changes, Path(folder) / name)
            for row in result["gains"]:
                if row["mode"] != "av":
                    before, after = 100 * row["before"], 100 * row["after"]
                    yield {
                        "what": f"{name}: {row['mode']} {row['shots']}-shot, {before:.1f} → "
                        f"{after:.1f} % in {result['seconds'] / 60:.1f} min",
                        "value": 100 * row["difference"], "unit": "points", "ratio": None,
                        "against": f"± {100 * (row['ci95'] or 0):.1f}", "goal": goal,
                    }  # fmt: skip
            if name == "supervised":
                rate = bare()
                yield {
                    "what": "supervised: frames learnt from", "value": result["frames_per_second"],
                    "unit": "1/s", "ratio": result["frames_per_second"] / rate,
                    "against": f"bare steps, {rate:.0f}/s", "goal": GOAL,
                }  # fmt: skip


def trained(
    clips: Path, recipe: str, encoders: dict[str, str], changes: tuple[str, ...], run: Path
) -> dict:
    """The result of one training, by the command."""
    words = [word for modality, spec in encoders.items() for word in (f"--{modality}", spec)]
    words += [word for change in ("data.val_split=test", *changes) for word in ("--set", change)]
    command = [sys.executable, "-m", "learn", "finetune", str(clips), "--recipe", recipe, *words,
               "-o", str(run), "--json"]  # fmt: skip
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


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
