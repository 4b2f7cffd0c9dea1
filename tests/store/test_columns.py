"""Columns against plain tuples, and readers of manifests against the rules applied row by row."""

import csv
import io
import json

import hypothesis.strategies as st
import numpy as np
import pyarrow
import pytest
from hypothesis import example, given, settings
from pyarrow import parquet

from store import Manifest, manifest_rows, read_manifest
from store.columns import Columns, arrow_of
from store.errors import ManifestError
from store.manifest import pieces, union
from store.manifest_rows import _default_clip_id, _faults, _short
from store.names import clip_id_fault, clip_keys
from store.spec import canonical_json

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
TABLES = st.integers(0, 40).flatmap(
    lambda n: st.dictionaries(TEXT, st.lists(TEXT, min_size=n, max_size=n).map(tuple), max_size=3)
)


@settings(deadline=None)  # the first imports Arrow
@given(TABLES, st.booleans())
def test_columns_are_the_tuples_they_were_made_of(table, by_arrow):
    made = {name: arrow_of(cells) for name, cells in table.items()}
    columns = Columns(made) if by_arrow else Columns(text=table)
    assert dict(columns) == table
    assert b"".join(columns.canonical_json()) == canonical_json(table)
    rows = np.arange(len(next(iter(table.values()), ())))[::-2]
    taken = {name: tuple(cells[i] for i in rows) for name, cells in table.items()}
    assert dict(columns.take(rows)) == taken


def test_many_rows_are_the_same_in_chunks(monkeypatch):
    monkeypatch.setattr("store.columns._AT_ONCE", 7)
    table = {"a": tuple(f"x{i}" for i in range(100)), "b": tuple("uv"[i % 2] for i in range(100))}
    columns = Columns({name: arrow_of(cells) for name, cells in table.items()})
    assert b"".join(columns.canonical_json()) == canonical_json(table)
    assert dict(columns) == table
    assert len({id(cell) for cell in columns["b"]}) == 2


# The rules as they read, row by row: what a manifest was made by before there were columns.


def slowly(columns, rows, problems, name):
    clip_ids, faults, first_line = [], list(problems), {}
    for line, cells in rows:
        clip_id = cells.get("clip_id") or _default_clip_id(cells)
        clip_ids.append(clip_id)
        found = list(_faults(cells))
        if clip_id and (fault := clip_id_fault(clip_id)) and not found:
            found.append(f"clip_id {fault}")
        if clip_id and (first := first_line.setdefault(clip_id, line)) != line:
            found.append(f"clip_id {_short(clip_id)} occurs twice (first at {first})")
        faults.extend((line, fault) for fault in found)
    if faults:
        shown = "; ".join(f"line {line}: {text}" for line, text in sorted(faults)[:8])
        return f"{name}: {shown}" + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
    ordered = ["path", "clip_id", *(c for c in columns if c not in ("path", "clip_id"))]
    table = {column: tuple(cells.get(column, "") for _, cells in rows) for column in ordered}
    return {**table, "clip_id": tuple(clip_ids)}


CELL = st.one_of(
    st.sampled_from(
        [
            *("", "a", "b/c.mp4", "../x", "a/../../x", "x/../y", "/a", "C:\\x", "c:y", "\\\\h\\x"),
            *("s3://b", "data:x", "12:30.mp4", "é\u3000", "a\x85b", "a\u2028b", "a\x7f", "\tq"),
            *("5", "1.5", "+.5e1", "-1", "nan", "1e999", "1_0", "٣", "x" * 4200, "é" * 2100),
            *("..", "a..b", "\x1ca", "\ufeffa"),
        ]
    ),
    TEXT,
)
NAMES = st.lists(
    st.sampled_from(["clip_id", "start_seconds", "end_seconds", "label", "split", "o\x85dd"]),
    unique=True, max_size=4,
).map(lambda names: ["path", *names])  # fmt: skip
SHEETS = NAMES.flatmap(
    lambda names: st.tuples(
        st.just(names),
        st.lists(st.lists(CELL, min_size=len(names), max_size=len(names)), min_size=1),
    )
)


