"""A folder in the place of a manifest."""

import numpy as np
import pytest

import store
from extract.datasets import source
from extract.pipeline.plan import plan
from extract.pipeline.run import run
from extract.pipeline.status import status
from store.errors import InputError, ManifestError, MissingFile
from tests.extract import fakes


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_class_folders_are_labels_and_nothing_is_lost(tmp_path):
    touch(tmp_path, "b/2.mp4", "a/1.MP4", "a/deep/3.webm", "loose.mp4", "a/notes.txt", "a/x.wmv")
    manifest, notes = source.read_clips(tmp_path)
    assert manifest.root == tmp_path
    assert dict(zip(manifest.paths, manifest.column("label"), strict=True)) == {
        "a/1.MP4": "a", "a/deep/3.webm": "a", "b/2.mp4": "b", "loose.mp4": ""
    }  # fmt: skip
    assert [note.split(" (")[0] for note in notes] == [
        f"{tmp_path}: 4 clips in 2 class folders",
        "1 clips lie in no class folder and have no label",
        "1 media files are left out, of a kind that is not decoded or with names that are not "
        "plain UTF-8",
    ]


@pytest.mark.parametrize(
    ("names", "labels", "splits"),
    [
        (["v/cat/1.mp4", "v/dog/2.mp4"], ["cat", "dog"], None),
        (["x/y/cat/1.mp4", "x/y/dog/2.mp4"], ["cat", "dog"], None),
        (["v/train/cat/1.mp4", "v/test/dog/2.mp4"], ["dog", "cat"], ["test", "train"]),
        (["train/cat/1.mp4"], ["cat"], ["train"]),  # one split is no folder around all
        (["cat/1.mp4", "cat/deep/2.mp4"], ["cat", "cat"], None),
    ],
)
def test_folders_around_all_clips_are_no_classes(tmp_path, names, labels, splits):
    manifest, _ = source.read_clips(touch(tmp_path, *names))
    assert list(manifest.column("label")) == labels
    assert (list(manifest.column("split")) if splits else None) == splits


def test_the_manifest_in_a_folder_is_meant(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "manifest.csv").write_text("path,mood\na/1.mp4,glad\n")
    manifest, (note,) = source.read_clips(tmp_path)
    assert manifest.column("mood") == ("glad",)
    assert note.endswith("manifest.csv; 1 media files of the folder are not in it")
    (tmp_path / "manifest.jsonl").write_text('{"path": "a/1.mp4"}\n')
    with pytest.raises(InputError, match=r"holds manifest\.csv and manifest\.jsonl; name the one"):
        source.read_clips(tmp_path)
    (tmp_path / "manifest.jsonl").unlink()
    (tmp_path / "manifest.csv").write_text("file\na\n")
    with pytest.raises(ManifestError, match="no column 'path'"):
        source.read_clips(tmp_path)


def test_without_class_folders_there_are_no_labels(tmp_path):
    manifest, (note,) = source.read_clips(touch(tmp_path, "1.mp4", "2.wav"))
    assert manifest.columns == ("path", "clip_id")
    assert "no class folders" in note
    assert "`learn search`" in note


@pytest.mark.parametrize(
    ("names", "says"),
    [(["a/notes.txt"], "no media in "), (["a/1.wmv"], "none of the 1 media .* convert them")],
)
def test_a_folder_without_media(tmp_path, names, says):
    with pytest.raises(InputError, match=says):
        source.read_clips(touch(tmp_path, *names))


def test_nothing_of_that_name(tmp_path):
    with pytest.raises(MissingFile, match="name a folder of clips, or a manifest"):
        source.read_clips(tmp_path / "nowhere")


def test_run_plan_and_status_take_a_folder(tmp_path):
    """Files that are no media at all are clips that failed; the folder's columns are kept."""
    folder = touch(tmp_path / "clips", "a/1.mp4", "b/2.mp4")
    encoders = {"visual": [fakes.Frames()]}
    planned = plan(folder, tmp_path / "s", **encoders)
    assert planned.notes[0].endswith("2 clips in 2 class folders")
    result = run(folder, tmp_path / "s", **encoders)
    assert result.notes == [planned.notes[0]]
    assert result.failed == 2
    assert store.open(tmp_path / "s").manifest().column("label") == ("a", "b")
    assert status(folder, tmp_path / "s").features[0].committed == 2
    assert np.all(store.open(tmp_path / "s").manifest().start_seconds == 0)
