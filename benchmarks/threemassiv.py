"""A twin of 3MASSIV: its lists' layout and counts, made-up posts, and features of a simple world.

    python -m benchmarks.threemassiv --out DIR [--share 1.0] [--episodes 1000]

Writes lists with the real lists' columns and counts (32,168 / 10,853 / 10,844 posts; a row less in
the concept list of val), reads them with `extract manifest 3massiv`, fills a store with features in
which the concept is seen and heard, the format of the sound heard and that of the picture seen, and
runs `learn benchmark 3massiv-5k` on it. Nothing of the real lists is in it: names, numbers and
proportions are drawn, but for the shares of the largest values, which are public.
"""

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

import numpy as np

import store
from extract.datasets import manifest
from learn.evaluation.frozen import benchmark
from store import FeatureSpec, UnitRows

COUNTS = {"train": 32_168, "val": 10_853, "test": 10_844}
CONCEPTS = 34
LANGUAGES = [
    "Hindi", "Bengali", "Gujarati", "Kannada", "Malayalam", "Marathi", "Odia", "Punjabi", "Tamil",
    "Telugu", "English",
]  # fmt: skip
SHARE_OF = {"language": 0.414, "audio_format": 0.466, "video_format": 0.544, "concept": 0.0785}
AUDIO = [f"audio format {i}" for i in range(6)]
VIDEO = [f"video format {i}" for i in range(6)]
EMOTIONS = [f"emotion {i}" for i in range(12)]
DIMS = {"visual": 128, "audio": 96}
UNIT = 1000


def drawn(rng, names, largest, count):
    """Names whose first has that share, and the others less and less."""
    rest = 1 / np.arange(2, len(names) + 1)
    return rng.choice(len(names), count, p=[largest, *(1 - largest) * rest / rest.sum()])


def posts(rng, share):
    """The posts of every list: number and a value of each column."""
    found, first = {}, 900_000
    for split, whole in COUNTS.items():
        count = max(int(whole * share), 1)
        numbers = first + rng.permutation(3 * count)[:count]
        first += 3 * count
        found[split] = {
            "post": numbers,
            "concept": drawn(rng, range(CONCEPTS), SHARE_OF["concept"], count),
            "emotion": drawn(rng, EMOTIONS, 0.387, count),
            "audio_format": drawn(rng, AUDIO, SHARE_OF["audio_format"], count),
            "video_format": drawn(rng, VIDEO, SHARE_OF["video_format"], count),
            "language": drawn(rng, LANGUAGES, SHARE_OF["language"], count),
        }
    return found


def write_lists(folder, found):
    """The lists of a twin, as 3MASSIV has them."""
    folder.mkdir(parents=True)
    for split, of in found.items():
        with (folder / f"3massiv_{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(
                ["PostIndex", "Topic", "Emotion", "AudioFormat", "VideoFormat", "Language"]
            )
            for row in zip(*of.values(), strict=True):
                post, concept, emotion, audio, video, language = (int(x) for x in row)
                table.writerow([
                    post, f"Concept {concept}", EMOTIONS[emotion], AUDIO[audio], VIDEO[video],
                    LANGUAGES[language],
                ])  # fmt: skip
        lost = 1 if split == "val" else 0  # as the real list has it
        with (folder / f"3massiv_concept_{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["post_id", "concept", "concept_id"])
            for post, concept in list(zip(of["post"], of["concept"], strict=True))[lost:]:
                table.writerow([post, f"Concept {concept}", concept])


def fill(path, found, table, rng):
    """A store of rows in which each label is seen, heard, or both."""
    fs = store.create(path)
    fs.add_manifest(table)
    of_post = {
        str(post): i for i, post in enumerate(np.concatenate([of["post"] for of in found.values()]))
    }
    order = np.array([of_post[clip] for clip in table.clip_ids])
    values = {
        name: np.concatenate([of[name] for of in found.values()])[order]
        for name in ("concept", "audio_format", "video_format", "language")
    }
    carried = {
        "visual": {"concept": 1.0, "video_format": 1.0},
        "audio": {"concept": 0.6, "audio_format": 1.0, "language": 0.5},
    }
    for modality, dim in DIMS.items():
        means = {n: w * rng.standard_normal((64, dim)) for n, w in carried[modality].items()}
        spec = FeatureSpec(slug=f"twin-{modality}", modality=modality, dim=dim, identity={})
        feature = fs.add_feature(spec)
        for start in range(0, len(table), UNIT):
            stop = min(start + UNIT, len(table))
            rows = sum(of[values[n][start:stop]] for n, of in means.items())
            rows = rows + 1.5 * rng.standard_normal(rows.shape)
            count = stop - start
            feature.commit(
                UnitRows(
                    clip_ids=table.clip_ids[start:stop],
                    values=np.maximum(rows + 1, 0).astype(np.float16),
                    row_time_ms=np.zeros(count, np.int32),
                    row_count=np.ones(count, np.uint16),
                    status=np.zeros(count, np.uint8),
                    media_sha256=np.zeros((count, 32), np.uint8),
                    detail=("",) * count,
                )
            )
    return fs


def twin(out, share=1.0, seed=0):
    """Lists, manifest and store of a twin below a folder; returns the counts of its manifest."""
    rng = np.random.default_rng(seed)
    found = posts(rng, share)
    write_lists(out / "lists", found)
    (out / "lists" / "one.mp4").touch()  # a folder of media, of which none is there
    facts = manifest.write("3massiv", out / "lists", out / "lists" / "m.csv", keep_missing=True)
    table = store.read_manifest(out / "lists" / "m.csv")
    fill(out / "store", found, table, rng)
    return {**facts["distinct"], **Counter(table.column("split"))}


def main(arguments):
    """Make a twin, run the benchmark on it, and print what came of it."""
    parser = argparse.ArgumentParser(prog="benchmarks.threemassiv", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--episodes", type=int, default=1000)
    args = parser.parse_args(arguments)
    print("counts:", twin(args.out, args.share))
    from learn.commands.frozen import benchmark_lines

    made = benchmark(
        "3massiv-5k", args.out / "store", args.out / "3massiv-5k", episodes=args.episodes
    )
    benchmark_lines(made.to_dict())


if __name__ == "__main__":
    main(sys.argv[1:])
