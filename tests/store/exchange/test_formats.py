"""Each format by the letter of its publication, and the ways a file can lie."""

import io
import os
import pickle
import zipfile
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from pyarrow import parquet

import store
from store import Status
from store.errors import ConfigError, InputError, UnknownFeature
from store.exchange import exchange, importing
from store.exchange.exchange import export, import_
from store.exchange.formats import Clips
from store.exchange.formats._names import quoted, unquoted
from store.exchange.formats._torch import write_torch
from store.testing import fill

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    path = tmp_path_factory.mktemp("filled") / "fs"
    return fill(path, clips=60, rows=4, dim=8, classes=6, silent_share=0.2, clips_per_unit=30)


def rows_of(feature, clip):
    return feature.read([clip])[0]


def brought(spec, source, target, *, trust=False):
    facts = import_(spec, source, target, trust_pickle=trust)
    back = store.open(target)
    return [back[name] for name in facts.features], back.manifest()


def refused(spec, source, target, match, *, trust=True):
    with pytest.raises(InputError, match=match) as caught:
        import_(spec, source, target, trust_pickle=trust)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def cells(manifest, column):
    return dict(zip(manifest.clip_ids, manifest.column(column), strict=True))


# ── the two functions ────────────────────────────────────────────────────────────────────────────


def test_one_feature_must_be_named_where_a_format_holds_one(fs, tmp_path):
    with pytest.raises(InputError, match=r"holds one feature, these are 2.*synthetic-audio"):
        export(fs, "npz", tmp_path / "out.npz")
    with pytest.raises(UnknownFeature):
        export(fs, "npz", tmp_path / "out.npz", features=("nothing",))
    assert list(tmp_path.iterdir()) == []


def test_the_output_needs_a_directory(fs, tmp_path):
    with pytest.raises(InputError, match="no directory"):
        export(fs, "hdf5", tmp_path / "nowhere" / "out.h5")


