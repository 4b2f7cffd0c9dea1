"""Trees of a file a clip: 3MASSIV's, and those of other patterns."""

import numpy as np
import pytest

import store
from store.errors import ConfigError, InputError
from store.exchange.exchange import export, import_
from store.testing import fill


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.asarray(rows, np.float32))


def test_features_of_3massiv_as_they_lie(tmp_path):
    for post in range(3):
        write(tmp_path / "t" / f"{post}" / "visual_feats.npy", np.full((2, 4), post))
        if post:
            write(tmp_path / "t" / f"{post}" / "audio_feats.npy", np.full(3, post))
    facts = import_("npy_tree", tmp_path / "t", tmp_path / "s")
    assert facts.status == {"ok": 5}
    fs = store.open(tmp_path / "s")
    assert {fs[name].modality: fs[name].dim for name in fs.features} == {"visual": 4, "audio": 3}
    audio = next(fs[name] for name in fs.features if fs[name].modality == "audio")
    assert audio.read(["2"])[0].tolist() == [[2.0] * 3]
    assert list(audio.clip_ids) == ["1", "2"]


def test_several_files_of_a_clip_are_its_rows_in_order(tmp_path):
    for number in (10, 2, 1):
        write(tmp_path / "t" / "a" / f"feats_{number}.npy", [number, 0])
    import_(
        "npy_tree:pattern={clip_id}/feats_*.npy,modality=visual", tmp_path / "t", tmp_path / "s"
    )
    fs = store.open(tmp_path / "s")
    assert fs[fs.features[0]].read(["a"])[0][:, 0].tolist() == [1, 2, 10]


def test_folders_tell_labels_and_paths_are_ids(tmp_path):
    write(tmp_path / "t" / "train" / "dog" / "x.npy", [[1, 2]])
    write(tmp_path / "t" / "test" / "cat" / "y.npy", [[3, 4]])
    spec = "npy_tree:pattern={split}/{label}/{clip_id}.npy,modality=audio"
    import_(spec, tmp_path / "t", tmp_path / "s")
    table = store.open(tmp_path / "s").manifest()
    told = zip(table.clip_ids, table.column("split"), table.column("label"), strict=True)
    assert sorted(told) == [
        ("x", "train", "dog"), ("y", "test", "cat"),
    ]  # fmt: skip
    import_("npy_tree:pattern={clip_path}.npy,modality=audio", tmp_path / "t", tmp_path / "p")
    assert set(store.open(tmp_path / "p").manifest().clip_ids) == {"train/dog/x", "test/cat/y"}


@pytest.mark.parametrize(
    "pattern", ["{clip_id}/{modality}_feats.npy", "{modality}/{split}/{label}/{clip_path}.npy"]
)
def test_an_export_lies_as_the_pattern_says_and_comes_back(pattern, tmp_path):
    fs = fill(tmp_path / "s", clips=30, rows=3, dim=4, classes=3, silent_share=0.3)
    spec = f"npy_tree:pattern={pattern}"
    export(fs, spec, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.csv").is_file()
    import_(spec, tmp_path / "out", tmp_path / "t")
    back = store.open(tmp_path / "t")
    for name in fs.features:
        mine = fs[name]
        other = next(back[n] for n in back.features if back[n].modality == mine.modality)
        for one, two in zip(mine.read(mine.clip_ids), other.read(mine.clip_ids), strict=True):
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(mine.status, other.status_of(mine.clip_ids))
    assert back.manifest().select(sorted(back.manifest().clip_ids)).column("group") == (
        fs.manifest().select(sorted(fs.manifest().clip_ids)).column("group")
    )


def test_patterns_and_files_that_cannot_be_are_one_line(tmp_path):
    for pattern in (
        "x.npy",
        "{clip}.npy",
        "{clip_id}{clip_id}.npy",
        "{clip_id}.npz",
        "/{clip_id}.npy",
    ):
        with pytest.raises(ConfigError, match="npy_tree: pattern"):
            import_(f"npy_tree:pattern={pattern}", tmp_path, tmp_path / "s")
    write(tmp_path / "t" / "a" / "visual_feats.npy", [[1, 2]])
    write(tmp_path / "t" / "b" / "visual_feats.npy", [[1, 2, 3]])
    with pytest.raises(InputError, match="not rows of 2 numbers"):
        import_("npy_tree", tmp_path / "t", tmp_path / "s")
    np.save(tmp_path / "t" / "b" / "visual_feats.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="not rows of numbers"):
        import_("npy_tree", tmp_path / "t", tmp_path / "s")
    fs = fill(tmp_path / "f", clips=10, rows=1, dim=2, classes=2)
    with pytest.raises(InputError, match="names none"):
        export(fs, "npy_tree:pattern={clip_id}_{modality}_*.npy", tmp_path / "out")
