"""An import says what it dropped, guessed or bent."""

import json

import h5py
import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

import cli
import store
from store.errors import InputError
from store.exchange.exchange import import_

CLIPS = 6
ROWS = np.random.default_rng(0).standard_normal((CLIPS, 4)).astype(np.float32)
IDS = [f"clip{i}" for i in range(CLIPS)]
SCALARS = {
    "group": (np.arange(CLIPS) // 2, ["0", "0", "1", "1", "2", "2"]),
    "split": (np.array([b"train", b"test"] * 3), ["train", "test"] * 3),
    "flag": (np.arange(CLIPS) % 2 == 0, ["true", "false"] * 3),
    "score": (np.array([0.1, np.nan, 2, 3, 4, 5], np.float32), ["0.1", "", "2", "3", "4", "5"]),
}


def brought(spec, path, tmp_path, **settings):
    facts = import_(spec, path, tmp_path / "fs", **settings)
    return facts, store.open(tmp_path / "fs").manifest()


def refused(spec, path, tmp_path, match, **settings):
    with pytest.raises(InputError, match=match):
        import_(spec, path, tmp_path / "fs", **settings)
    assert not (tmp_path / "fs").exists()


def write_npz(path, **arrays):
    np.savez(path, **{"values": ROWS, "clip_id": np.array(IDS), **arrays})


def as_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        file["values"], file["clip_id"] = ROWS, np.array(IDS, object)
        for name, array in arrays.items():
            file[name] = array


def as_npz(path, arrays):
    write_npz(path, **arrays)


def as_parquet(path, arrays):
    columns = {name: pyarrow.array(array.tolist()) for name, array in arrays.items()}
    if "score" in columns:
        columns["score"] = pyarrow.array(arrays["score"])
    table = {"embedding": ROWS.tolist(), "class_name": ["a"] * CLIPS, "clip_id": IDS, **columns}
    parquet.write_table(pyarrow.table(table), path)


@pytest.mark.parametrize("write", [as_npz, as_hdf5, as_parquet], ids=lambda w: w.__name__[3:])
def test_columns_of_any_scalar_type_are_kept(write, tmp_path):
    spec = write.__name__[3:]
    path = tmp_path / ("f.npz" if spec == "npz" else "f")
    write(path, {name: array for name, (array, _) in SCALARS.items()})
    facts, manifest = brought(f"{spec}:modality=visual", path, tmp_path)
    for name, (_, wanted) in SCALARS.items():
        assert list(manifest.column(name)) == wanted, name
    assert facts.left_out == []


def test_categories_and_times_are_kept_with_or_without_ids_in_parquet(tmp_path):
    table = pyarrow.table({
        "embedding": ROWS.tolist(),
        "class_name": pyarrow.array(["a", "b"] * 3).dictionary_encode(),
        "group": np.arange(CLIPS) // 2,
        "split": pyarrow.array(["train", "test"] * 3).dictionary_encode(),
        "when": pyarrow.array(np.arange(CLIPS), pyarrow.timestamp("s")),
        "tags": [["x", "y"]] * CLIPS,
        "other": [[1.0, 2.0]] * CLIPS,
    })  # fmt: skip
    for number, more in enumerate(({}, {"clip_id": IDS})):
        whole = table
        for name, cells in more.items():
            whole = whole.append_column(name, pyarrow.array(cells))
        parquet.write_table(whole, tmp_path / "f.parquet")
        facts = import_("parquet:modality=visual", tmp_path / "f.parquet", tmp_path / f"{number}")
        manifest = store.open(tmp_path / f"{number}").manifest()
        order = np.argsort(manifest.clip_ids) if more else np.arange(CLIPS)
        group = np.array(manifest.column("group"))[order]
        assert group.tolist() == ["0", "0", "1", "1", "2", "2"]
        assert set(manifest.column("split")) == {"train", "test"}
        assert set(manifest.column("tags")) == {"x;y"}
        assert manifest.column("when")[order[0]].startswith("1970-01-01")
        assert [name.split()[0] for name in facts.left_out] == ["other"]


def test_choices_among_names_are_their_names_in_hdf5(tmp_path):
    path = tmp_path / "f.h5"
    as_hdf5(path, {"label": np.zeros(CLIPS)})
    with h5py.File(path, "r+") as file:
        kind = h5py.enum_dtype({"cat": 0, "dog": 1}, "i4")
        file.create_dataset("split", data=np.arange(CLIPS) % 2, dtype=kind)
        file["matrix"] = np.zeros((CLIPS, 2))
        file["long"] = np.zeros(CLIPS + 1)
    facts, manifest = brought("hdf5:modality=visual", path, tmp_path)
    assert manifest.column("split") == ("cat", "dog") * 3
    assert set(manifest.column("label")) == {"0"}
    assert [name.split()[0] for name in facts.left_out] == ["matrix", "long"]


def test_columns_of_rows_are_left_out_and_named(tmp_path):
    np.savez(
        tmp_path / "f.npz", values=ROWS, clip_id=np.repeat(["a", "b", "c"], 2),
        frame=np.arange(CLIPS), group=np.repeat([1, 2, 3], 2),
    )  # fmt: skip
    facts, manifest = brought("npz:modality=visual", tmp_path / "f.npz", tmp_path)
    assert facts.left_out == ["frame (differs between the rows of a clip)"]
    assert manifest.column("group") == ("1", "2", "3")
    write_npz(tmp_path / "g.npz", clip_id=np.repeat(["a", "b", "c"], 2), group=np.arange(CLIPS))
    refused("npz", tmp_path / "g.npz", tmp_path / "no", "has the group '0' and '1'")


@pytest.mark.parametrize("odd", [np.nan, 2.7, np.inf])
def test_labels_that_are_no_class_are_refused(odd, tmp_path):
    labels = np.array([0, 0, 1, 1, 2, odd], np.float32)
    content = {"features": torch.from_numpy(ROWS), "labels": torch.from_numpy(labels), "paths": IDS}
    torch.save(content, tmp_path / "f.pt")
    refused("coop", tmp_path / "f.pt", tmp_path, "which is no class")
    write_npz(tmp_path / "f.npz", label=labels)
    refused("npz", tmp_path / "f.npz", tmp_path, "which is no class")
    as_hdf5(tmp_path / "f.h5", {"label": labels})
    refused("hdf5", tmp_path / "f.h5", tmp_path, "which is no class")


def test_whole_labels_may_be_floats_or_names(tmp_path):
    for number, labels in enumerate((torch.tensor([0.0, 0, 1, 1, 2, 2]), torch.arange(6) // 2)):
        content = {"features": torch.from_numpy(ROWS), "labels": labels, "paths": IDS}
        torch.save({**content, "classnames": ["x", "y", "z"]}, tmp_path / "f.pt")
        import_("coop", tmp_path / "f.pt", tmp_path / f"fs{number}")
        manifest = store.open(tmp_path / f"fs{number}").manifest()
        assert manifest.column("label") == ("x", "x", "y", "y", "z", "z")


def test_names_that_are_objects_say_how_they_are_read(tmp_path):
    write_npz(tmp_path / "f.npz", clip_id=np.array(IDS, object), label=np.array(IDS, object))
    refused("npz", tmp_path / "f.npz", tmp_path, "clip_id holds objects.*`trust_pickle`.*astype")
    _, manifest = brought("npz:modality=visual", tmp_path / "f.npz", tmp_path, trust_pickle=True)
    assert sorted(manifest.clip_ids) == IDS
    assert sorted(manifest.column("label")) == IDS


def test_what_a_setting_would_say_is_told(tmp_path):
    write_npz(tmp_path / "f.npz", labels=np.arange(CLIPS))
    facts, manifest = brought("npz", tmp_path / "f.npz", tmp_path)
    assert manifest.column("labels") == ("0", "1", "2", "3", "4", "5")
    assert [("npz:modality=visual" in n, "npz:label=NAME" in n) for n in facts.notes] == [
        (True, False), (False, True),
    ]  # fmt: skip
    assert "its columns are labels" in facts.notes[1]
    quiet = import_("npz:modality=audio,label=labels", tmp_path / "f.npz", tmp_path / "again")
    assert quiet.notes == []


@pytest.mark.parametrize("scale", [1e-9, 1e-6])
def test_rows_too_small_for_the_store_are_refused_with_the_factor(scale, tmp_path):
    write_npz(tmp_path / "f.npz", values=ROWS * scale)
    with pytest.raises(
        InputError, match=r"[56] of 6 clips are too small .* multiply the rows by (.*) "
    ) as e:
        import_("npz", tmp_path / "f.npz", tmp_path / "fs")
    factor = float(str(e.value).split("multiply the rows by ")[1].split()[0])
    write_npz(tmp_path / "g.npz", values=ROWS * scale * factor)
    facts, _ = brought("npz:modality=visual", tmp_path / "g.npz", tmp_path)
    assert (facts.bent, facts.notes) == (0, facts.notes)
    assert facts.status == {"ok": CLIPS}


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["store", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.store_main()
    return stop.value.code


@pytest.mark.parametrize(
    ("factor", "says"),
    [(1e6, "too large"), (1e-8, "too small"), (np.nan, "that are infinite or none")],
)
def test_one_clip_that_float16_cannot_hold_is_a_finding(
    factor, says, tmp_path, monkeypatch, capsys
):
    values = ROWS.copy()
    values[2] *= factor
    write_npz(tmp_path / "f.npz", values=values, label=np.array(IDS))
    command = ["import", tmp_path / "f.npz", "--format", "npz:modality=visual", "--store"]
    assert run(monkeypatch, *command, tmp_path / "a") == 1
    assert f"note: f: 1 clips hold numbers {says}" in capsys.readouterr().out
    assert run(monkeypatch, *command, tmp_path / "b", "--json") == 1
    assert says in json.loads(capsys.readouterr().out)["notes"][0]
    write_npz(tmp_path / "g.npz", label=np.array(IDS), matrix=np.ones((2, 2)))
    command[1] = tmp_path / "g.npz"
    assert run(monkeypatch, *command, tmp_path / "c") == 0
    assert "left out: matrix (float64[2, 2])" in capsys.readouterr().out