def test_a_full_disk_leaves_nothing(fs, tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exchange.atomic, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        export(fs, "hdf5", tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_clip(fs, tmp_path):
    seen = []
    export(fs, "hdf5", tmp_path / "out.h5", progress=lambda *report: seen.append(report))
    assert seen[-1] == (120, 120)
    seen.clear()
    import_(
        "hdf5", tmp_path / "out.h5", tmp_path / "back", progress=lambda *report: seen.append(report)
    )
    assert seen[-1] == (120, 120)


def test_another_file_is_another_feature(tmp_path):
    names = []
    for scale in (1, 2):
        write_npz(tmp_path / "f.npz", values=np.ones((2, 3)) * scale, clip_id=["a", "b"])
        (feature,), _ = brought("npz", tmp_path / "f.npz", tmp_path / "fs")
        names.append(feature.name)
    assert len(set(names)) == 2
    assert store.open(tmp_path / "fs").features == sorted(names)


def test_an_import_keeps_what_the_store_knows_of_its_clips(fs, tmp_path):
    """Paths, labels and splits that the file does not speak of."""
    here = fill(tmp_path / "fs", clips=6, rows=1, dim=2, classes=3)
    before = here.manifest()
    write_npz(
        tmp_path / "f.npz",
        values=np.ones((2, 3)),
        clip_id=[before.clip_ids[0], "new"],
        label=["", "fish"],
        mood=["calm", ""],
    )
    import_("npz", tmp_path / "f.npz", tmp_path / "fs")
    after = here.manifest()
    for column in before.columns:
        assert cells(after, column).items() >= cells(before, column).items()
    assert cells(after, "mood")[before.clip_ids[0]] == "calm"
    assert (cells(after, "label")["new"], cells(after, "path")["new"]) == ("fish", "new")


def test_an_import_never_takes_back_a_later_label(tmp_path):
    write_npz(tmp_path / "f.npz", values=np.ones((1, 3)), clip_id=["a"], label=["cat"])
    import_("npz", tmp_path / "f.npz", tmp_path / "fs")
    here = store.open(tmp_path / "fs")
    later = {"path": ("a",), "clip_id": ("a",), "label": ("tiger",)}
    here.add_manifest(store.Manifest(table=later))
    import_("npz", tmp_path / "f.npz", tmp_path / "fs")
    assert here.manifest().column("label") == ("tiger",)


@pytest.mark.parametrize("clip", ["/etc/passwd", "../../up", "http://x/y.mp4", "C:\\x"])
def test_clip_ids_that_are_no_paths_get_one(clip, tmp_path):
    write_npz(tmp_path / "f.npz", values=np.ones((1, 3)), clip_id=[clip])
    (feature,), manifest = brought("npz", tmp_path / "f.npz", tmp_path / "fs")
    assert feature.clip_ids == [clip]
    assert manifest.paths[0].startswith("imported/")


def test_numbers_too_large_for_the_store_become_a_status(tmp_path):
    values = np.array([[1.0, 2], [np.nan, 0], [1e6, 0], [3, 4]])
    write_npz(
        tmp_path / "f.npz", values=values, offsets=[0, 2, 3, 4], clip_id=["nan", "large", "fine"]
    )
    (feature,), _ = brought("npz", tmp_path / "f.npz", tmp_path / "fs")
    wanted = [Status.NOT_FINITE, Status.NOT_FINITE, Status.OK]
    assert feature.status_of(["nan", "large", "fine"]).tolist() == wanted
    np.testing.assert_array_equal(rows_of(feature, "fine"), [[3, 4]])


def test_units_depend_on_nothing_but_the_clips(monkeypatch):
    monkeypatch.setattr(importing, "UNIT_CLIPS", 4)
    monkeypatch.setattr(importing, "UNIT_ROWS", 9)
    counts = RNG.integers(0, 6, 50)
    whole = block(counts, 0)
    ends = np.concatenate([[0], np.cumsum(counts)])
    for cuts in ([50], [1] * 50, [7, 20, 23], [4, 0, 46]):
        bounds = np.cumsum([0, *cuts])
        parts = [block(counts[a:b], a) for a, b in pairwise(bounds)]
        units = list(importing.units(iter(parts)))
        assert [clips.clip_ids for clips in units] == [
            clips.clip_ids for clips in importing.units(iter([whole]))
        ]
        assert all(len(c.clip_ids) <= 4 for c in units)
        assert all(len(c.values) <= 9 for c in units)
        joined = np.concatenate([clips.values[:, 0] for clips in units])
        assert sum(len(c.clip_ids) for c in units) == 50
        first = np.concatenate([np.full(n, i) for i, n in enumerate(counts)])
        np.testing.assert_array_equal(joined, first)
        assert len(joined) == ends[-1]


def block(counts, first):
    counts = np.asarray(counts, np.int64)
    return Clips(
        clip_ids=tuple(f"c{first + i}" for i in range(len(counts))),
        values=np.repeat(np.arange(first, first + len(counts), dtype=np.float32), counts)[:, None],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        row_time_ms=np.zeros(counts.sum(), np.int32),
        status=np.where(counts > 0, Status.OK, Status.EMPTY).astype(np.uint8),
        columns={},
    )


HARD_NAMES = [
    "a/b", "..", ".", ".hidden", "a\\b", "50%", "50%25", "a%2Fb", "trailing.", "NUL:", "é, ü", " x",
]  # fmt: skip


@pytest.mark.parametrize("name", HARD_NAMES)
def test_names_stay_in_their_directory_and_come_back(name):
    made = quoted(name)
    assert unquoted(made) == name
    assert Path(made).parts == (made,)
    assert made not in (".", "..")
    assert not set(made) & set('/\\\0:*?"<>|')


def test_a_name_too_long_is_an_error(fs, tmp_path):
    with pytest.raises(InputError, match="cannot be a file name"):
        quoted("x" * 300)


# ── npz and HDF5 ─────────────────────────────────────────────────────────────────────────────────


def write_npz(path, compressed=False, **arrays):
    write = np.savez_compressed if compressed else np.savez
    write(path, **{name: np.asarray(array) for name, array in arrays.items()})


GOOD = {
    "values": np.ones((3, 2), np.float32),
    "offsets": [0, 2, 3],
    "clip_id": ["a", "b"],
    "row_time_ms": np.array([0, 5, 0], np.int32),
    "status": np.array([0, 0], np.uint8),
    "label": ["x", "y"],
}
LIES = {
    "no rows": ({"values": None}, "no rows"),
    "no names": ({"clip_id": None}, "no 'clip_id'"),
    "one axis": ({"values": np.ones(3)}, "no rows|axes"),
    "text for rows": ({"values": np.array([["a", "b"]] * 3)}, "not rows of numbers"),
    "a name too few": ({"clip_id": ["a"]}, "belong there|not one item"),
    "a name twice": ({"clip_id": ["a", "a"]}, "twice"),
    "an empty name": ({"clip_id": ["a", ""]}, "is empty"),
    "a line in a name": ({"clip_id": ["a", "b\nc"]}, "control character"),
    "a line in a label": ({"label": ["x", "y\x1b"]}, "control character"),
    "offsets that fall": ({"offsets": [0, 4, 3]}, "offsets"),
    "offsets beyond": ({"offsets": [0, 2, 4]}, "offsets"),
    "offsets from 1": ({"offsets": [1, 2, 3]}, "offsets"),
    "offsets of fractions": ({"offsets": [0.0, 2.0, 3.0]}, "offsets"),
    "times that fall": ({"row_time_ms": np.array([5, 0, 0], np.int32)}, "go backwards"),
    "times too large": ({"row_time_ms": np.array([0, 5, 1 << 40])}, "no int32"),
    "a time too few": ({"row_time_ms": np.array([0, 5], np.int32)}, "belong there"),
    "a status there is not": ({"status": np.array([0, 99], np.uint8)}, "does not exist"),
    "failed with rows": ({"status": np.array([0, 17], np.uint8)}, "decode-error with 1 rows"),
    "a label too few": ({"label": ["x"]}, "not one item|belong"),
    "no clips": ({"values": np.ones((0, 2)), "offsets": [0], "clip_id": np.array([], "U1"),
                  "row_time_ms": np.zeros(0, np.int32), "status": np.zeros(0, np.uint8),
                  "label": np.array([], "U1")}, "no clips"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "match"), LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_arrays_that_do_not_fit_are_refused(kind, change, match, tmp_path):
    if kind == "hdf5" and "label" in change and len(change["label"]) == 1:
        pytest.skip("in HDF5 a dataset of another length is no column")
    arrays = {k: np.asarray(v) for k, v in {**GOOD, **change}.items() if v is not None}
    path = tmp_path / "f"
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                if array.dtype.kind == "U":
                    file.create_dataset(name, data=array.astype(object), dtype=h5py.string_dtype())
                else:
                    file[name] = array
    if "no rows" in match and kind == "hdf5":
        match = "no dataset 'values'|axes"
    refused(kind, path, tmp_path / "fs", match)


def test_rows_of_one_name_are_one_clip(tmp_path):
    write_npz(
        tmp_path / "f.npz",
        x=np.arange(8.0).reshape(4, 2),
        who=np.array([b"a", b"b", b"a", b"c"]),
        y=[1, 2, 1, 3],
    )
    spec = "npz:values=x,clip_id=who,label=y,modality=audio,name=Toy Net,hop_seconds=0.5"
    (feature,), manifest = brought(spec, tmp_path / "f.npz", tmp_path / "fs")
    assert feature.clip_ids == ["a", "b", "c"]
    np.testing.assert_array_equal(rows_of(feature, "a"), [[0, 1], [4, 5]])
    assert feature.read_times(["a"]).tolist() == [0, 500]
    assert cells(manifest, "label") == {"a": "1", "b": "2", "c": "3"}
    assert (feature.modality, feature.name[:17]) == ("audio", "imported-toy-net-")


def test_object_arrays_and_bombs_in_npz_are_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "o.npz", values=np.ones((1, 2)), clip_id=np.array([{}], object))
    refused("npz", tmp_path / "o.npz", tmp_path / "fs", "holds objects", trust=False)
    refused("npz", tmp_path / "o.npz", tmp_path / "fs", "dict where a name belongs")
    write_npz(tmp_path / "b.npz", True, values=np.zeros((40_000, 500)), clip_id=["a"])
    assert (tmp_path / "b.npz").stat().st_size < 1 << 18
    refused("npz", tmp_path / "b.npz", tmp_path / "fs", "swells from")
    header = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 4)}
    np.lib.format.write_array_header_1_0(header, description)
    with zipfile.ZipFile(tmp_path / "h.npz", "w") as archive:
        archive.writestr("values.npy", header.getvalue() + b"\0" * 64)
    refused("npz", tmp_path / "h.npz", tmp_path / "fs", "not as large as it says")


