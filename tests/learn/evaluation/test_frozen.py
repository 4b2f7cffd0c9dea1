"""Frozen benchmarks: which clips are taken, and that all is the same each time."""

import json
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

import store
from learn.evaluation import frozen
from store.errors import InputError
from store.manifest import Manifest

PLAN = replace(
    frozen.PLANS["3massiv-5k"], classes=(4, 2, 2), clips=40, shots=(1, 5), queries=10, episodes=50,
    ways=2,
)  # fmt: skip
CLASSES, EACH = 8, 90


def table(seed=0):
    rng = np.random.default_rng(seed)
    n = CLASSES * EACH
    concept = np.arange(n) % CLASSES
    ids = tuple(f"{i:05d}" for i in rng.permutation(n))
    language = rng.choice(["Hindi", "Tamil", "Odia"], n, p=[0.6, 0.3, 0.1])
    family = ["comedy" if c < 2 else f"concept {c}" for c in concept]
    return Manifest(
        table={
            "path": ids, "clip_id": ids, "concept": tuple(f"concept {c}" for c in concept),
            "family": tuple(family), "language": tuple(language.tolist()),
            "audio_format": tuple(f"a{x}" for x in rng.integers(0, 3, n)),
            "video_format": tuple(f"v{x}" for x in rng.integers(0, 3, n)),
        }
    )  # fmt: skip


def test_classes_clips_and_languages_are_as_planned():
    chosen, notes = frozen.choose(PLAN, table(), [True] * CLASSES * EACH)
    columns = [chosen.column(c) for c in ("concept", "split", "language", "family")]
    of_split, splits_of_family, of_class = defaultdict(set), defaultdict(set), Counter()
    languages = Counter()
    for concept, split, language, family in zip(*columns, strict=True):
        of_split[split].add(concept)
        splits_of_family[family].add(split)
        of_class[concept] += 1
        languages[concept, language] += 1
    assert {s: len(of) for s, of in of_split.items()} == {"train": 4, "val": 2, "test": 2}
    assert all(len(splits) == 1 for splits in splits_of_family.values())
    assert max(of_class.values()) <= 40
    assert min(of_class.values()) >= 36
    for concept, clips in of_class.items():
        assert languages[concept, "Hindi"] <= 0.3 * clips
        assert languages[concept, "Tamil"] > 1.5 * languages[concept, "Odia"]
    assert any("no groups" in note for note in notes)


def test_the_order_of_lists_changes_nothing():
    whole = table()
    other = whole.select(sorted(whole.clip_ids))
    one, two = (frozen.choose(PLAN, t, [True] * len(t))[0] for t in (whole, other))
    assert one.table == two.table


def test_sources_in_two_splits_are_left_in_the_later_one():
    whole = table()
    groups = [f"g{i}" for i in range(len(whole))]
    first = [whole.column("concept").index(f"concept {c}") for c in range(CLASSES)]
    for i in first:
        groups[i] = "shared"
    whole = replace(whole, table={**whole.table, "group": tuple(groups)})
    plan = replace(PLAN, clips=EACH, most_of=("Hindi", 0.99))
    chosen, notes = frozen.choose(plan, whole, [True] * len(whole))
    splits = {s for g, s in zip(*map(chosen.column, ("group", "split")), strict=True)
              if g == "shared"}  # fmt: skip
    assert len(splits) <= 1
    assert not any("no groups" in note for note in notes)


def test_too_few_classes_are_named():
    with pytest.raises(InputError, match=r"8 of 8 classes.*34 are needed"):
        frozen.choose(replace(PLAN, classes=(20, 6, 8)), table(), [True] * CLASSES * EACH)
    with pytest.raises(InputError, match="3massiv-5k"):
        frozen.plan_of("3massiv")


def test_it_runs_whole_and_weights_go_where_the_label_is(tmp_path, monkeypatch):
    monkeypatch.setitem(frozen.PLANS, "3massiv-5k", PLAN)
    whole, rng = table(), np.random.default_rng(1)
    fs = store.create(tmp_path / "s")
    fs.add_manifest(whole)
    for modality, column in (("visual", "video_format"), ("audio", "audio_format")):
        values = 0.8 * rng.standard_normal((len(whole), 12))
        for name in ("concept", column):
            cells = whole.column(name)
            means = {cell: 1.5 * rng.standard_normal(12) for cell in sorted(set(cells))}
            values += np.stack([means[cell] for cell in cells])
        spec = store.FeatureSpec(slug=modality, modality=modality, dim=12, identity={})
        n = len(whole)
        fs.add_feature(spec).commit(
            store.UnitRows(
                clip_ids=whole.clip_ids, values=values.astype(np.float16),
                row_time_ms=np.zeros(n, np.int32), row_count=np.ones(n, np.uint16),
                status=np.zeros(n, np.uint8), media_sha256=np.zeros((n, 32), np.uint8),
                detail=("",) * n,
            )
        )  # fmt: skip
    made = frozen.benchmark("3massiv-5k", tmp_path / "s", tmp_path / "b")
    again = frozen.benchmark("3massiv-5k", tmp_path / "s", tmp_path / "c")
    assert made.ids_sha256 == again.ids_sha256
    assert made.episodes_sha256 == again.episodes_sha256
    assert set(made.episodes_sha256) == {"1", "5"}
    ids = json.loads((tmp_path / "b" / "ids.json").read_text())
    assert {split: len(of) for split, of in ids["clips"].items()} == {
        split: counts["clips"] for split, counts in made.splits.items()
    }
    assert "concept" not in json.dumps(ids)
    weights = {row["label"]: row["weights"] for row in made.controls}
    means = {
        label: {name: w["mean"] if isinstance(w, dict) else w for name, w in of.items()}
        for label, of in weights.items()
    }
    for label, modality in (("audio_format", "audio"), ("video_format", "visual")):
        assert max(means[label], key=means[label].get).startswith(modality)
