"""Classes that nobody asks about: which clips they are, and how many at most."""

import numpy as np
import pytest

import store
from learn.data.other_classes import other_classes


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    """Twelve train, six val and six test classes of ten clips; some have no sound."""
    path = tmp_path_factory.mktemp("others") / "store"
    return store.testing.fill(path, clips=240, classes=24, rows=2, dim=4, silent_share=0.2)


def of(fs, **asked):
    features = {fs[name].modality: fs[name] for name in fs.features}
    return other_classes(
        fs.manifest(), features, label="label", group=None, **{"asked": (), **asked}
    )


def test_they_are_of_train_and_val_and_none_is_asked_about(fs):
    table = fs.manifest()
    split_of = dict(zip(table.clip_ids, table.column("split"), strict=True))
    label_of = dict(zip(table.clip_ids, table.column("label"), strict=True))
    test = {label for clip, label in label_of.items() if split_of[clip] == "test"}
    val = sorted({label for clip, label in label_of.items() if split_of[clip] == "val"})
    everything = of(fs)
    assert len(everything.clips.classes) == 18
    assert not test & set(everything.clips.classes)
    assert all(rows.valid.all() for rows in everything.rows.values())
    asked = {val[0], *test}
    left_out = everything.clips.ids[:5]
    some = of(fs, asked=asked, without=frozenset(left_out), scored_split="train")
    assert set(some.clips.classes) == set(val[1:])
    assert {split_of[clip] for clip in some.clips.ids} == {"val"}
    assert not set(of(fs, without=frozenset(left_out)).clips.ids) & set(left_out)
    assert of(fs, asked=val[1:], scored_split="train") is None  # one class is none


def test_of_many_clips_every_class_keeps_as_many(fs):
    everything = of(fs)
    few = of(fs, most=60)
    sizes = np.bincount(few.clips.class_ids)
    assert len(few.clips) <= 60
    assert len(sizes) == 18
    assert sizes.max() - sizes.min() <= 1
    assert set(few.clips.ids) < set(everything.clips.ids)
    assert {sense: len(rows) for sense, rows in few.rows.items()} == dict.fromkeys(
        few.rows, len(few.clips)
    )


def test_without_splits_nothing_is_known(fs, tmp_path):
    table = fs.manifest()
    path = tmp_path / "plain.csv"
    columns = zip(table.paths, table.clip_ids, table.column("label"), strict=True)
    path.write_text("path,clip_id,label\n" + "".join(f"{p},{c},{n}\n" for p, c, n in columns))
    features = {fs[name].modality: fs[name] for name in fs.features}
    found = other_classes(store.read_manifest(path), features, asked=(), label="label", group=None)
    assert found is None