def read(path):
    try:
        return dict(read_manifest(path).table)
    except ManifestError as error:
        return str(error)


@given(SHEETS)
@example((["path", "label"], [["a", "x"], ["a", "y"], ["", "\x85"]]))
def test_a_csv_is_what_the_rules_make_of_its_rows(tmp_path_factory, sheet):
    names, cells = sheet
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([names, *cells])
    path = tmp_path_factory.mktemp("csv") / "m.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    reader = csv.reader(io.StringIO(text.getvalue(), newline=""), strict=True)
    next(reader)
    rows, begins = [], 2
    for row in reader:
        stripped = [cell.strip(" \t\r\n") for cell in row]
        if stripped not in ([], [""]):
            rows.append((begins, dict(zip(names, stripped, strict=True))))
        begins = reader.line_num + 1
    if rows:
        assert read(path) == slowly(names, rows, (), str(path))


@given(SHEETS)
def test_json_lines_are_what_the_rules_make_of_them(tmp_path_factory, sheet):
    names, cells = sheet
    path = tmp_path_factory.mktemp("jsonl") / "m.jsonl"
    lines = [dict(zip(names, row, strict=True)) for row in cells]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    rows = [
        (line, {name: cell.strip() for name, cell in cells.items()})
        for line, cells in enumerate(lines, 1)
    ]
    assert read(path) == slowly(names, rows, (), str(path))


@given(SHEETS)
def test_parquet_is_what_the_rules_make_of_its_rows(tmp_path_factory, sheet):
    import pyarrow
    from pyarrow import parquet

    names, cells = sheet
    path = tmp_path_factory.mktemp("parquet") / "m.parquet"
    table = {name: [row[i] for row in cells] for i, name in enumerate(names)}
    parquet.write_table(pyarrow.table(table), path)
    rows = [
        (line, {name: cell.strip() for name, cell in zip(names, row, strict=True)})
        for line, row in enumerate(cells, 1)
    ]
    expected = slowly(names, rows, (), str(path))
    found = read(path)
    if isinstance(expected, str) and isinstance(found, str):
        expected = expected.replace("line ", "row ")
    assert found == expected


