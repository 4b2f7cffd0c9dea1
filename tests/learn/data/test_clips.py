import numpy as np
import pytest
import torch

import store
from learn.data.clips import Clips, choose_split, load_clips
from learn.data.rows import Rows, choose_feature, load_rows
from store.errors import InputError, UnknownColumn, UnknownFeature


def manifest(**columns):
    ids = tuple(columns.pop("clip_id"))
    return store.Manifest(table={"path": ids, "clip_id": ids, **columns})


M = manifest(
    clip_id=("b", "d", "a", "c"),
    label=("dog", "", "cat", "dog"),
    several=("x;y", "x", "", "y"),
    split=("test", "test", "train", "test"),
    group=("g", "", "h", "g"),
    source=("s", "s", "s", "t"),
)


def test_clips_come_in_the_order_of_their_ids():
    clips = load_clips(M, split="all", label="label")
    assert clips.ids == ("a", "b", "c", "d")
    assert clips.classes == ("cat", "dog")
    assert clips.class_ids.tolist() == [0, 1, 1, -1]
    assert clips.groups.tolist() == [0, 1, 1, 2]
    shuffled = M.select(["c", "d", "a", "b"])
    assert load_clips(shuffled, split="all", label="label").sha256 == clips.sha256


def test_a_split_has_its_own_classes():
    clips = load_clips(M, split="test", label="label")
    assert clips.ids == ("b", "c", "d")
    assert clips.classes == ("dog",)


def test_clips_without_a_group_are_no_group_together():
    table = manifest(clip_id=("a", "b", "c"), group=("", "", "g"), label=("x", "x", "x"))
    assert len(set(load_clips(table, split="all", label="label").groups.tolist())) == 3


def test_groups_by_another_column_or_not_at_all():
    assert load_clips(M, split="all", label="label", group="source").groups.tolist() == [0, 0, 1, 0]
    assert load_clips(M, split="all", label="label", group="none").groups is None
    with pytest.raises(UnknownColumn, match="did you mean 'source'"):
        load_clips(M, split="all", label="label", group="sorce")


def test_an_unknown_label_column_says_what_was_meant():
    with pytest.raises(UnknownColumn, match="did you mean 'label'"):
        load_clips(M, split="all", label="lable")


def test_several_labels_in_a_cell_are_refused():
    with pytest.raises(InputError, match="1 clips have several labels in column 'several'"):
        load_clips(M, split="all", label="several")


@pytest.mark.parametrize(("asked", "chosen"), [(None, "test"), ("train", "train"), ("all", "all")])
def test_the_split_asked_for_or_the_default(asked, chosen):
    assert choose_split(M, asked, "test") == chosen


def test_without_splits_all_clips_are_meant():
    table = manifest(clip_id=("a",), label=("x",))
    assert choose_split(table, None, "test") == "all"
    with pytest.raises(InputError, match="no clip is in split 'test'; there are all"):
        choose_split(table, "test", "test")


def test_keeping_clips_renumbers_their_classes():
    clips = load_clips(M, split="all", label="label").keep(np.array([False, True, False, True]))
    assert (clips.ids, clips.classes, clips.class_ids.tolist()) == (("b", "d"), ("dog",), [0, -1])


def test_clips_refuse_to_be_born_wrong():
    good = {
        "ids": ("a", "b"),
        "class_ids": np.zeros(2, np.int32),
        "classes": ("x",),
        "groups": None,
    }
    for bad in ({"ids": ("b", "a")}, {"ids": ("a", "a")}, {"classes": ()}):
        with pytest.raises(ValueError, match=r"ids|code"):
            Clips(**{**good, **bad}, split="all")


def rows():
    values = torch.arange(12.0).half().view(6, 2)
    return Rows(values=values, offsets=torch.tensor([0, 2, 2, 5, 6]), seconds=torch.arange(6.0) / 2)


def test_padding_is_zero_and_marked():
    padded, mask, seconds = rows().padded(torch.tensor([2, 1, 0]))
    assert mask.tolist() == [[True, True, True], [False] * 3, [True, True, False]]
    assert padded[0].tolist() == [[4, 5], [6, 7], [8, 9]]
    assert padded[2].tolist() == [[0, 1], [2, 3], [0, 0]]
    assert (padded[1] == 0).all()
    assert seconds.tolist() == [[1, 1.5, 2], [0, 0, 0], [0, 0.5, 0]]


def test_means_are_over_a_clips_own_rows(monkeypatch):
    expected = [[1, 2], [0, 0], [6, 7], [10, 11]]
    assert rows().means().tolist() == expected
    monkeypatch.setattr("learn.data.rows.CLIPS_AT_ONCE", 1)
    assert rows().means().tolist() == expected


def test_keeping_rows_is_keeping_their_clips():
    wanted = np.array([True, True, False, True])
    kept = rows().keep(wanted)
    assert kept.valid.tolist() == [True, False, True]
    assert torch.equal(kept.means(), rows().means()[torch.from_numpy(wanted)])
    assert kept.seconds.tolist() == [0, 0.5, 2.5]


def test_rows_are_those_of_the_store(filled):
    feature = choose_feature(store.open(filled), "audio", None)
    ids = [*reversed(feature.clip_ids[:30]), "never extracted", *feature.clip_ids[200:220]]
    loaded = load_rows(feature, ids)
    assert len(loaded) == len(ids)
    assert 0 < (~loaded.valid).sum() < 20
    assert not loaded.valid[30]
    for i, clip in enumerate(ids):
        if loaded.valid[i]:
            values, _ = feature.read([clip])
            part = slice(loaded.offsets[i], loaded.offsets[i + 1])
            assert np.array_equal(loaded.values[part].numpy(), values)
            assert loaded.seconds[part].tolist() == (feature.read_times([clip]) / 1000).tolist()


def test_the_feature_asked_for_or_the_only_one(tmp_path):
    fs = store.create(tmp_path / "s")
    assert choose_feature(fs, "visual", None) is None
    specs = [
        store.FeatureSpec(slug=slug, modality="visual", dim=2, identity={}) for slug in ("p", "q")
    ]
    p = fs.add_feature(specs[0])
    assert choose_feature(fs, "visual", None).name == p.name
    fs.add_feature(specs[1])
    with pytest.raises(
        UnknownFeature, match=r"2 visual features; name one or several of them: p-.*, q-"
    ):
        choose_feature(fs, "visual", None)
    assert choose_feature(fs, "visual", "p").name == p.name
    with pytest.raises(UnknownFeature, match="is visual, not audio"):
        choose_feature(fs, "audio", "p")
