"""The layout of Hugging Face's datasets: what others write is read, and what we write is plain."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import store
from store.errors import InputError
from store.exchange.exchange import export, import_
from store.testing import fill


def test_files_and_card_are_as_datasets_finds_them(tmp_path):
    fs = fill(tmp_path / "s", clips=40, rows=3, dim=4, classes=4, silent_share=0.3)
    export(fs, "hf", tmp_path / "out")
    head, card = (tmp_path / "out" / "README.md").read_text().split("---\n")[1:3]
    configs = json.loads(head.strip().removeprefix("configs: "))
    assert [config["config_name"] for config in configs] == fs.features
    for config in configs:
        clips = 0
        for of_split in config["data_files"]:
            (path,) = (tmp_path / "out").glob(of_split["path"])
            table = parquet.read_table(path)
            assert set(table.column("split").to_pylist()) == {of_split["split"]}
            clips += table.num_rows
            for row in table.to_pylist():
                assert (row["embedding"] is None) == (row["rows"] == [])
                if row["rows"]:
                    mean = np.mean(np.array(row["rows"], np.float64), axis=0)
                    np.testing.assert_allclose(row["embedding"], mean, rtol=1e-3, atol=1e-5)
        assert clips == 40
    assert all(name in card for name in fs.features)


def test_a_table_of_others_is_a_row_a_clip(tmp_path):
    (tmp_path / "data").mkdir()
    vectors = [[1.0, 2.0], None, [3.0, 4.0]]
    table = {
        "id": ["a", "b", "c"], "vector": pyarrow.array(vectors, pyarrow.list_(pyarrow.float32())),
        "label": [0, 1, 0],
    }  # fmt: skip
    parquet.write_table(pyarrow.table(table), tmp_path / "data" / "train.parquet")
    with pytest.raises(InputError, match=r"hf:embedding=NAME,clip_id=NAME"):
        import_("hf", tmp_path / "data", tmp_path / "no")
    facts = import_(
        "hf:embedding=vector,clip_id=id,modality=visual", tmp_path / "data", tmp_path / "s"
    )
    assert facts.status == {"ok": 2, "empty": 1}
    fs = store.open(tmp_path / "s")
    (feature,) = (fs[name] for name in fs.features)
    assert feature.modality == "visual"
    assert feature.read(["c"])[0].tolist() == [[3.0, 4.0]]
    assert fs.manifest().column("label") == ("0", "1", "0")


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([[[1.0, 2.0]], [[1.0]]], "not of one length"),
        ([[[1.0, None]], [[1.0, 2.0]]], "lack numbers"),
        ([["a"], ["b"]], "not a list of numbers"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, match, tmp_path):
    parquet.write_table(
        pyarrow.table({"clip_id": ["a", "b"], "rows": rows}), tmp_path / "t.parquet"
    )
    with pytest.raises(InputError, match=match):
        import_("hf", tmp_path / "t.parquet", tmp_path / "s")


def test_datasets_opens_an_export_and_what_it_writes_is_read_back(tmp_path):
    datasets = pytest.importorskip("datasets")
    fs = fill(tmp_path / "s", clips=30, rows=3, dim=4, classes=3)
    export(fs, "hf", tmp_path / "out", features=[fs.features[0]])
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    (tmp_path / "again").mkdir()
    for split, part in loaded.items():
        part.to_parquet(Path(tmp_path / "again" / f"{split}.parquet"))
    import_("hf:modality=visual", tmp_path / "again", tmp_path / "t")
    back = store.open(tmp_path / "t")
    ids = fs[fs.features[0]].clip_ids
    for mine, other in zip(
        fs[fs.features[0]].read(ids), back[back.features[0]].read(ids), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