def test_hdf5_is_plain_to_h5py(fs, tmp_path):
    export(fs, "hdf5", tmp_path / "f.h5")
    feature = fs["synthetic-visual"]
    with h5py.File(tmp_path / "f.h5") as file:
        group = file[feature.name]
        ids = group["clip_id"].asstr()[:].tolist()
        values, offsets = feature.read(ids)
        np.testing.assert_array_equal(group["values"][:], values)
        np.testing.assert_array_equal(group["offsets"][:], offsets)
        np.testing.assert_array_equal(group["row_time_ms"][:], feature.read_times(ids))
        assert group["columns/label"].asstr()[:].tolist() == [
            cells(fs.manifest(), "label")[clip] for clip in ids
        ]
        assert group["values"].chunks[1] == 8


def test_hdf5_is_written_part_by_part(fs, tmp_path, monkeypatch):
    """No block holds more than one part, whatever the store holds."""
    largest = []
    monkeypatch.setattr(
        exchange, "Clips", lambda **made: largest.append(len(made["clip_ids"])) or Clips(**made)
    )
    export(fs, "hdf5", tmp_path / "f.h5")
    assert largest == [30] * 4


def test_hdf5_follows_nothing_out_of_the_file(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["values"] = np.ones((1, 2))
    (tmp_path / "raw").write_bytes(b"\0" * 16)
    layout = h5py.VirtualLayout((1, 2), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "values", (1, 2))
    for number, make in enumerate((
        lambda f: f.__setitem__("values", h5py.ExternalLink(str(tmp_path / "secret.h5"), "values")),
        lambda f: f.__setitem__("values", h5py.SoftLink("/elsewhere")),
        lambda f: f.create_virtual_dataset("values", layout),
        lambda f: f.create_dataset("values", (1, 2), "f8", external=[(tmp_path / "raw", 0, 16)]),
    )):  # fmt: skip
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            make(file)
            file["elsewhere"] = np.ones((1, 2))
            file["clip_id"] = np.array(["a"], object)
        refused("hdf5", path, tmp_path / "fs", "not followed")


def test_hdf5_that_swells_is_refused(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("values", (1 << 40, 64), "f4", chunks=(1024, 64))
        file["clip_id"] = np.array(["a"], object)
    refused("hdf5", tmp_path / "f.h5", tmp_path / "fs", "swells from 0")


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────────


def test_parquet_as_easyfsl_reads_it(fs, tmp_path):
    feature = fs["synthetic-visual"]
    facts = export(fs, "parquet", tmp_path / "f.parquet", features=(feature.name,))
    table = parquet.read_table(tmp_path / "f.parquet", columns=["embedding", "class_name"])
    frame = table.to_pydict()
    assert set(frame["class_name"]) == {f"class{i:03d}" for i in range(6)}
    assert len(frame["embedding"]) == facts.clips == 60
    rows = rows_of(feature, feature.clip_ids[0]).astype(np.float64)
    np.testing.assert_allclose(frame["embedding"][0], rows.mean(0), rtol=1e-6)
    compression = parquet.ParquetFile(tmp_path / "f.parquet").metadata.row_group(0).column(0)
    assert compression.compression == "GZIP"


def test_parquet_without_ids_numbers_the_rows_of_a_class(tmp_path):
    import pyarrow

    rows = [[1.0, 2], [3, 4], [5, 6]]
    table = pyarrow.table({"embedding": rows, "class_name": ["é/1", "b", "é/1"]})
    parquet.write_table(table, tmp_path / "f.parquet")
    (feature,), manifest = brought("parquet", tmp_path / "f.parquet", tmp_path / "fs")
    assert feature.clip_ids == ["é/1/000000", "b/000000", "é/1/000001"]
    np.testing.assert_array_equal(rows_of(feature, "é/1/000001"), [[5, 6]])
    assert manifest.column("label") == ("é/1", "b", "é/1")


def test_parquet_row_by_row_keeps_rows_and_times(fs, tmp_path):
    feature = fs["synthetic-audio"]
    export(fs, "parquet:rows=each", tmp_path / "f", features=(feature.name,))
    (back,), _ = brought("parquet", tmp_path / "f", tmp_path / "fs")
    for clip in back.clip_ids:
        np.testing.assert_array_equal(rows_of(back, clip), rows_of(feature, clip))
        np.testing.assert_array_equal(back.read_times([clip]), feature.read_times([clip]))
    with pytest.raises(ConfigError, match="is none of each, mean"):
        export(fs, "parquet:rows=some", tmp_path / "g", features=(feature.name,))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"embedding": [[1.0], [1.0, 2.0]], "class_name": ["a", "b"]}, "not of one length"),
        ({"embedding": [[1.0], None], "class_name": ["a", "b"]}, "not lists of numbers"),
        ({"embedding": [1.0, 2.0], "class_name": ["a", "b"]}, "not lists of numbers"),
        ({"embedding": [["x"], ["y"]], "class_name": ["a", "b"]}, "not rows of numbers"),
        ({"embedding": [[1.0], [2.0]]}, "no column 'class_name'"),
        ({"embedding": [[1.0], [2.0]], "class_name": ["a", None]}, "NoneType where a name"),
    ],
)
def test_parquet_that_is_not_easyfsls_is_refused(content, match, tmp_path):
    import pyarrow

    parquet.write_table(pyarrow.table(content), tmp_path / "f.parquet")
    refused("parquet", tmp_path / "f.parquet", tmp_path / "fs", match)


