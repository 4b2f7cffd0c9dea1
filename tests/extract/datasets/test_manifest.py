"""Files that a folder holds and no manifest can, or no run would read."""

import os

import pytest

import store
from extract.datasets import manifest
from store.errors import InputError

ODD = (b"b\xff.mp4", b"c\nd.mp4", b"e\x1b[1m.mp4")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cat").mkdir()
    return tmp_path


def put(folder, *names):
    for name in names:
        (folder / "cat" / os.fsdecode(name)).write_bytes(b"x")


def test_odd_names_and_kinds_are_left_out_and_told(folder):
    put(folder, b"a.mp4", b"f.WMV", *ODD)
    facts = manifest.write("folder", folder, folder / "m.csv")
    assert (facts["clips"], facts["unread"], facts["unnamed"]) == (1, 1, 3)
    assert facts["unread_examples"] == ["cat/f.WMV"]
    assert "cat/c\\nd.mp4" in facts["unnamed_examples"]
    assert store.read_manifest(folder / "m.csv").paths == ("cat/a.mp4",)


def test_nothing_but_odd_files_is_an_error_that_leaves_nothing(folder):
    put(folder, b"f.wmv", *ODD)
    with pytest.raises(
        InputError, match=r"none of the 4 media .* can be used .*cat/f.wmv"
    ) as error:
        manifest.write("folder", folder, folder / "m.csv")
    assert "\n" not in str(error.value)
    assert [path.name for path in folder.iterdir()] == ["cat"]


def test_a_name_that_lists_give_and_no_manifest_holds_is_refused(folder):
    with pytest.raises(InputError, match="control character"):
        manifest._write(
            folder / "m.csv",
            manifest._LocatedRows(rows=[{"path": "cat/x\ny.mp4", "label": "cat"}]),
        )
    assert not (folder / "m.csv").exists()


def test_a_full_disk_is_a_line(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    put(folder, b"a.mp4")
    monkeypatch.setattr(manifest.atomic, "write_bytes", full)
    with pytest.raises(
        InputError, match=r"cannot write .*m.csv: No space left on device; make room"
    ):
        manifest.write("folder", folder, folder / "m.csv")
    assert [path.name for path in folder.iterdir()] == ["cat"]
