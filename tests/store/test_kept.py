"""Rows of a kept manifest, taken from its files, against those of the manifest."""

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from store import Manifest
from store.errors import DamagedStore
from store.kept import KeptFile, KeptRows
from store.storage.storage import storage_at

CLIPS = tuple(f"clip{i}" for i in range(1000))
TABLE = {"path": CLIPS, "clip_id": CLIPS[::-1], "label": tuple("xy" * 500)}


@pytest.mark.parametrize(("piece", "group"), [(1 << 30, 1 << 16), (1 << 30, 64), (9000, 64)])
def test_rows_are_those_of_the_manifest(fs, monkeypatch, piece, group):
    monkeypatch.setattr("store.manifest.PIECE_BYTES", piece)
    monkeypatch.setattr("store.manifest.GROUP_ROWS", group)
    manifest = Manifest(table=TABLE)
    files = fs.add_manifest(manifest)
    assert fs.add_manifest(manifest) == files
    assert sum(file.rows for file in files) == 1000
    assert (len(files) > 1) == (piece == 9000)
    kept = KeptRows(fs.storage, files)
    rng = np.random.default_rng(0)
    for _ in range(30):
        rows = np.sort(rng.choice(1000, rng.integers(1, 300), replace=False))
        found = kept.take(rows, ("path", "clip_id", "start_seconds"))
        wanted = {name: tuple(TABLE[name][i] for i in rows) for name in ("path", "clip_id")}
        assert dict(found) == wanted
    assert dict(manifest.cells.whole(["label", "none"]).take(np.array([3, 1]))) == {
        "label": ("y", "y")
    }


def test_a_file_that_is_gone_or_another_is_told(fs):
    files = fs.add_manifest(Manifest(table=TABLE))
    path = fs.path / files[0].key
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b""):
        path.write_bytes(data)
        with pytest.raises(DamagedStore, match=r"manifests/.*cannot be read"):
            KeptRows(fs.storage, files).take(np.arange(3), ("path",))
    other = fs.add_manifest(Manifest(table={"path": ("a",), "clip_id": ("a",)}))
    path.write_bytes((fs.path / other[0].key).read_bytes())
    with pytest.raises(DamagedStore, match="is not the manifest that was kept"):
        KeptRows(fs.storage, files).take(np.arange(1), ("path",))


def test_text_that_is_none_is_damage(tmp_path):
    places = pyarrow.py_buffer(np.array([0, 2, 4], np.int32).tobytes())
    text = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, places, pyarrow.py_buffer(b"\xff\xfeab")]
    )
    parquet.write_table(pyarrow.table({"clip_id": text}), tmp_path / "m.parquet")
    rows = KeptRows(storage_at(str(tmp_path)), [KeptFile(key="m.parquet", rows=2)])
    with pytest.raises(DamagedStore, match=r"m\.parquet cannot be read \(.*UTF8"):
        rows.take(np.array([0]), ["clip_id"])
