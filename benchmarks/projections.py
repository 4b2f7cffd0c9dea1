"""What trained projections give on classes that training never saw, against stored rows.

    MICROSHOT_MEDIA=… python -m benchmarks projections
    python -m benchmarks.projections --splits 3 --only whiten protonet

Real sound: 3,543 Cnn14 embeddings of 26 classes (`features_ucf51_cnn14`), in ten random splits of
16 train, 4 val and 6 test classes (`--train 20 --val 0`: 20 and 6); groups kept apart, 5-way, 5
queries a class. A difference is of the same 1,000 episodes, answered by the default head from a
run's vectors, bare and guarded by stored rows, and from stored rows alone; its mean, deviation and
worst case are over splits. `before` is a recipe as it was: a perceptron into 128 dimensions from a
random start, and nothing that tells a bad epoch from a good one.
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
from store.exchange.exchange import import_

SPLITS, TRAIN, VAL, TEST = 10, 16, 4, 6
BEFORE = (
    "projection.name=mlp", "projection.residual=false", "projection.dim_out=128",
    "projection.dropout=0.1", "optimiser.watch=split", "optimiser.learning_rate=1e-3",
    "optimiser.weight_decay=1e-4",
)  # fmt: skip
TRAININGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "whiten": ("whiten", ()),
    "protonet": ("protonet", ()),
    "protonet, before": ("protonet", BEFORE),
    "supcon": ("supcon", ()),
    "supcon, before": ("supcon", BEFORE),
    "cross_entropy": ("cross_entropy", ()),
}
ASKED: dict[str, Any] = {"ways": 5, "shots": (1, 5), "queries": 5, "episodes": 1000}


def split(store_path: Path, seed: int, path: Path, train: int, val: int) -> Path:
    """A manifest in which random classes are train, val and test; the rest is left out."""
    table = store.open(store_path).manifest()
    names = sorted(set(table.column("label")))
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    splits = ["train"] * train + ["val"] * val + ["test"] * TEST
    of_class = dict(zip(order, splits, strict=False))
    columns = [table.paths, table.clip_ids, table.column("label"), table.column("group")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "clip_id", "label", "group", "split"])
        for row in zip(*columns, strict=True):
            if row[2] in of_class:
                writer.writerow([*row, of_class[row[2]]])
    return path


def differences(
    store_path: Path, manifest: Path, run: Path
) -> dict[tuple[int, str], tuple[float, float]]:
    """Stored accuracy and the run's difference from it in points, by shots and guard (on, off), on
    the test classes."""
    rows = learn.run_episodes(
        store_path, manifest=manifest, projections=("none", run), guard="both", **ASKED
    ).results
    of = {(row.shots, row.guard): 100 * row.accuracy for row in rows}
    return {key: (of[key[0], ""], of[key] - of[key[0], ""]) for key in of if key[1]}


def measure(
    only: Sequence[str] = (), splits: int = SPLITS, train: int = TRAIN, val: int = VAL
) -> Iterator[dict[str, Any]]:
    if "MICROSHOT_MEDIA" not in os.environ:
        yield {
            "what": "projections: MICROSHOT_MEDIA is not set",
            "value": float("nan"), "unit": "", "ratio": None, "against": None, "goal": None,
        }  # fmt: skip
        return
    source = Path(os.environ["MICROSHOT_MEDIA"]) / "features_ucf51_cnn14" / "features.npz"
    with tempfile.TemporaryDirectory() as scratch:
        fs = Path(scratch, "cnn14")
        import_("npz:values=audio,clip_id=clip,modality=audio,name=cnn14", source, fs)
        manifests = [
            split(fs, seed, Path(scratch, f"{seed}.csv"), train, val) for seed in range(splits)
        ]
        for name, (recipe, settings) in TRAININGS.items():
            if only and name not in only:
                continue
            begun, found, verdicts = time.perf_counter(), [], []
            for seed, manifest in enumerate(manifests):
                run = Path(scratch, f"{name}-{seed}")
                done = learn.train(fs, recipe, settings=settings, run_dir=run, manifest=manifest)
                verdicts.append(done.against_stored["verdict"])
                found.append(differences(fs, manifest, run))
            seconds = (time.perf_counter() - begun) / len(manifests)
            said = ", ".join(f"{v} {verdicts.count(v)}" for v in sorted(set(verdicts)))
            for shots in ASKED["shots"]:
                for guard, called in (("off", "bare"), ("on", "guarded")):
                    stored, gains = np.array([of_split[shots, guard] for of_split in found]).T
                    yield {
                        "what": f"{name}, {called}, {shots}-shot less stored, {splits} splits",
                        "value": gains.mean(),
                        "unit": "points",
                        "ratio": None,
                        "against": f"sd {gains.std(ddof=1) if splits > 1 else 0:.1f}, worst "
                        f"{gains.min():+.1f}; stored {stored.mean():.1f} %; val says {said}; "
                        f"{seconds:.0f} s a split",
                        "goal": 0.0 if called == "guarded" else None,
                    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=(), help="Some of the trainings.")
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--train", type=int, default=TRAIN, help="Classes to train on.")
    parser.add_argument("--val", type=int, default=VAL, help="Classes to validate on.")
    show(measure(**vars(parser.parse_args())))
