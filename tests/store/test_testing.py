"""The made-up store is valid and has the properties it promises."""

import numpy as np
import pytest

from store import Status
from store.testing import fill
from store.upkeep.verify import verify


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    path = tmp_path_factory.mktemp("filled") / "fs"
    return fill(path, clips=240, rows=6, dim=16, classes=12, silent_share=0.3, failed_share=0.1)


def features(fs):
    return {fs[name].modality: fs[name] for name in fs.features}


def test_it_is_a_sound_store(filled):
    assert verify(filled, deep=True).problems == []
    assert set(features(filled)) == {"visual", "audio"}
    assert filled.manifest().columns == ("path", "clip_id", "split", "group", "label")
    for feature in features(filled).values():
        assert sorted(feature.clip_ids) == sorted(filled.manifest().clip_ids)


def test_shares_of_silence_and_failure(filled):
    by_modality = features(filled)
    ids = filled.manifest().clip_ids
    visual, audio = (by_modality[m].status_of(ids) for m in ("visual", "audio"))
    assert 10 < (visual == Status.DECODE_ERROR).sum() < 40
    assert not (visual == Status.ABSENT).any()
    assert 45 < (audio == Status.ABSENT).sum() < 90
    np.testing.assert_array_equal(audio == Status.DECODE_ERROR, visual == Status.DECODE_ERROR)


def test_splits_are_of_classes_or_of_groups(filled, tmp_path):
    manifest = filled.manifest()
    classes = {s: set(manifest.select(split=s).column("label")) for s in ("train", "val", "test")}
    assert [len(classes[s]) for s in ("train", "val", "test")] == [6, 3, 3]
    assert len(set.union(*classes.values())) == 12
    mixed = fill(
        tmp_path / "mixed", clips=240, rows=1, dim=2, classes=12, disjoint=False
    ).manifest()
    groups = [set(mixed.select(split=s).column("group")) for s in ("train", "val", "test")]
    assert all(
        len(set(mixed.select(split=s).column("label"))) == 12 for s in ("train", "val", "test")
    )
    assert len(set.union(*groups)) == sum(map(len, groups)) == 120


def test_a_group_is_two_clips_of_one_class(filled):
    manifest = filled.manifest()
    labels: dict[str, list[str]] = {}
    for group, label in zip(manifest.column("group"), manifest.column("label"), strict=True):
        labels.setdefault(group, []).append(label)
    assert {len(names) for names in labels.values()} == {2}
    assert all(len(set(names)) == 1 for names in labels.values())


def test_rows_are_ragged_on_request(filled, tmp_path):
    ids = filled.manifest().clip_ids
    counts = np.diff(features(filled)["visual"].read(ids)[1])
    assert set(counts.tolist()) == {0, 1, 2, 3, 4, 5, 6}
    even = fill(tmp_path / "even", clips=30, rows=5, dim=2, classes=3, ragged=False)
    assert set(np.diff(features(even)["audio"].read(even.manifest().clip_ids)[1]).tolist()) == {5}


def nearest_mean_accuracy(fs):
    manifest = fs.manifest()
    values, offsets = features(fs)["visual"].read(manifest.clip_ids)
    vectors = np.add.reduceat(values.astype(np.float64), offsets[:-1]) / np.diff(offsets)[:, None]
    label = np.unique(manifest.column("label"), return_inverse=True)[1]
    half = np.arange(len(label)) < len(label) // 2
    means = np.stack([vectors[half & (label == c)].mean(0) for c in range(label.max() + 1)])
    distance = ((vectors[~half, None] - means) ** 2).sum(-1)
    return (distance.argmin(1) == label[~half]).mean()


def test_separation_decides_how_hard_it_is(tmp_path):
    easy, chance = (
        fill(tmp_path / str(s), clips=400, rows=2, dim=16, classes=10, separation=s)
        for s in (8.0, 0.0)
    )
    assert nearest_mean_accuracy(easy) > 0.95
    assert 0.02 < nearest_mean_accuracy(chance) < 0.25


def test_the_seed_decides_everything(tmp_path):
    made = [
        fill(tmp_path / str(i), clips=20, rows=3, dim=4, classes=2, seed=seed)
        for i, seed in enumerate((1, 1, 2))
    ]
    ids = made[0].manifest().clip_ids
    rows = [features(fs)["audio"].read(ids)[0] for fs in made]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert rows[0].shape != rows[2].shape or (rows[0] != rows[2]).any()


def test_filling_twice_adds_nothing(tmp_path):
    for _ in range(2):
        fs = fill(tmp_path / "fs", clips=20, rows=2, dim=4, classes=2, clips_per_unit=8)
    report = verify(fs)
    assert (report.units, report.garbage_parts, len(fs.manifest_names())) == (6, 0, 1)