# ── AVCA and TCaF ────────────────────────────────────────────────────────────────────────────────

STAGES = {
    "stage_1_train": ["Typing"],
    "stage_1_val_unseen": ["Müsli, crunching"],
    "stage_2_train": ["Typing", "Müsli, crunching"],
    "stage_2_test_unseen": ["Skiing"],
}


def published(top, suffix, write, folders=("audio", "video")):
    """Two clips a class, as the published scripts lay them out."""
    rows = {}
    for folder in folders:
        for stage, classes in STAGES.items():
            for name in classes:
                names = [f"v_{name}_{i}".replace(" ", "") for i in range(2)]
                for clip in names:
                    rows.setdefault((folder, clip), RNG.standard_normal((2, 5)).astype(np.float32))
                path = top / "features" / "main_features" / folder / stage / f"{name}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, names, [rows[folder, clip] for clip in names])
    return rows


def write_avca(path, names, rows):
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=np.stack([r[0] for r in rows]))
        kind = h5py.special_dtype(vlen=str)
        file.create_dataset("video_urls", dtype=kind, data=[n.encode() for n in names])


def write_tcaf(path, names, rows):
    content = {"features": rows, "video_names": [n.encode() for n in names], "fps": [25, 50]}
    path.write_bytes(pickle.dumps(content))


