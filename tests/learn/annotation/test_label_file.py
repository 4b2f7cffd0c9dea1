"""The file of labels: what was written stays, whatever happens."""

import os
import subprocess
import sys

import pytest

from learn.annotation.label_file import NOTHING, ChangedElsewhereError, Labels, held
from store import read_manifest
from store.errors import InputError

KNOWN = ("path", "clip_id", "group")


def cells(clip):
    return {"path": clip, "clip_id": clip, "group": "g"}


def test_acts_are_appended_and_the_last_of_a_clip_holds(tmp_path):
    path, before = tmp_path / "l.csv", b""
    acts = [
        ("a, b.mp4", Labels({"label": 'say "hi", ü'})),
        ("c.mp4", Labels({"label": "y", "mood": "good"})),
        ("a, b.mp4", Labels({"label": "x"})),
        ("d.mp4", Labels({"label": "x"})),
        ("e.mp4", Labels({}, frozenset({"label", "mood"}))),
        ("d.mp4", NOTHING),
    ]
    with held(path, KNOWN, ("label", "mood")) as file:
        for clip, labels in acts:
            file.append(cells(clip), labels)
            now = path.read_bytes()
            assert now.startswith(before)
            assert now.count(b"\n") == before.count(b"\n") + (1 if before else 2)
            before = now
    table = read_manifest(path)
    assert table.clip_ids == ("a, b.mp4", "c.mp4", "e.mp4")
    assert table.column("label") == ("x", "y", "")
    assert table.column("none_of") == ("", "", "label;mood")
    assert table.label_columns == ("label", "mood")
    with held(path, KNOWN, ("mood",)) as file:
        assert dict(file.lines) == dict(acts)
        assert file.columns == ("label", "mood")
        assert path.read_bytes() == before


def test_half_a_line_is_taken_off_and_said(tmp_path):
    path = tmp_path / "l.csv"
    with held(path, KNOWN, ("label",)) as file:
        file.append(cells("a"), Labels({"label": "x"}))
    whole = path.read_bytes()
    path.write_bytes(whole + b"b,b,g,y")
    with held(path, KNOWN, ("label",)) as file:
        assert [clip for clip, _ in file.lines] == ["a"]
        assert "7 bytes" in file.note
        assert path.read_bytes() == whole


@pytest.mark.parametrize("change", ["appended", "replaced", "gone"])
def test_a_file_that_somebody_else_changed_is_left_alone(tmp_path, change):
    path = tmp_path / "l.csv"
    with held(path, KNOWN, ("label",)) as file:
        file.append(cells("a"), Labels({"label": "x"}))
        if change == "appended":
            path.write_bytes(path.read_bytes() + b"mine\n")
        elif change == "replaced":
            (tmp_path / "new").write_bytes(path.read_bytes())
            (tmp_path / "new").replace(path)
        else:
            path.unlink()
        left = path.read_bytes() if path.is_file() else None
        with pytest.raises(ChangedElsewhereError, match="another program"):
            file.append(cells("b"), Labels({"label": "y"}))
        assert (path.read_bytes() if path.is_file() else None) == left


def test_what_the_disk_refuses_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "l.csv"
    with held(path, KNOWN, ("label",)) as file:
        before = path.read_bytes()
        write = os.write
        with monkeypatch.context() as patch:
            sent = []

            def full(descriptor, data):
                if sent:
                    raise OSError(28, "No space left on device")
                sent.append(1)
                return write(descriptor, data[:5])

            patch.setattr(os, "write", full)
            with pytest.raises(OSError, match="No space"):
                file.append(cells("a"), Labels({"label": "x"}))
        assert path.read_bytes() == before
        file.append(cells("a"), Labels({"label": "x"}))
    assert read_manifest(path).column("label") == ("x",)


def test_one_process_holds_it(tmp_path):
    path = tmp_path / "l.csv"
    with held(path, KNOWN, ("label",)):
        code = (
            "from pathlib import Path\nfrom learn.annotation.label_file import held\n"
            f"with held(Path({str(path)!r}), ('path', 'clip_id'), ('label',)): pass"
        )
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        )
        assert "another `learn annotate` writes to" in other.stderr
    with held(path, KNOWN, ("label",)):
        pass


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("path,label\na,x\n", ("label",), "no file of `learn annotate`"),
        ("clip_id,label,none_of,annotated_at\n", ("mood",), "no column 'mood'"),
        ("clip_id,label,none_of,annotated_at\na,b\n", ("label",), "line 2 has 2 cells"),
        (b"clip_id,label,none_of,annotated_at\n\xff,,,\n", ("label",), "cannot be read"),
        ("", ("group",), "a meaning of its own"),
        ("", ("a;b",), "separates"),
        ("", (), "no column of labels"),
    ],
)
def test_what_is_no_such_file_is_refused_and_left(tmp_path, text, columns, message):
    path = tmp_path / "l.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = path.read_bytes()
    with pytest.raises(InputError, match=message), held(path, KNOWN, columns):
        pass
    assert path.read_bytes() == before
