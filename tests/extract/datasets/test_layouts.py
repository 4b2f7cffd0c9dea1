import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from extract.datasets import manifest
from extract.datasets.media_files import Ambiguous, MediaFiles
from store.errors import ConfigError, InputError, MissingFile, UnknownPlugin, UnknownSetting


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
    with pytest.raises(MissingFile, match="does not exist"):
        manifest.write("folder", tmp_path / "none", tmp_path / "m.csv")
    with pytest.raises(InputError, match="no media"):
        manifest.write("folder", tmp_path / "elsewhere", tmp_path / "m.csv")
    with pytest.raises(UnknownPlugin, match="did you mean 'folder'"):
        manifest.write("foldr", tmp_path / "d", tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()
    manifest.write("folder", tmp_path / "d", tmp_path / "m.csv")
    with pytest.raises(InputError, match="exists"):
        manifest.write("folder", tmp_path / "d", tmp_path / "m.csv")


def test_folders_decide_between_files_of_one_name(tmp_path):
    touch(tmp_path, "d/a/x/1.mp4", "d/b/x/1.mp4", "d/c/2.mp4", "d/c/2.webm", "d/c/3.mkv")
    files = MediaFiles(tmp_path / "d")
    assert str(files.find("b/x/1")) == "b/x/1.mp4"
    assert str(files.find("elsewhere/3.avi")) == "c/3.mkv"
    assert str(files.find("c/2.webm")) == "c/2.webm"
    assert files.find("4") is None
    for name in ("1", "x/1.mp4", "z/1", "c/2"):
        with pytest.raises(Ambiguous):
            files.find(name)


def test_clips_that_may_be_several_files_are_counted(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/1.mp4", "b/2.mp4")
    (tmp_path / "train.csv").write_text("1 x\n2 y\n")
    facts = manifest.write("path_label", tmp_path / "train.csv", tmp_path / "m.csv")
    assert (facts["clips"], facts["ambiguous"], facts["files_not_listed"]) == (1, 1, 2)
    assert "a/1.mp4" in facts["ambiguous_examples"][0]


def test_a_clip_in_two_lists_is_refused(tmp_path):
    touch(tmp_path, "1.mp4")
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("1.mp4 x\n")
    with pytest.raises(InputError, match="listed twice"):
        manifest.write("path_label", tmp_path, tmp_path / "m.csv")


def test_few_shot_splits_share_no_class(tmp_path):
    touch(tmp_path, "Archery/1.mp4", "Archery/2.mp4")
    (tmp_path / "trainlist.txt").write_text("Archery/1\n")
    (tmp_path / "testlist.txt").write_text("Archery/2\n")
    with pytest.raises(InputError, match="'Archery' is in"):
        manifest.write("trx", tmp_path, tmp_path / "m.csv")


def test_pickled_lists_are_read_only_if_somebody_vouches(tmp_path):
    touch(tmp_path, "dog/1.wav", "rain/2.wav", "crow/3.wav")
    splits = np.empty(3, object)
    splits[:] = [["dog"], ["rain"], ["crow"]]
    np.save(tmp_path / "splits.npy", splits, allow_pickle=True)
    with pytest.raises(InputError, match="`trust_pickle`"):
        manifest.write("metaaudio", tmp_path / "splits.npy", tmp_path / "m.csv")
    facts = manifest.write(
        "metaaudio", tmp_path / "splits.npy", tmp_path / "m.csv", trust_pickle=True
    )
    assert facts["distinct"]["split"] == 3
    with pytest.raises(UnknownSetting):
        manifest.write("folder", tmp_path, tmp_path / "n.csv", trust_pickle=True)


def test_settings_of_layouts(tmp_path):
    for layout, wrong in {
        "ucf101": "fold=4", "hmdb51": "fold=0", "esc50": "test_fold=6", "avca": "stage=3",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError):
            manifest.write(f"{layout}:{wrong}", tmp_path, tmp_path / "m.csv")


def test_other_shapes_of_activitynet(tmp_path):
    """One annotation with all segments, as some list them."""
    touch(tmp_path, "v_a.mp4")
    annotated = {"subset": "train", "annotations": {"label": "x", "segment": [[0, 2.5], [5, 7]]}}
    (tmp_path / "activity_net.json").write_text(json.dumps({"database": {"a": annotated}}))
    manifest.write("activitynet", tmp_path / "activity_net.json", tmp_path / "m.csv")
    segments = [
        (r["clip_id"], r["start_seconds"], r["end_seconds"]) for r in rows(tmp_path / "m.csv")
    ]
    assert segments == [("a_0", "0", "2.5"), ("a_1", "5", "7")]


@pytest.fixture
def lists():
    if "MICROSHOT_MEDIA" not in os.environ:
        pytest.skip("MICROSHOT_MEDIA is not set")
    return Path(os.environ["MICROSHOT_MEDIA"]) / "manifests"


@pytest.mark.parametrize(
    ("layout", "source", "clips", "distinct"),
    [
        ("vggsound", "vggsound_test.csv", 15446, {"label": 309, "split": 1}),
        ("coop", "split_zhou_UCF101.json", 13320, {"label": 101, "split": 3}),
        ("avca", "avca_gzsl_UCF", None, {"seen": 2, "split": 2}),
        ("3massiv", "example_3massiv_format.csv", None, {"language": None, "concept": None}),
    ],
)
def test_real_lists_are_read_whole(lists, tmp_path, layout, source, clips, distinct):
    touch(tmp_path, "one.mp4")
    facts = manifest.write(
        layout, lists / source, tmp_path / "m.csv", media=tmp_path, keep_missing=True
    )
    lines = sum(
        len(path.read_text().strip().splitlines()) - 1
        for path in (lists / source).parent.rglob("*.csv")
        if source in str(path)
    )
    assert facts["clips"] == facts["missing"] == (clips or lines)
    for column, count in distinct.items():
        assert facts["distinct"][column] == (count or facts["distinct"][column]) > 0


def test_real_lists_find_real_names(lists, tmp_path):
    """Names of real clips, with the empty files that are enough for a list."""
    media = lists.parent
    clips = [p.relative_to(media).as_posix() for p in media.glob("ucf101_av/videos/*/*.mp4")]
    sounds = [p.relative_to(media).as_posix() for p in media.glob("esc10_audio/audio/*/*.ogg")]
    touch(tmp_path, *clips, *sounds)
    facts = manifest.write(
        "coop", lists / "split_zhou_UCF101.json", tmp_path / "m.csv", media=tmp_path
    )
    assert facts["clips"] == len(clips)
    assert facts["missing"] == 13320 - len(clips)
    assert facts["files_not_listed"] == len(sounds)
    known = {row["path"]: row["group"] for row in rows(media / "ucf101_av" / "manifest.csv")}
    for row in rows(tmp_path / "m.csv"):
        assert known[row["path"].removeprefix("ucf101_av/")] == row["group"]
    split = lists / "metaaudio_esc50_class_split.json"
    facts = manifest.write("metaaudio:key=baseline", split, tmp_path / "s.csv", media=tmp_path)
    assert facts["clips"] == len(sounds)
    assert facts["distinct"]["label"] == len({Path(name).parent.name for name in sounds})


def test_ucf51_has_the_classes_with_sound_and_dcase_2014_only_names(tmp_path):
    from extract.datasets.layouts import ucf51

    assert len(ucf51.CLASSES) == 51
    touch(tmp_path / "u", "v_Archery_g01_c01.avi", "v_YoYo_g02_c01.avi")
    manifest.write("ucf51", tmp_path / "u", tmp_path / "u.csv")
    assert [row["label"] for row in rows(tmp_path / "u.csv")] == ["Archery"]
    touch(tmp_path / "d", "bus01.wav", "busystreet10.wav", "notes.wav")
    manifest.write("dcase", tmp_path / "d", tmp_path / "d.csv")
    assert [(row["path"], row["label"]) for row in rows(tmp_path / "d.csv")] == [
        ("d/bus01.wav", "bus"), ("d/busystreet10.wav", "busystreet"),
    ]  # fmt: skip


def test_dcase_of_a_fold_that_is_not_there_is_one_line(tmp_path):
    touch(tmp_path, "audio/a.wav")
    (tmp_path / "meta.csv").write_text("filename\tscene_label\tidentifier\naudio/a.wav\tbus\tx\n")
    (tmp_path / "fold1_train.csv").write_text("filename\tscene_label\naudio/a.wav\tbus\n")
    manifest.write("dcase", tmp_path, tmp_path / "m.csv")
    assert [(row["label"], row["group"], row["split"]) for row in rows(tmp_path / "m.csv")] == [
        ("bus", "x", "train")
    ]
    with pytest.raises(MissingFile, match="no lists of fold 3"):
        manifest.write("dcase:fold=3", tmp_path, tmp_path / "n.csv")