def check_tree(features, manifest):
    assert [f.modality for f in features] == ["audio", "visual"]
    ids = [f"v_{name}_{i}" for name in ("Müsli,crunching", "Skiing", "Typing") for i in range(2)]
    assert sorted(manifest.clip_ids) == sorted(features[0].clip_ids) == ids
    assert not any("b'" in clip for clip in manifest.clip_ids)
    assert cells(manifest, "label")["v_Müsli,crunching_0"] == "Müsli, crunching"
    split = cells(manifest, "split")
    assert [split[f"v_{n}_1"] for n in ("Typing", "Müsli,crunching", "Skiing")] == [
        "train", "val", "test",
    ]  # fmt: skip
    assert cells(manifest, "stage")["v_Typing_0"] == "stage_1_train;stage_2_train"


@pytest.mark.parametrize("inside", [".", "features", "features/main_features"])
def test_avca_as_published(inside, tmp_path):
    rows = published(tmp_path / "UCF", ".h5", write_avca)
    features, manifest = brought("avca", tmp_path / "UCF" / inside, tmp_path / "fs")
    check_tree(features, manifest)
    wanted = rows["video", "v_Skiing_1"][:1].astype(np.float16)
    np.testing.assert_array_equal(rows_of(features[1], "v_Skiing_1"), wanted)


def test_tcaf_as_published(tmp_path):
    rows = published(tmp_path / "UCF", ".pkl", write_tcaf)
    refused("tcaf", tmp_path / "UCF", tmp_path / "fs", "`trust_pickle`", trust=False)
    features, manifest = brought("tcaf", tmp_path / "UCF", tmp_path / "fs", trust=True)
    check_tree(features, manifest)
    wanted = rows["audio", "v_Typing_0"].astype(np.float16)
    np.testing.assert_array_equal(rows_of(features[0], "v_Typing_0"), wanted)
    assert features[0].read_times(["v_Typing_0"]).tolist() == [0, 960]  # windows of sound
    assert features[1].read_times(["v_Typing_0"]).tolist() == [0, 640]  # 16 frames at 25
    assert features[1].read_times(["v_Typing_1"]).tolist() == [0, 320]  # and at 50


