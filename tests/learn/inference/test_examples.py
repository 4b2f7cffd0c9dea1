"""The labelled clips: a source is what the support says, or else the store."""

import pytest

import store
from learn.inference.examples import read_groups, read_labels
from store.errors import InputError, UnknownColumn


class Kept:
    """A store that keeps this manifest, or none."""

    def __init__(self, **columns):
        self.columns = columns

    def manifest_names(self):
        return ["m"] if self.columns else []

    def manifest(self):
        return manifest(**self.columns)


def manifest(**columns):
    ids = columns.get("clip_id") or tuple("abcd")
    return store.Manifest(table={"path": ids, "clip_id": ids, **columns})


def test_groups_are_the_supports_or_the_stores():
    support, kept = manifest(), Kept(clip_id=("d", "c", "b"), group=("x", "", "x"))
    assert read_groups(manifest(group=("u", "u", "", "")), kept, None).tolist() == [0, 0, 1, 2]
    assert read_groups(support, kept, None).tolist() == [0, 1, 2, 1]
    assert read_groups(support, Kept(), None) is None
    assert read_groups(support, kept, "none") is None
    with pytest.raises(UnknownColumn, match="did you mean 'group'"):
        read_groups(support, kept, "grup")


def test_a_label_a_clip():
    assert read_labels(manifest(label=("x", "", "y", "x")), "label") == ["x", "", "y", "x"]
    with pytest.raises(InputError, match="several labels"):
        read_labels(manifest(label=("x;y", "", "y", "x")), "label")
    with pytest.raises(InputError, match="fill it in"):
        read_labels(manifest(label=("", "", "", "")), "label")
