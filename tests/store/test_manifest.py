import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import store
from store import Manifest, read_manifest
from store.errors import DamagedStore, InputError, ManifestError, MissingFile, UnknownColumn
from store.manifest import from_parquet, to_parquet, union


@pytest.fixture
def write(tmp_path):
    def write(text, name="m.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def of(**columns):
    """A manifest of these columns, clip ids being the paths unless given."""
    table = {name: tuple(cells) for name, cells in columns.items()}
    return Manifest(table={"path": table.get("clip_id", ()), **table, "clip_id": table["clip_id"]})


def test_a_csv_with_everything(write, tmp_path):
    text = (
        "path,label,start_seconds,end_seconds,split\r\n"
        'a/b.mp4,"cat, small; dog;",0,5.50,train\r\n'
        "\r\n"
        "  ü 日本.mp4 ,,,,test\r\n"
        "a/b.mp4,dog,5.5,,\r\n"
    )
    manifest = read_manifest(write(b"\xef\xbb\xbf" + text.encode()))
    assert manifest.root == tmp_path
    assert manifest.columns == ("path", "clip_id", "label", "start_seconds", "end_seconds", "split")
    assert manifest.label_columns == ("label",)
    assert manifest.clip_ids == ("a/b.mp4#0-5.5", "ü 日本.mp4", "a/b.mp4#5.5-")
    assert manifest.labels("label") == [("cat, small", "dog"), (), ("dog",)]
    np.testing.assert_array_equal(manifest.start_seconds, [0, 0, 5.5])
    np.testing.assert_array_equal(manifest.end_seconds, [5.5, np.inf, np.inf])
    assert len(manifest) == 3


def test_three_formats_agree(write, tmp_path):
    import pyarrow
    from pyarrow import parquet

    csv = read_manifest(write("path,clip_id,start_seconds,label\na.mp4,x,1.5,p;q\nb.mp4,,,\n"))
    lines = [
        {"path": "a.mp4", "clip_id": "x", "start_seconds": 1.5, "label": ["p", "q"]},
        {"path": "b.mp4", "start_seconds": None},
    ]
    text = "\ufeff" + "\r\n\r\n".join(map(json.dumps, lines)) + "\n"
    jsonl = read_manifest(write(text, "m.jsonl"))
    table = {
        "path": ["a.mp4", "b.mp4"],
        "clip_id": ["x", None],
        "start_seconds": [1.5, None],
        "label": [["p", "q"], None],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "m.parquet")
    kept = read_manifest(tmp_path / "m.parquet")
    assert csv.digest == jsonl.digest == kept.digest
    assert dict(csv.table) == dict(jsonl.table) == dict(kept.table)


BAD = {
    "empty path": ("path,label\n,x\n", "line 2: no path"),
    "twice": ("path\na\nb\na\n", r"line 4: clip_id 'a' occurs twice \(first at 2\)"),
    "clip id twice": ("path,clip_id\na,x\nb,x\n", "line 3: clip_id 'x' occurs twice"),
    "piece twice": ("path,start_seconds\na,5\na,5.0\n", "'a#5-' occurs twice"),
    "absolute": ("path\n/etc/passwd\n", "line 2: path '/etc/passwd' is absolute"),
    "drive": ("path\nC:\\x.mp4\n", "is absolute"),
    "share": ("path\n\\\\host\\x.mp4\n", "is absolute"),
    "parent": ("path\n../x.mp4\n", "leaves the manifest"),
    "hidden parent": ("path\na/../../x.mp4\n", "leaves the manifest"),
    "http": ("path\nhttp://h/x.mp4\n", "is a URL"),
    "upper file url": ("path\nFILE:x\n", "is a URL"),
    "s3": ("path\ns3://b/x\n", "is a URL"),
    "ffmpeg concat": ("path\nconcat:a|b\n", "is a URL"),
    "nul": ("path\na\0b\n", "control character in column 'path'"),
    "newline in cell": ('path,label\na,"x\ny"\n', "line 2: a control character in column 'label'"),
    "line after a long cell": ('path,label\na,"x\ny"\n,z\n', "line 4: no path"),
    "escape": ("path,label\na,\x1b[31m\n", "control character"),
    "word as number": ("path,start_seconds\na,soon\n", "start_seconds='soon' is not a number"),
    "nan": ("path,end_seconds\na,nan\n", "end_seconds='nan' is not a number"),
    "overflow": ("path,end_seconds\na,1e999\n", "is not a number"),
    "underscore": ("path,end_seconds\na,1_0\n", "is not a number"),
    "negative": ("path,start_seconds\na,-1\n", "is not a number of seconds from 0"),
    "end before start": (
        "path,start_seconds,end_seconds\na,5,4\n",
        "=4 is not after start_seconds=5",
    ),
    "end at start": ("path,start_seconds,end_seconds\na,5,5\n", "=5 is not after"),
    "end at zero": ("path,end_seconds\na,0\n", "is not after start_seconds=0"),
    "short row": ("path,label\na\n", "line 2: has 1 cells where the header has 2"),
    "long row": ("path,label\na,b,c\n", "has 3 cells"),
    "open quote": ('path,label\na,"b\n', "line 2: "),
    "huge id": (f"path\n{'x' * 5000}\n", "5000 bytes long"),
    "no rows": ("path,label\n", "has no clips"),
    "nothing": ("", "is empty"),
    "column twice": ("path,label,label\na,b,c\n", "column 'label' twice"),
    "nameless column": ("path,\na,b\n", "without a name"),
    "latin-1": (b"path\n" + b"\xe9.mp4\n", "not UTF-8"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_bad_rows_are_named(write, text, message):
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(write(text))
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: is not JSON"),
        ("[1]", "line 2: is not an object"),
        ('{"path": {"x": 1}}', "line 2: has a cell of type dict"),
        ('{"label": "x"}', "line 2: no path"),
        ('{"path": "\\ud800"}', "line 2: a control character"),
        ('{"path": "b", "start_seconds": true}', "is not a number"),
    ],
)
def test_bad_json_lines_are_named(write, line, message):
    with pytest.raises(ManifestError, match=message):
        read_manifest(write('{"path": "a"}\n' + line, "m.jsonl"))


def test_all_bad_rows_are_reported_at_once_in_order(write):
    rows = ["/a", "ok,5", "../b", "c,x,y", *(f"/d{i}" for i in range(9))]
    text = "path,start_seconds\n" + "\n".join(r if "," in r else f"{r}," for r in rows)
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(text))
    message = str(caught.value)
    positions = [message.index(f"line {n}:") for n in (2, 4, 5, 6, 7, 8, 9, 10)]
    assert positions == sorted(positions)
    assert "line 3:" not in message
    assert message.endswith("and 4 more")


