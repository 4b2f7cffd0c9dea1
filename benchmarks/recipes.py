"""What every recipe is worth on classes that training never saw, on real clips.

    MICROSHOT_MEDIA=… MICROSHOT_WEIGHTS=… python -m benchmarks recipes
    python -m benchmarks.recipes --only infonce avid

Two tests, both with real MobileNetV2 and YAMNet features, groups kept apart:
composed   trained on one half of the classes of `av_composed`, asked about the other, both ways
action     trained on all of `av_composed`, asked about the classes of `ucf101_av` with sound

Every recipe is trained as it stands, with its own settings; names of classes are sentence
embeddings (extra `text`), or vectors of a file (`--names`). Figures are percent, 5-way, by the
default head: the run's vectors bare, and guarded by stored vectors; of a run that was trained with
a head in episodes that head's, too. Differences are paired: the same episodes, stored vectors by
the default head.
"""

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import learn
import store
from benchmarks._table import show
from extract.pipeline import run as extraction
from learn.training.objectives._episodic import Episodic
from learn.training.runs import load_run

MODES = {"visual": "v", "audio": "a", "av": "av"}
VISUAL = "mobilenet_v2_int8_dequantised.safetensors"
AUDIO = "yamnet_int8_dequantised.safetensors"
ASKED = {"ways": 5, "shots": (1, 2, 5), "queries": 3, "episodes": 2000}


def stores(folder: Path) -> dict[str, Path]:
    """The features, extracted where they are not there yet."""
    media, weights = (Path(os.environ[f"MICROSHOT_{n}"]) for n in ("MEDIA", "WEIGHTS"))
    found = {}
    for name in ("av_composed", "ucf101_av"):
        found[name] = folder / name
        extraction.run(
            media / name / "manifest.csv",
            found[name],
            visual=(f"mobilenetv2:weights={weights / VISUAL}",),
            audio=(f"yamnet:weights={weights / AUDIO}",),
        )
    return found


def halves(store_path: Path, folder: Path) -> list[Path]:
    """Manifests that train on every second class and test the others, and the reverse."""
    table = store.open(store_path).manifest()
    labels, groups = table.column("label"), table.column("group")
    names = sorted(set(labels))
    found = []
    for kept in (names[::2], names[1::2]):
        path = folder / f"train_{kept[0]}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "clip_id", "label", "group", "split"])
            for i, clip_id in enumerate(table.clip_ids):
                split = "train" if labels[i] in kept else "test"
                row = [table.paths[i], clip_id, labels[i], groups[i], split]
                writer.writerow(row)
        found.append(path)
    return found


def asked(store_path: Path, run: Path, modes: Sequence[str], **how: Any) -> dict[Any, np.ndarray]:
    """Accuracy of every episode by projection, mode and shots."""
    trained = load_run(run)
    outputs = {MODES[name] for name in trained.space.outputs}
    offered = [m for m in modes if m in outputs or (m == "av" and len(outputs) == 2)]
    both = learn.run_episodes(
        store_path, projections=("none", run), guard="both", support=offered, **ASKED, **how
    ).results
    kinds = {"": "none", "on": "guarded", "off": "bare"}
    found = {(kinds[row.guard], row.support, row.shots): row.of_episodes for row in both}
    if isinstance(trained.objective, Episodic):
        rows = learn.run_episodes(
            store_path, heads=("own",), projections=(run,), support=offered, **ASKED, **how
        ).results
        found |= {("own", row.support, row.shots): row.of_episodes for row in rows}
    return found


def scored(name: str, found: Sequence[dict[Any, np.ndarray]], seconds: float, test: str) -> Any:
    """A row for every mode and number of shots, over all folds."""
    for kind, mode, shots in [key for key in found[0] if key[0] != "none"]:
        ours, raw = (
            100 * np.concatenate([one[of, mode, shots] for one in found]) for of in (kind, "none")
        )
        gain = ours - raw
        half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
        width = 1.96 * ours.std(ddof=1) / len(ours) ** 0.5
        yield {
            "what": f"{name}, {test}, {mode}, {shots}-shot, {kind}",
            "value": ours.mean(),
            "unit": "%",
            "ratio": None,
            "against": f"± {width:.1f}; raw {raw.mean():.1f}, paired {gain.mean():+.1f} "
            f"± {half:.1f}; trained in {seconds:.0f} s",
            "goal": (raw.mean() - (0.5 if shots == 5 else 1)) if kind == "guarded" else None,
        }


def missing(benchmark: str) -> dict[str, Any] | None:
    """The row that says that there is nothing to measure on; None if there is."""
    if {"MICROSHOT_MEDIA", "MICROSHOT_WEIGHTS"} <= set(os.environ):
        return None
    return {
        "what": f"{benchmark}: MICROSHOT_MEDIA or MICROSHOT_WEIGHTS is not set",
        "value": float("nan"), "unit": "", "ratio": None, "against": None, "goal": None,
    }  # fmt: skip


def measure(
    only: Sequence[str] = (), folder: str | None = None, names: str | None = None
) -> Iterator[dict[str, Any]]:
    if absent := missing("recipes"):
        yield absent
        return
    with tempfile.TemporaryDirectory() as scratch:
        where = stores(Path(folder or scratch))
        folds = halves(where["av_composed"], Path(scratch))
        vectors = Path(names or Path(scratch, "names.csv"))
        if names is None:
            learn.make_labels(where["av_composed"], vectors)
        named = (f"data.labels={vectors}",)
        for recipe in learn.recipes():
            name = recipe["name"]
            if only and name not in only:
                continue
            begun, found = time.perf_counter(), []
            for number, manifest in enumerate(folds):
                run = Path(scratch, f"{name}-{number}")
                learn.train(
                    where["av_composed"], name, settings=named, run_dir=run, manifest=manifest
                )
            seconds = (time.perf_counter() - begun) / len(folds)
            for number, manifest in enumerate(folds):
                run = Path(scratch, f"{name}-{number}")
                found.append(asked(where["av_composed"], run, ("v", "a", "av"), manifest=manifest))
            yield from scored(name, found, seconds, "composed")
            run = Path(scratch, f"{name}-all")
            begun = time.perf_counter()
            every = (*named, "data.split=all")
            learn.train(where["av_composed"], name, run_dir=run, settings=every)
            seconds = time.perf_counter() - begun
            found = [asked(where["ucf101_av"], run, ("v", "a", "av"), split="all")]
            yield from scored(name, found, seconds, "action")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--folder", help="Keep the features here.")
    parser.add_argument("--names", help="A table of vectors of class names.")
    show(measure(**vars(parser.parse_args())))
