"""A store that a stranger made may hold links: nothing is written, moved or removed through one."""

import os
import shutil
import time
from contextlib import suppress

import pytest

import store
from store.errors import DamagedStore, MicroshotError, StoreError
from store.parts.commit import put_record, read_record
from store.storage import posix
from store.upkeep import gc as collector
from store.upkeep.verify import verify
from tests.store import operations

OPERATIONS = ("begin", "write", "gc", "repair", "merge", "view")
FOLDERS = ("tmp", "quarantine", "data.zarr", "commits", "FEATURE", "PARTS", "RECORDS", "views")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    operations.prepare(folder)
    operations.view(folder / "fs")  # so that there is something in views/, too
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "stores")
    return tmp_path / "stores"


def swap(path, outside):
    """The directory lies elsewhere, with a stranger's old file in it, and a link in its place."""
    path.mkdir(exist_ok=True)
    path.rename(outside)
    (outside / "thesis").mkdir()
    (outside / "thesis" / "chapter.tex").write_text("mine")
    for entry in (outside, *outside.rglob("*")):
        os.utime(entry, (time.time() - 2 * 86400,) * 2)
    path.symlink_to(outside)


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def place(fs, name):
    keys = fs.keys_of(fs["toy"].name)
    named = {"FEATURE": keys.feature, "PARTS": keys.parts, "RECORDS": keys.commits}
    return fs.path / named.get(name, name)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_beyond_a_link_changes(folder, tmp_path, operation, name):
    if operation == "repair":
        operations.damage(folder)
    path, outside = folder / "fs", tmp_path / "outside"
    swap(place(store.open(path), name), outside)
    before = tree(outside)
    with suppress(MicroshotError):
        getattr(operations, operation)(path)
    assert tree(outside) == before


@pytest.mark.parametrize("operation", ["write", "gc", "merge"])
def test_a_link_is_refused_by_name(folder, tmp_path, operation):
    path = folder / "fs"
    swap(path / "tmp", tmp_path / "outside")
    with pytest.raises(DamagedStore, match=r"fs/tmp is a link .*Put the directory itself"):
        getattr(operations, operation)(path)


def test_a_link_that_appears_while_garbage_is_deleted_is_not_followed(
    folder, tmp_path, monkeypatch
):
    """Swapped in after tmp/ was looked at, before anything in it goes."""
    path, outside = folder / "fs", tmp_path / "outside"
    listed = collector._size_bytes

    def swapped(entry):
        size = listed(entry)
        if entry.parent == path / "tmp" and not outside.exists():
            swap(path / "tmp", outside)
        return size

    monkeypatch.setattr(collector, "_size_bytes", swapped)
    monkeypatch.setattr(collector, "_uncommitted", lambda *_: iter(()))
    with pytest.raises(DamagedStore, match="is a link"):
        operations.gc(path)
    assert (outside / "u-torn" / "zarr.json").read_bytes() == b"torn"
    assert (outside / "thesis" / "chapter.tex").read_text() == "mine"


def test_a_link_that_appears_before_a_part_is_moved_is_not_followed(folder, tmp_path, monkeypatch):
    """A stranger's directory takes the place of the parts after they were looked at."""
    path, outside = folder / "fs", tmp_path / "outside"
    fs = store.open(path)
    parts, measured = fs.path / fs.keys_of(fs["toy"].name).parts, collector._size_bytes

    def swapped(entry):
        size = measured(entry)
        if entry.parent == parts and not outside.exists():
            swap(parts, outside)
        return size

    monkeypatch.setattr(collector, "_size_bytes", swapped)
    with pytest.raises(DamagedStore, match="is a link"):
        operations.gc(path)
    lost = [entry for entry in outside.iterdir() if entry.name != "thesis"]
    assert any(entry.name.startswith(fs["toy"].unit_name(("lost",))) for entry in lost)


def test_what_one_collector_deletes_another_does_not_restore(folder, monkeypatch):
    """The writer wakes up, and a second collector comes, while the first has deleted half."""
    fs = store.open(folder / "fs")
    feature, rmtree, refused = fs["toy"], shutil.rmtree, []
    (part,) = fs.path.glob(f"{feature._keys.parts}/{feature.unit_name(('lost',))}-*")
    twin = store.create(folder / "twin").add_feature(operations.SPEC)
    twin.commit(operations.rows("lost"))
    record = read_record(twin._keys, twin.unit_name(("lost",)))
    record = type(record).from_bytes(
        _renamed(record.to_bytes(), record.part, part.name), feature_id=feature.name,
        unit=record.unit,
    )  # fmt: skip

    def interrupted(name, **how):
        if str(name).startswith("dead-") and not refused:
            os.unlink(f"{name}/zarr.json", dir_fd=how["dir_fd"])
            try:
                put_record(fs.storage, record)
            except StoreError as error:
                refused.append(str(error))
            assert collector.gc(fs).restored == []
        rmtree(name, **how)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    collector.gc(fs)
    assert "collected as garbage before its commit" in refused[0]
    report = verify(fs, deep=True)
    assert (report.problems, report.garbage_parts, report.garbage_staging) == ([], 0, 0)


def _renamed(data, old, new):
    from tests.store.upkeep.test_gc import sealed

    return sealed(data.replace(old.encode(), new.encode()))


def test_a_descriptor_is_of_the_directory_itself(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with posix.opened(tmp_path, "a/b") as descriptor:
        assert os.path.samestat(os.fstat(descriptor), (tmp_path / "a" / "b").stat())
    (tmp_path / "a" / "c").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "a" / "d").write_text("a file")
    for name in ("a/c", "a/d", "a/c/x"):
        with pytest.raises(DamagedStore, match=name[:3]), posix.opened(tmp_path, name):
            pass
    with pytest.raises(FileNotFoundError), posix.opened(tmp_path, "a/x"):
        pass
    assert posix.inside(tmp_path, "a/b/new") == tmp_path / "a/b/new"
    with pytest.raises(DamagedStore, match="a/c is a link"):
        posix.inside(tmp_path, "a/c/new")