@pytest.mark.parametrize(
    "path", ["a/../b.mp4", "./a.mp4", "..a/b..mp4", "Movie: The Return.mp4", "12:30.mp4"]
)
def test_harmless_paths_pass(write, path):
    assert read_manifest(write(f"path\n{path}\n")).paths == (path,)


def test_a_missing_path_column_names_the_others(write):
    with pytest.raises(
        ManifestError, match=r"no column 'path'; it has label, paths \(did you mean 'paths'"
    ):
        read_manifest(write("paths,label\na,b\n"))


def test_files_that_are_no_manifest(write, tmp_path):
    with pytest.raises(MissingFile):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match="is none of"):
        read_manifest(write("path\na\n", "m.txt"))
    with pytest.raises(ManifestError, match="Parquet"):
        read_manifest(write("path\na\n", "m.parquet"))


def test_select_and_columns():
    manifest = of(clip_id=["a", "b", "c"], split=["train", "test", "test"], label=["x", "y", "x"])
    assert manifest.select(split="test").clip_ids == ("b", "c")
    assert manifest.select(split="test", label=["x", "z"]).clip_ids == ("c",)
    assert manifest.select(["c", "a"]).column("split") == ("test", "train")
    assert len(manifest.select(split="none")) == 0
    with pytest.raises(UnknownColumn, match="did you mean 'split'"):
        manifest.select(splat="x")
    with pytest.raises(UnknownColumn, match="did you mean 'label'"):
        manifest.labels("lable")
    with pytest.raises(InputError, match="no clip 'z'"):
        manifest.select(["a", "z"])


def test_the_digest_is_of_the_content():
    manifest = of(clip_id=["a", "b"], label=["x", "y"])
    assert manifest.digest == Manifest(table=dict(reversed(list(manifest.table.items())))).digest
    assert manifest.digest != of(clip_id=["a", "b"], label=["x", "z"]).digest
    assert manifest.digest != of(clip_id=["b", "a"], label=["y", "x"]).digest


CELL = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=6).map(
    str.strip
)


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5))
def test_parquet_gives_back_what_was_kept(tmp_path_factory, cells):
    ids = [f"clip{i}" for i in range(len(cells))]
    manifest = of(clip_id=ids, label=[c[0] for c in cells], split=[c[1] for c in cells])
    path = tmp_path_factory.mktemp("kept") / "m.parquet"
    path.write_bytes(to_parquet(manifest))
    assert dict(from_parquet(path.read_bytes(), name=path.name).table) == dict(manifest.table)