def test_trees_as_their_readers_read_them(fs, tmp_path):
    """The lines of the published readers, on what we write."""
    for name, suffix in (("avca", ".h5"), ("tcaf", ".pkl")):
        export(fs, f"{name}:set=cls_features", tmp_path / name)
        feature = fs["synthetic-visual"]
        row_of_clip = {}
        for path in (tmp_path / name).glob(f"features/cls_features/video/*/*{suffix}"):
            if name == "avca":
                with h5py.File(path, "r") as file:
                    data, urls = list(file["data"]), [str(u, "utf-8") for u in file["video_urls"]]
            else:
                content = pickle.loads(path.read_bytes())
                data, urls = content["features"], [n.decode() for n in content["video_names"]]
                # a row a second, and 16 frames a row; nothing is known of the rate of one row
                assert content["fps"] == [16.0 if len(rows) > 1 else 25.0 for rows in data]
            for row, url in zip(data, urls, strict=True):
                row_of_clip[url] = row
                assert path.stem == cells(fs.manifest(), "label")[url]
                assert path.parent.name == cells(fs.manifest(), "split")[url]
        assert set(row_of_clip) == set(feature.clip_ids)
        clip = feature.clip_ids[5]
        rows = rows_of(feature, clip).astype(np.float32)
        np.testing.assert_allclose(
            row_of_clip[clip], rows if name == "tcaf" else rows.mean(0), rtol=1e-5
        )


def test_word_embeddings_are_found_by_name(tmp_path):
    published(tmp_path / "UCF", ".h5", write_avca)
    folder = tmp_path / "UCF" / "features" / "main_features" / "text"
    folder.mkdir()
    words = {"Typing": np.arange(3.0), "Müsli": np.ones(3)}
    np.save(folder / "word_embeddings_ucf_normed.npy", words, allow_pickle=True)
    refused("avca:text", tmp_path / "UCF", tmp_path / "no", "`trust_pickle`", trust=False)
    features, manifest = brought("avca:text", tmp_path / "UCF", tmp_path / "fs", trust=True)
    assert [f.modality for f in features] == ["audio", "visual", "text"]
    np.testing.assert_array_equal(rows_of(features[2], "text/Typing"), [[0, 1, 2]])
    assert cells(manifest, "label")["text/Müsli"] == "Müsli"
    assert cells(manifest, "split")["text/Müsli"] == "text"


def test_trees_that_contradict_themselves_are_refused(fs, tmp_path):
    top = tmp_path / "UCF"
    published(top, ".h5", write_avca)
    class_file = top / "features/main_features/audio/stage_2_train/Typing.h5"
    write_avca(class_file, ["v_Typing_0", "v_Typing_1"], [np.zeros((1, 5))] * 2)
    refused("avca", top, tmp_path / "fs", "other rows in another file")
    write_avca(class_file, ["a", "b"], [np.zeros((1, 4))] * 2)
    refused("avca", top, tmp_path / "fs", "rows of 4 and of 5")
    class_file.unlink()
    with h5py.File(class_file, "w") as file:
        file["data"] = np.zeros((2, 5))
    refused("avca", top, tmp_path / "fs", "no 'video_urls'")
    with h5py.File(class_file, "w") as file:
        file["data"], file["video_urls"] = np.zeros((2, 5)), np.array(["a"], object)
    refused("avca", top, tmp_path / "fs", "1 names for 2 rows")
    (top / "features" / "cls_features" / "audio").mkdir(parents=True)
    refused("avca", top, tmp_path / "fs", "2 sets.*set=NAME: cls_features, main_features")
    refused("avca", class_file, tmp_path / "fs", "no directory")
    two = [f for f in fs.features if "visual" in f] * 2
    with pytest.raises(InputError, match="one visual and one audio"):
        export(fs, "avca", tmp_path / "out", features=two)


def test_tcaf_that_does_not_fit_is_refused(tmp_path):
    good = {"features": [np.ones((2, 3))], "video_names": [b"a"], "fps": [25]}
    for change, match in (
        ({"video_names": [b"a", b"b"]}, "2 names for 1 sequences"),
        ({"features": [np.ones((2, 3)), np.ones((2, 4))], "video_names": [b"a", b"b"]}, r"3, 4"),
        ({"video_names": [b"\xff\xfe"]}, "not UTF-8"),
        ({"video_names": [1.5]}, "float where a name"),
        ({"fps": [0]}, "fps"),
        ({"features": [np.array(["x"])]}, "not rows of numbers"),
        ({"row_time_ms": [np.array([0], np.int32)]}, "row_time_ms"),
    ):
        path = tmp_path / "f" / "audio" / "train" / "x.pkl"
        if "fps" in change:
            path = tmp_path / "g" / "video" / "train" / "x.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps({**good, **change}))
        refused("tcaf", path.parents[2], tmp_path / "fs", match)


