"""How honest the confidences of `learn predict` are, pooled over many supports.

    MICROSHOT_MEDIA=… python -m benchmarks confidence
    python -m benchmarks.confidence --store DIR --supports 200

A support is an episode's shots of every class (groups apart where they are known), the other clips
of the episode are asked about; the default head, and weighted fusion in mode av. The expected
calibration error is pooled over supports, 15 bins. Where nothing was left to tell a confidence
(one shot of each class), there is none: such answers count as sure of one class in so many, and how
many there are is said.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import store
from benchmarks._table import show
from learn.data.evaluation_set import load_evaluation_set
from learn.fewshot.mode_pairs import MODES
from learn.fewshot.sense_prior import Like
from learn.fewshot.tasks import Episodes
from learn.inference.fitted_head import HeadClassifier, Labelled
from learn.inference.judges import judges_of
from learn.inference.selection import select_one, vectors_of
from store import plugins
from store.errors import NotEnoughClips

SUPPORTS, QUERIES, BINS, GOAL = 200, 3, 15, 0.06
SHOTS = (1, 2, 5)
MEMORY = 4 << 30


def measure() -> Iterator[dict[str, Any]]:
    """Rows for the real sounds of PANNs Cnn14, if they are there."""
    media = os.environ.get("MICROSHOT_MEDIA")
    if not media:
        print("MICROSHOT_MEDIA is not set: no real features", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield from rows_of(_sounds(Path(media), Path(scratch, "s")), SUPPORTS)


def rows_of(path: Path, supports: int, ways: int = 0) -> Iterator[dict[str, Any]]:
    """The expected calibration error of a store in every mode, for every number of shots."""
    known = store.open(path)
    modalities = {known[name].modality for name in known}
    for mode in (m for m, of in MODES.items() if set(of) <= modalities):
        for shots in SHOTS:
            found = _error(known, mode, shots, supports, ways)
            if found is None:
                continue
            error, accuracy, sure, answers, nothing = found
            yield {
                "what": f"{path.name}: {mode}, {shots} shots", "value": error, "unit": "ECE",
                "ratio": None, "goal": GOAL if shots >= 5 else None,
                "against": f"accuracy {accuracy:.3f}, mean confidence {sure:.3f}, {answers} answers"
                + (f", {nothing} without a confidence" if nothing else ""),
            }  # fmt: skip


def _error(
    known: "store.Store", mode: str, shots: int, supports: int, ways: int
) -> tuple[float, float, float, int, int] | None:
    selection = select_one(known, "none", None, visual=None, audio=None, given=[mode])
    features = {m: f for m, f in selection.features.items() if m in MODES[mode]}
    manifest = known.manifest()
    group = "group" if "group" in manifest.columns else None
    clips = load_evaluation_set(manifest, features, split="all", label="label", group=group)
    vectors = vectors_of(clips.rows, None)
    ids = torch.from_numpy(clips.clips.class_ids).long()
    count = ways or len(clips.clips.classes)
    settings = {"ways": count, "shots": shots, "queries": QUERIES, "episodes": supports}
    try:
        spec = plugins.Spec("n_way_k_shot", settings)
        drawn: Episodes = plugins.build("learn.fewshot.tasks", spec)(clips.clips, seed=0)
    except NotEnoughClips as error:
        print(f"{mode}, {shots} shots: {error}", file=sys.stderr)
        return None
    groups = None
    if clips.clips.groups is not None:
        groups = torch.from_numpy(np.unique(clips.clips.groups, return_inverse=True)[1]).long()
    there = torch.ones(len(ids), dtype=torch.bool)
    everything = Labelled(
        vectors=vectors, present=dict.fromkeys(vectors, there), class_ids=ids, groups=groups
    )
    question = Like(ways=drawn.ways, shots=shots, seed=0, groups="within")
    judge = judges_of(None, None, "off", None, features).of(tuple(vectors), question)
    sure, right, nothing = [], [], 0
    for support, query in zip(drawn.support, drawn.query, strict=True):
        taken = torch.from_numpy(np.ascontiguousarray(support)).long().reshape(-1)
        asked = torch.from_numpy(np.ascontiguousarray(query)).long().reshape(-1)
        fitted = HeadClassifier(judge, everything.keep(taken), MEMORY)
        found = fitted.predict({name: x[asked] for name, x in vectors.items()}, 1)
        p = found.probabilities[:, 0].numpy()
        nothing += int(np.isnan(p).sum())
        sure.append(np.nan_to_num(p, nan=1 / count))
        right.append((found.class_ids[:, 0] == ids[asked]).numpy())
    p, correct = np.concatenate(sure), np.concatenate(right).astype(float)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    error = sum(
        abs(p[bins == b].mean() - correct[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    )
    return float(error), float(correct.mean()), float(p.mean()), len(p), nothing


def _sounds(media: Path, path: Path) -> Path:
    """A store of the real sounds, in their classes and groups."""
    with np.load(media / "features_ucf51_cnn14" / "features.npz") as file:
        ids, values = tuple(file["clip"].tolist()), file["audio"]
        columns = {name: tuple(file[name].tolist()) for name in ("label", "group")}
    fs = store.create(path)
    fs.add_manifest(store.Manifest(table={"path": ids, "clip_id": ids, **columns}))
    spec = store.FeatureSpec(slug="cnn14", modality="audio", dim=values.shape[1], identity={})
    fs.add_feature(spec).commit(
        store.UnitRows(
            clip_ids=ids, values=values.astype(np.float16),
            row_time_ms=np.zeros(len(ids), np.int32), row_count=np.ones(len(ids), np.uint16),
            status=np.zeros(len(ids), np.uint8),
            media_sha256=np.zeros((len(ids), 32), np.uint8), detail=("",) * len(ids),
        )
    )  # fmt: skip
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--supports", type=int, default=SUPPORTS)
    parser.add_argument("--ways", type=int, default=0, help="classes of a support; 0: all")
    asked = parser.parse_args(arguments)
    show(rows_of(asked.store, asked.supports, asked.ways))


if __name__ == "__main__":
    main()