@pytest.mark.parametrize("at_once", [1, 3, 1 << 14])
def test_long_manifests_are_read_in_stretches(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(manifest_rows, "_AT_ONCE", at_once)
    rows = [{"path": f"{i}.mp4", **({"label": "x"} if i % 3 else {"genre": "y"})} for i in range(8)]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert dict(read_manifest(path).table) == {
        "path": tuple(f"{i}.mp4" for i in range(8)),
        "clip_id": tuple(f"{i}.mp4" for i in range(8)),
        "genre": tuple("" if i % 3 else "y" for i in range(8)),
        "label": tuple("x" if i % 3 else "" for i in range(8)),
    }
    sheet = tmp_path / "m.csv"
    sheet.write_text("path, label\n" + "".join(f"{i}.mp4, x \n\n" for i in range(8)))
    assert read_manifest(sheet).column("label") == ("x",) * 8


def slowly_united(manifests):
    """Cell by cell, as it was before there were columns."""
    columns = list(dict.fromkeys(name for m in manifests for name in m.columns))
    position = {}
    for manifest in manifests:
        for clip_id in manifest.clip_ids:
            position.setdefault(clip_id, len(position))
    table = {column: [""] * len(position) for column in columns}
    for manifest in manifests:
        for column, cells in manifest.table.items():
            for clip_id, cell in zip(manifest.clip_ids, cells, strict=True):
                table[column][position[clip_id]] = cell
    return {column: tuple(cells) for column, cells in table.items()}


KNOWN = st.lists(st.sampled_from("abcdefg"), unique=True, max_size=6).flatmap(
    lambda ids: st.dictionaries(
        st.sampled_from(["label", "split", "genre"]),
        st.lists(st.sampled_from(["", "x", "y"]), min_size=len(ids), max_size=len(ids)).map(tuple),
    ).map(lambda cells: {"path": tuple(ids), "clip_id": tuple(ids), **cells})
)


@given(st.lists(KNOWN, min_size=1, max_size=4))
def test_a_union_is_what_cell_by_cell_gives(tables):
    manifests = [Manifest(table=table) for table in tables]
    assert dict(union(manifests).table) == slowly_united(manifests)


def test_a_large_manifest_is_kept_in_pieces_that_are_read_back(fs, monkeypatch):
    clips = tuple(f"clip{i}" for i in range(1000))
    manifest = Manifest(table={"path": clips, "clip_id": clips, "label": ("x", "y") * 500})
    monkeypatch.setattr("store.manifest.PIECE_BYTES", 6000)
    assert len(pieces(manifest)) > 4
    assert max(len(piece) for piece in pieces(manifest)) < 250
    for _ in range(2):  # the second time it is the one that was kept last
        fs.add_manifest(manifest)
    assert len(fs.manifest_names()) == len(pieces(manifest))
    assert fs.manifest().digest == manifest.digest
    first, second = manifest.select(clips[:600]), manifest.select(clips[600:])
    fs.add_manifest(second)
    fs.add_manifest(first)
    assert fs.manifest().digest == manifest.digest


def test_a_keeping_of_pieces_that_was_cut_short_is_made_good(fs, monkeypatch):
    clips = tuple(f"clip{i}" for i in range(1000))
    manifest = Manifest(table={"path": clips, "clip_id": clips})
    monkeypatch.setattr("store.manifest.PIECE_BYTES", 6000)
    fs.add_manifest(manifest)
    (last, *_) = sorted((fs.path / "manifests").iterdir())[::-1]
    last.unlink()
    assert len(fs.manifest()) < 1000
    fs.add_manifest(manifest)
    assert fs.manifest().digest == manifest.digest


def test_seconds_are_read_once():
    manifest = Manifest(
        table={"path": ("a", "b"), "clip_id": ("a", "b"), "start_seconds": ("1.5", "")}
    )
    assert manifest.start_seconds is manifest.start_seconds
    assert manifest.start_seconds.tolist() == [1.5, 0.0]
    assert manifest.end_seconds.tolist() == [np.inf, np.inf]


@given(st.lists(st.sampled_from(["a", "b", "c", "dd", ""]), max_size=6))
def test_doubles_are_found_by_keys(cells):
    columns = Columns({"x": arrow_of(cells)})
    assert columns.has_doubles("x") == (len(set(cells)) < len(cells))
    assert np.array_equal(columns.keys_of("x"), clip_keys(cells))


def test_equal_halves_of_keys_are_no_doubles(monkeypatch):
    keys = {"a": (1, 1), "b": (1, 2), "c": (3, 1)}
    monkeypatch.setattr(
        "store.columns.clip_keys", lambda cells: np.array([keys[c] for c in cells], np.uint64)
    )
    assert not Columns({"x": arrow_of(["a", "b", "c"])}).has_doubles("x")
    assert Columns({"x": arrow_of(["a", "b", "c", "b"])}).has_doubles("x")


def not_utf8():
    places = pyarrow.py_buffer(np.array([0, 2, 4], np.int32).tobytes())
    return pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, places, pyarrow.py_buffer(b"\xff\xfeab")]
    )


@pytest.mark.parametrize("name", ["path", "label"])
def test_parquet_with_text_that_is_none_is_refused_in_a_line(tmp_path, name):
    paths = pyarrow.array(["a.mp4", "b.mp4"])
    path = tmp_path / "m.parquet"
    parquet.write_table(pyarrow.table({"path": paths, name: not_utf8()}), path)
    with pytest.raises(ManifestError, match=r"not readable Parquet: .*UTF8"):
        read_manifest(path)


def test_a_column_that_is_there_twice_but_for_blanks_is_told_of_parquet_too(tmp_path):
    paths = pyarrow.array(["a.mp4", "b.mp4"])
    path = tmp_path / "m.parquet"
    parquet.write_table(pyarrow.Table.from_arrays([paths, paths], names=["path", "path "]), path)
    with pytest.raises(ManifestError, match="has the column 'path' twice"):
        read_manifest(path)