# ── CoOp ─────────────────────────────────────────────────────────────────────────────────────────


def test_coop_is_a_file_of_torch(fs, tmp_path):
    feature = fs["synthetic-audio"]
    facts = export(fs, "coop", tmp_path / "f.pt", features=(feature.name,))
    saved = torch.load(tmp_path / "f.pt", weights_only=True)
    assert saved["features"].shape == (facts.clips, 8)
    assert (saved["features"].dtype, saved["labels"].dtype) == (torch.float32, torch.int64)
    for row, label, path in zip(saved["features"], saved["labels"], saved["paths"], strict=True):
        mean = rows_of(feature, path).astype(np.float64).mean(0)
        np.testing.assert_allclose(row.numpy(), mean, rtol=1e-5, atol=1e-6)
        assert saved["classnames"][label] == cells(fs.manifest(), "label")[path]
    saved["features"] += 1  # an ordinary, writable tensor


def coop(views=1, dtype=torch.float32):
    """As the published script saves it; several views of a path follow each other."""
    paths = [f"/data/{name}.jpg" for name in "abc"] * views
    rows = torch.arange(len(paths) * 2).reshape(-1, 2).to(dtype)
    return {"features": rows, "labels": torch.tensor([0, 1, 0] * views), "paths": paths}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_coop_as_torch_saves_it(dtype, legacy, tmp_path):
    content = {"train": coop(2, dtype), "val": coop(1, dtype)}
    content["val"]["paths"] = ["x", "y", "z"]
    path = tmp_path / "f.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if legacy:
        refused("coop", path, tmp_path / "fs", "`trust_pickle`", trust=False)
    (feature,), manifest = brought("coop", path, tmp_path / "fs", trust=legacy)
    np.testing.assert_array_equal(rows_of(feature, "/data/b.jpg"), [[2, 3], [8, 9]])
    np.testing.assert_array_equal(rows_of(feature, "z"), [[4, 5]])
    assert cells(manifest, "split") == {
        **{f"/data/{n}.jpg": "train" for n in "abc"}, **dict.fromkeys("xyz", "val"),
    }  # fmt: skip
    assert cells(manifest, "label")["y"] == "1"


def test_coop_views_of_a_larger_storage_are_read_right(tmp_path):
    large = torch.arange(60.0).reshape(6, 10)
    content = {**coop(), "features": large[1:4, 2:8:3], "lab2cname": {0: "cat", 1: "dog"}}
    torch.save(content, tmp_path / "f.pt")
    (feature,), manifest = brought("coop", tmp_path / "f.pt", tmp_path / "fs")
    np.testing.assert_array_equal(rows_of(feature, "/data/a.jpg"), [[12, 15]])
    np.testing.assert_array_equal(rows_of(feature, "/data/c.jpg"), [[32, 35]])
    assert manifest.column("label") == ("cat", "dog", "cat")


