"""What each group of numbers of `logmel` adds, on three collections, and how fast they are made.

    python -m benchmarks logmel

Accuracy is of 5-way episodes, 3 queries a class, groups apart, by the default head, of the group
alone and of all others without it. Collections are folders of `$MICROSHOT_MEDIA`; those that are
not there are left out. Speed is processor time of one thread on ten seconds of noise.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import learn
import store
from benchmarks._table import show
from extract.datasets.source import read_clips
from extract.encoders import logmel
from extract.media.clip import Request
from extract.media.decode import Decoder, safely
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import Sandbox

COLLECTIONS = ("esc10_audio", "av_composed", "ucf101_av")
SHOTS, QUERIES, EPISODES = (1, 5), 3, 600
SECONDS, ROUNDS = 10, 20
Groups = Mapping[str, np.ndarray]  # each scaled as in a row


def groups_of(sound: np.ndarray, encoder: logmel.LogMelEncoder) -> Groups:
    """The groups of one sound's row."""
    with torch.inference_mode():
        mel = encoder.preprocess(torch.from_numpy(sound)[None])
        found = logmel.Statistics().groups(mel)
    return {name: (found[name] / logmel.SCALES[name])[0].numpy() for name in logmel.GROUPS}


def sounds(manifest: store.Manifest) -> dict[str, np.ndarray]:
    """The sound of every clip that has any."""
    assert manifest.root is not None
    rate = logmel.SAMPLE_RATE
    asked = [
        Request(path=manifest.root / path, root=manifest.root, sample_rates=(rate,))
        for path in manifest.paths
    ]
    confined = Sandbox(mode="auto", readable=(manifest.root.resolve(),))
    limits = Limits(deadline_seconds=60.0, sandbox=confined)
    found = {}
    for outcome in process_map(Decoder(), asked, workers=2, limits=limits, again=safely):
        sound = None if outcome.value is None else outcome.value.audio.data.get(rate)
        if sound is not None:
            found[manifest.clip_ids[outcome.index]] = np.array(sound.samples)
    return found


def features(groups: Mapping[str, Groups], folder: Path, manifest: store.Manifest) -> list[str]:
    """A store with a feature for the whole, each group alone, and all without it."""
    fs = store.create(folder)
    fs.add_manifest(manifest)
    ids, names = tuple(groups), tuple(logmel.GROUPS)
    chosen = {"whole": names}
    chosen |= {f"{name} alone": (name,) for name in names}
    chosen |= {f"without {name}": tuple(n for n in names if n != name) for name in names}
    made = {}
    for what, of in chosen.items():
        rows = np.stack([np.concatenate([groups[clip][name] for name in of]) for clip in ids])
        spec = store.FeatureSpec(
            slug="logmel", modality="audio", dim=rows.shape[1], identity={"groups": list(of)}
        )
        feature = fs.add_feature(spec)
        feature.commit(
            store.UnitRows(
                clip_ids=ids, values=rows.astype(np.float16),
                row_time_ms=np.zeros(len(ids), np.int32), row_count=np.ones(len(ids), np.uint16),
                status=np.zeros(len(ids), np.uint8),
                media_sha256=np.zeros((len(ids), 32), np.uint8), detail=("",) * len(ids),
            )
        )  # fmt: skip
        made[what] = feature.name
    return [f"{what}={name}" for what, name in made.items()]


def accuracies(name: str, media: Path) -> Iterator[dict[str, Any]]:
    """A row for every choice of groups and number of shots."""
    manifest, _ = read_clips(media / name)
    encoder = logmel.build(logmel.Config())
    groups = {clip: groups_of(sound, encoder) for clip, sound in sounds(manifest).items()}
    with tempfile.TemporaryDirectory() as folder:
        for choice in features(groups, Path(folder) / "store", manifest):
            what, feature = choice.split("=")
            result = learn.run_episodes(
                Path(folder) / "store", split="all", audio=feature, support=("a",), shots=SHOTS,
                queries=QUERIES, episodes=EPISODES,
            )  # fmt: skip
            for row in result.results:
                yield {
                    "what": f"{name}, {what}, {row.shots}-shot",
                    "value": 100 * row.accuracy,
                    "unit": "%",
                    "ratio": None,
                    "against": f"± {100 * (row.ci95 or 0):.1f}, {len(groups)} clips",
                    "goal": None,
                }


def speed() -> dict[str, Any]:
    """Seconds of sound for a second of one thread, at its best."""
    encoder = logmel.build(logmel.Config())
    x = 0.1 * torch.randn(
        1, SECONDS * logmel.SAMPLE_RATE, generator=torch.Generator().manual_seed(0)
    )
    taken = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        encoder(x)
        taken.append(time.process_time() - begun)
    return {
        "what": "logmel, one thread",
        "value": SECONDS / min(taken),
        "unit": "x real",
        "ratio": None,
        "against": None,
        "goal": None,
    }


def measure() -> Iterator[dict[str, Any]]:
    """Speed, then accuracy on the collections that are there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield speed()
        media = Path(os.environ.get("MICROSHOT_MEDIA", "."))
        for name in COLLECTIONS:
            if (media / name).is_dir():
                yield from accuracies(name, media)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    show(measure())
