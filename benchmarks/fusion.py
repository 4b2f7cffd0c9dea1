"""What two senses are worth together, by every fusion, on real clips.

    MICROSHOT_MEDIA=… MICROSHOT_WEIGHTS=… python -m benchmarks fusion
    python -m benchmarks.fusion --folder FEATURES --only fusions

Real MobileNetV2 and YAMNet features of `av_composed` and `ucf101_av`, 5-way, 3 queries, groups
apart, 2,000 episodes; everything is scored on the same saved episodes, and gains are paired.

    fusions   v, a and av by the old default (prototypes, early), by every fusion under the default
              head, and by its weights without a prior
    noise     the same with noise in place of sound or of sight, drawn once
    heads     what the default head was chosen from
    halves    weights that begin at the other half of the composed classes
    cost      weighted fusion of prototypes against the joined vector, processor time
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import learn
from benchmarks._table import show
from benchmarks.recipes import halves, missing, stores
from learn.data import evaluation_set
from learn.data.rows import Rows
from learn.fewshot.default_head import NAME
from learn.fewshot.fused import FusedPredictor
from learn.fewshot.fusions import Prior
from learn.fewshot.heads import Context
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import scorer
from learn.fewshot.tasks import Episodes
from store import plugins

SHOTS = {"av_composed": (1, 2, 3, 5, 8), "ucf101_av": (1, 2, 3, 5)}
ASKED = {"ways": 5, "queries": 3, "episodes": 2000}
OLD = ("prototypes", "early")
FUSIONS = ("weighted", "weighted:prior=equal", "late", "early")
STEPS = "power=0.5,centre=support,unit=true"
HEADS = (
    "prototypes", f"prototypes:{STEPS}", "prototypes:metric=cl2n,centre=support", "ridge:unit=true",
    f"ridge:{STEPS}", f"ridge:alpha=0.3,{STEPS}", f"logistic:{STEPS}", f"gda:{STEPS}",
)  # fmt: skip
PARTS = ("fusions", "noise", "heads", "halves", "cost")
Scores = dict[tuple[str, str, str, int], np.ndarray]  # by head, mode, fusion and shots


def scores(path: Path, kept: Path, **asked: Any) -> tuple[Scores, Any]:
    """Accuracy of every episode, on episodes that are drawn once."""
    if kept.is_file():
        asked = {**asked, "episodes_file": kept}
    else:
        asked = {**ASKED, **asked, "save_episodes": kept}
    result = learn.run_episodes(path, **asked)
    found = {(r.head, r.support, r.fusion, r.shots): r.of_episodes for r in result.results}
    return found, result


def row(
    what: str, ours: np.ndarray, base: np.ndarray, named: str, more: str = ""
) -> dict[str, Any]:
    """Accuracy in percent, and the paired difference in points."""
    gain = 100 * (ours - base)
    half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
    return {
        "what": what,
        "value": 100 * ours.mean(),
        "unit": "%",
        "ratio": None,
        "against": f"{named} {100 * base.mean():.1f}, paired {gain.mean():+.1f} ± {half:.1f}{more}",
        "goal": None,
    }


def weights(result: Any, fusion: str, shots: int) -> str:
    """How much sight counted."""
    chosen = next(
        (r for r in result.results if (r.fusion, r.shots) == (fusion, shots) and r.weights), None
    )
    if chosen is None:
        return ""
    first = next(iter(chosen.weights.values()))
    return f"; sight {first['mean']:.2f} ± {first['sd']:.2f}"


def fusions(
    name: str,
    path: Path,
    kept: Path,
    *,
    kinds: Sequence[str] = FUSIONS,
    what: str = "",
    **asked: Any,
) -> Iterator[Any]:
    """Every fusion against the better of both senses alone, and the old default."""
    asked = {"shots": SHOTS[name], "split": "all", **asked}
    old, _ = scores(path, kept, heads=OLD[:1], fusions=OLD[1:], **asked)
    new, result = scores(path, kept, heads=(NAME,), fusions=kinds, **asked)
    for shots in asked["shots"]:
        title = f"{name}{what}, {shots}-shot"
        alone = {}
        for mode in ("v", "a"):
            before = old[OLD[0], mode, "", shots]
            alone[mode] = next(x for k, x in new.items() if k[1:] == (mode, "", shots))
            yield row(f"{title}, {mode}", alone[mode], before, "old")
        best = max(alone, key=lambda mode: float(alone[mode].mean()))
        before = old[OLD[0], "av", "early", shots]
        yield row(f"{title}, av, old default", before, alone[best], f"{best} alone")
        for fusion in kinds:
            ours = next(x for k, x in new.items() if k[1:] == ("av", fusion, shots))
            more = f"; old {100 * (ours - before).mean():+.1f}{weights(result, fusion, shots)}"
            yield row(f"{title}, av, {fusion}", ours, alone[best], f"{best} alone", more)


def noisy(modality: str) -> Callable[..., Mapping[str, Rows]]:
    """A loader of rows in which one modality is noise, the same in every call."""
    real = evaluation_set.load_rows

    def load(feature: Any, ids: Sequence[str]) -> Rows:
        rows = real(feature, ids)
        if feature.modality != modality:
            return rows
        drawn = torch.randn(rows.values.shape, generator=torch.Generator().manual_seed(1)).abs()
        return replace(rows, values=drawn.to(rows.values))

    return load


def noise(name: str, path: Path, kept: Path, **asked: Any) -> Iterator[Any]:
    """Noise in place of one sense: what the other loses by it."""
    for modality, called in (("audio", "sound"), ("visual", "sight")):
        with mock.patch.object(evaluation_set, "load_rows", noisy(modality)):
            what = f", {called} is noise"
            yield from fusions(name, path, kept, kinds=FUSIONS[:2], what=what, **asked)


def heads(name: str, path: Path, kept: Path) -> Iterator[Any]:
    """The heads that the default was chosen from, in every mode."""
    found, _ = scores(path, kept, heads=HEADS, shots=SHOTS[name], split="all")
    for (head, mode, _, shots), ours in found.items():
        base = next(x for k, x in found.items() if k[0] == HEADS[0] and k[1::2] == (mode, shots))
        yield row(f"{name}, {shots}-shot, {mode}, {head}", ours, base, "prototypes")


def swapped(manifest: Path) -> Path:
    """The same manifest with the train split named val, where no run was trained."""
    path = manifest.with_name(f"val_{manifest.name}")
    with manifest.open(newline="") as source, path.open("w", newline="") as target:
        table = csv.DictReader(source)
        writer = csv.DictWriter(target, list(table.fieldnames or ()))
        writer.writeheader()
        for line in table:
            writer.writerow({**line, "split": line["split"].replace("train", "val")})
    return path


def cost(path: Path) -> Iterator[Any]:
    """Processor time of weighted fusion of prototypes against the joined vector."""
    torch.set_num_threads(1)
    result = learn.run_episodes(path, split="all", **{**ASKED, "episodes": 3000}, shots=(1, 5))
    rng = torch.Generator().manual_seed(0)
    clips = len(result.clips)
    vectors = {
        "visual": torch.randn(clips, 1280, generator=rng).abs(),
        "audio": torch.randn(clips, 1024, generator=rng).abs(),
    }
    head = plugins.build("learn.fewshot.heads", "prototypes")
    for draw in result.draws:
        seconds = {}
        for name in ("early", "weighted"):
            fusion = plugins.build("learn.fewshot.fusions", name)
            pairs = [
                Pair(support=v.vectors, query=v.vectors, modality_dims=v.modality_dims)
                for v in fusion.views(vectors)
            ]
            contexts = [
                Context(modality_dims=p.modality_dims, origin=p.support.mean(0)) for p in pairs
            ]
            spent = []
            if name == "early":
                score = scorer(head, pairs[0], contexts[0], queries=10**6)
            for _ in range(7):
                if name == "weighted":
                    predictor = FusedPredictor(
                        head=head, fusion=fusion, pairs=pairs, contexts=contexts,
                        prior_of=_given, queries=10**6,
                    )  # fmt: skip
                    assert predictor.tables is not None  # as for the joined vector: made before
                    score = predictor.predict
                begun = time.process_time()
                score(draw)
                spent.append(time.process_time() - begun)
            seconds[name] = min(spent)
        yield _cost_row(draw, seconds)


def _given(_: Episodes) -> Prior:
    return Prior(value=(0.8, 0.2), origin="given")


def _cost_row(draw: Episodes, seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "what": f"weighted fusion of prototypes, {draw.shots}-shot, {len(draw)} episodes",
        "value": 1000 * seconds["weighted"],
        "unit": "ms",
        "ratio": seconds["weighted"] / seconds["early"],
        "against": f"{1000 * seconds['early']:.1f} ms for the joined vector",
        "goal": 2.5 if draw.shots == 1 else 6.0,
    }


def measure(only: Sequence[str] = PARTS, folder: str | None = None) -> Iterator[dict[str, Any]]:
    if absent := missing("fusion"):
        yield absent
        return
    with tempfile.TemporaryDirectory() as scratch:
        where = stores(Path(folder or scratch))
        for name, path in where.items():
            kept = Path(scratch, f"{name}.safetensors")
            if "fusions" in only:
                yield from fusions(name, path, kept)
            if "noise" in only:
                yield from noise(name, path, kept)
            if "heads" in only:
                yield from heads(name, path, kept)
        if "halves" in only:
            path = where["av_composed"]
            for number, manifest in enumerate(halves(path, Path(scratch))):
                kept = Path(scratch, f"half{number}.safetensors")
                asked = {"manifest": swapped(manifest), "split": "test", "shots": (1, 2, 3, 5)}
                name = f"composed half {number + 1}"
                SHOTS[name] = (1, 2, 3, 5)
                yield from fusions(name, path, kept, kinds=FUSIONS[:2], **asked)
                yield from noise(name, path, kept, **asked)
        if "cost" in only:
            yield from cost(where["av_composed"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--folder", help="Keep the features here.")
    show(measure(**vars(parser.parse_args())))