def test_coop_that_lies_is_refused(tmp_path, monkeypatch):
    path, target = tmp_path / "f.pt", tmp_path / "fs"
    for change, match in (
        ({"labels": torch.tensor([0])}, "3 features, 1 labels and 3 paths"),
        ({"paths": ["a"]}, "1 paths"),
        ({"features": torch.ones(3)}, "not rows of numbers"),
        ({"features": "x"}, "not rows of numbers|no array"),
        ({"features": torch.ones(3, 2).requires_grad_().to_sparse()}, "holds torch"),
        ({"features": torch.nn.Linear(1, 1)}, "holds torch"),
    ):
        torch.save({**coop(), **change}, path)
        refused("coop", path, target, match)
    torch.save({"features": torch.ones(1, 1)}, path)
    refused("coop", path, target, "no key 'labels'")

    torch.save(coop(), path)
    data = path.read_bytes()

    def rewrite(change, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w", compression) as f:
            for name in old.namelist():
                if (content := change(name, old.read(name))) is not None:
                    f.writestr(name, content)

    rewrite(lambda name, content: content, zipfile.ZIP_DEFLATED)
    refused("coop", path, target, "is compressed")
    rewrite(lambda name, content: content[:-4] if "/data/" in name else content)
    refused("coop", path, target, "not as large as it says")
    rewrite(lambda name, content: None if "/data/" in name else content)
    refused("coop", path, target, "cannot be read")
    rewrite(lambda name, content: b"big" if name.endswith("byteorder") else content)
    refused("coop", path, target, "little-endian")
    # the stride of the features, 2, said to be 100
    rewrite(lambda name, content: content.replace(b"K\x02K\x01\x86", b"KdK\x01\x86"))
    refused("coop", path, target, "larger than its storage")


def test_torch_files_hold_empty_and_whole_tensors(tmp_path):
    content = {
        "none": np.empty((0, 3), np.float32),
        "ints": np.arange(6).reshape(2, 3),
        "many": np.ones((300, 70000 // 300), np.float32),
        "text": ["é", ""],
    }
    write_torch(tmp_path / "f.pt", content)
    saved = torch.load(tmp_path / "f.pt", weights_only=True)
    assert saved.pop("text") == content.pop("text")
    for name, array in content.items():
        np.testing.assert_array_equal(saved[name].numpy(), array)


# ── SimpleShot ───────────────────────────────────────────────────────────────────────────────────


def test_simpleshot_as_pickled(tmp_path):
    from collections import defaultdict

    vectors, fc = defaultdict(list), defaultdict(list)
    for i in range(4):
        vectors[i % 2].append(np.full(3, i, np.float32))
        fc[i % 2].append(np.full(2, i, np.float32))
    content = [np.full(3, 9, np.float32), np.full(2, 8, np.float32), vectors, fc]
    (tmp_path / "output.plk").write_bytes(pickle.dumps(content))
    refused("simpleshot", tmp_path / "output.plk", tmp_path / "no", "`trust_pickle`", trust=False)
    spec = "simpleshot:name=conv4"
    features, manifest = brought(spec, tmp_path / "output.plk", tmp_path / "fs", trust=True)
    assert [f.dim for f in features] == [3, 2]
    np.testing.assert_array_equal(rows_of(features[0], "1/000001"), [[3, 3, 3]])
    np.testing.assert_array_equal(rows_of(features[1], "0/000000"), [[0, 0]])
    train = manifest.select(split="train")
    np.testing.assert_array_equal(rows_of(features[0], train.clip_ids[0]), [[9, 9, 9]])
    assert len(train) == 1
    assert train.column("label") == ("",)


def test_simpleshot_sets_the_base_classes_apart(fs, tmp_path):
    feature, manifest = fs["synthetic-visual"], fs.manifest()
    export(fs, "simpleshot", tmp_path / "f.plk", features=(feature.name,))
    mean, _, vectors, _ = pickle.loads((tmp_path / "f.plk").read_bytes())
    base = manifest.select(split="train").clip_ids
    wanted = np.mean([rows_of(feature, c).astype(np.float64).mean(0) for c in base], axis=0)
    np.testing.assert_allclose(mean, wanted, rtol=1e-5, atol=1e-6)
    labels = cells(manifest, "label")
    assert set(vectors) == {labels[c] for c in manifest.clip_ids} - {labels[c] for c in base}
    everything = tmp_path / "g.plk"
    export(fs, "simpleshot:base=none", everything, features=(feature.name,))
    assert len(pickle.loads(everything.read_bytes())[2]) == 6


# ── real features ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif("MICROSHOT_MEDIA" not in os.environ, reason="MICROSHOT_MEDIA is not set")
def test_real_cnn14_embeddings_of_ucf101(tmp_path):
    source = Path(os.environ["MICROSHOT_MEDIA"]) / "features_ucf51_cnn14" / "features.npz"
    spec = "npz:values=audio,clip_id=clip,modality=audio,name=cnn14"
    (feature,), manifest = brought(spec, source, tmp_path / "fs")
    assert (len(feature.clip_ids), feature.dim, len(manifest)) == (3543, 512, 3543)
    assert len(set(manifest.column("label"))) == 26
    assert all(
        group.rpartition("_")[0] == label
        for group, label in zip(manifest.column("group"), manifest.column("label"), strict=True)
    )
    with np.load(source) as archive:
        i = 1234
        np.testing.assert_array_equal(
            rows_of(feature, str(archive["clip"][i]))[0], archive["audio"][i]
        )
    export(store.open(tmp_path / "fs"), "hdf5", tmp_path / "f.h5")
    facts = import_("hdf5", tmp_path / "f.h5", tmp_path / "again")
    assert facts.status == {"ok": 3543}


def test_an_npz_without_names_says_all_that_it_has(tmp_path):
    np.savez(tmp_path / "a.npz", values=np.ones((3, 2)), paths=["a", "b", "c"], targets=[0, 1, 2])
    refused("npz", tmp_path / "a.npz", tmp_path / "fs", "it has paths, targets, values")