def test_later_rows_win_and_columns_are_united():
    first = of(clip_id=["a", "b"], label=["x", "y"])
    second = of(clip_id=["c", "a"], label=["z", "w"], genre=["g", "h"])
    both = union([first, second])
    assert both.clip_ids == ("a", "b", "c")
    assert both.column("label") == ("w", "y", "z")
    assert both.column("genre") == ("h", "", "g")


def test_a_manifest_without_a_column_does_not_blank_it():
    first = of(clip_id=["a", "b"], label=["x", "y"], split=["train", "test"])
    second = of(clip_id=["b"], label=["w"])
    both = union([first, second])
    assert both.column("label") == ("x", "w")
    assert both.column("split") == ("train", "test")


def test_a_store_keeps_manifests_in_order(fs):
    one = of(clip_id=["a", "b"], label=["x", "y"])
    two = of(clip_id=["b", "c"], label=["q", "r"])
    with pytest.raises(MissingFile, match="keeps no manifest"):
        fs.manifest()
    for manifest in (one, one, two, two):
        fs.add_manifest(manifest)
    assert len(fs.manifest_names()) == 2
    assert fs.manifest().column("label") == ("x", "q", "r")
    fs.add_manifest(one)
    assert len(fs.manifest_names()) == 3
    assert store.open(fs.path).manifest().column("label") == ("x", "y", "r")


def test_the_clock_may_go_back(fs, monkeypatch):
    import store.store as module

    class Past(module.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2001, 1, 1, tzinfo=tz)

    fs.add_manifest(of(clip_id=["a"], label=["x"]))
    monkeypatch.setattr(module, "datetime", Past)
    fs.add_manifest(of(clip_id=["a"], label=["y"]))
    assert fs.manifest().column("label") == ("y",)


def test_a_changed_kept_manifest_is_not_read(fs):
    fs.add_manifest(of(clip_id=["a"], label=["x"]))
    (path,) = (fs.path / "manifests").iterdir()
    path.write_bytes(to_parquet(of(clip_id=["a"], label=["y"])))
    with pytest.raises(DamagedStore, match="not the manifest that was kept"):
        fs.manifest()
    path.write_bytes(b"PAR1")
    with pytest.raises(DamagedStore, match="cannot be read"):
        fs.manifest()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_cells_are_separated_as_the_header_is(write, delimiter):
    """Programs of many countries write semicolons where they say commas."""
    rows = ("path", "label"), ("a.mp4", "x"), ("b,c.mp4", "y")
    text = "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    manifest = read_manifest(write("\ufeff\n" + text))
    assert manifest.paths == ("a.mp4", "b,c.mp4")
    assert manifest.column("label") == ("x", "y")


def test_several_labels_in_a_cell_do_not_make_semicolons_the_delimiter(write):
    manifest = read_manifest(write("path,label;s\na.mp4,x;y\n"))
    assert manifest.labels("label;s") == [("x", "y")]


def test_a_folder_in_place_of_a_manifest_names_the_command(tmp_path):
    with pytest.raises(MissingFile, match=rf"extract manifest folder {tmp_path} -o {tmp_path}/m"):
        read_manifest(tmp_path)


def test_a_first_line_may_say_what_separates_the_cells(write):
    manifest = read_manifest(write("sep=;\npath;a,b\nx.mp4;1,5\n"))
    assert (manifest.paths, manifest.column("a,b")) == (("x.mp4",), ("1,5",))
    with pytest.raises(ManifestError, match="line 3: has 1 cells"):
        read_manifest(write("sep=\t\npath\tlabel\nx.mp4\n"))


def test_cells_that_nothing_known_separates_are_refused_with_what_would(write):
    with pytest.raises(ManifestError, match=r"it has path label; commas, semicolons, tabs or \|"):
        read_manifest(write("path label\nx.mp4 y\n"))


def test_of_a_history_the_last_row_of_a_clip_holds(write):
    path = write(
        "clip_id,label,none_of,annotated_at\na,x,,t1\nb,y,,t2\na,z,,t3\nc,x,,t4\nb,,,\nd,,label,t5\n"
    )
    table = read_manifest(path, ids_suffice=True)
    assert table.clip_ids == ("a", "c", "d")
    assert table.column("label") == ("z", "x", "")
    assert table.label_columns == ("label",)
    with pytest.raises(ManifestError, match="occurs twice"):
        read_manifest(write("clip_id,label\na,x\na,y\n"), ids_suffice=True)
    with pytest.raises(ManifestError, match="no clips"):
        read_manifest(write("clip_id,label,annotated_at\na,,\n"), ids_suffice=True)
