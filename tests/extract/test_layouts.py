import csv

import pytest

from extract import manifest
from store.errors import InputError, MissingFile, UnknownPlugin


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_class_folders_become_labels(tmp_path):
    touch(tmp_path, "b/2.mp4", "a/1.MP4", "a/deep/3.webm", "a/notes.txt", "loose.mp4", ".git/x.mp4")
    facts = manifest.write("folder", tmp_path, tmp_path / "m.csv")
    assert [(r["path"], r["label"]) for r in rows(tmp_path / "m.csv")] == [
        ("a/1.MP4", "a"),
        ("a/deep/3.webm", "a"),
        ("b/2.mp4", "b"),
    ]
    assert facts["clips"] == 3
    assert facts["distinct"] == {"label": 2}


def test_a_level_of_splits_is_recognised(tmp_path):
    touch(tmp_path, "d/train/a/1.mp4", "d/val/a/2.mp4", "d/test/b, c/3.mp4")
    manifest.write("folder:label=topic", tmp_path / "d", tmp_path / "m.csv")
    assert {(r["path"], r["topic"], r["split"]) for r in rows(tmp_path / "m.csv")} == {
        ("d/train/a/1.mp4", "a", "train"),
        ("d/val/a/2.mp4", "a", "val"),
        ("d/test/b, c/3.mp4", "b, c", "test"),
    }


def test_a_class_called_test_beside_others_is_a_class(tmp_path):
    touch(tmp_path, "test/1.mp4", "other/2.mp4")
    manifest.write("folder", tmp_path, tmp_path / "m.csv")
    assert {r["label"] for r in rows(tmp_path / "m.csv")} == {"test", "other"}


def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path):
    touch(tmp_path, "d/a/1.mp4")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InputError, match="at or above"):
        manifest.write("folder", tmp_path / "d", tmp_path / "elsewhere" / "m.csv")
    with pytest.raises(MissingFile, match="not a folder"):
        manifest.write("folder", tmp_path / "none", tmp_path / "m.csv")
    with pytest.raises(InputError, match="no media"):
        manifest.write("folder", tmp_path / "elsewhere", tmp_path / "m.csv")
    with pytest.raises(UnknownPlugin, match="did you mean 'folder'"):
        manifest.write("foldr", tmp_path / "d", tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()
    manifest.write("folder", tmp_path / "d", tmp_path / "m.csv")
    with pytest.raises(InputError, match="exists"):
        manifest.write("folder", tmp_path / "d", tmp_path / "m.csv")
