"""Files and directories appear whole or not at all, and last where they must."""

import json
import os
import stat
from pathlib import Path

import pytest

from store import atomic


class Crash(Exception):  # noqa: N818
    """What a test raises where a writer could die."""


def crash(*_: object, **__: object) -> None:
    """Stand in for a call that never returns."""
    raise Crash


def names(folder: Path) -> list[str]:
    """What is in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was flushed and renamed, in order, by the name it had then."""
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def name_of(descriptor: int) -> str:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        return "staged" if name.endswith(".unfinished") else name

    def flush(descriptor: int) -> None:
        events.append(name_of(descriptor))
        fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    return events


def test_a_file_is_what_was_written_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "a", b"\0\xff")
    atomic.write_text(tmp_path / "b", "ä\r\n")
    atomic.write_json(tmp_path / "c", {"b": 1, "a": [2]})
    atomic.write_json(tmp_path / "d", {"b": 1}, indent=None)
    assert (tmp_path / "a").read_bytes() == b"\0\xff"
    assert (tmp_path / "b").read_bytes() == "ä\r\n".encode()
    assert (tmp_path / "c").read_text() == json.dumps({"b": 1, "a": [2]}, indent=1) + "\n"
    assert (tmp_path / "d").read_text() == '{"b": 1}\n'
    assert names(tmp_path) == ["a", "b", "c", "d"]


def test_modes_are_those_of_any_new_file(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "file", "")
    with atomic.directory(tmp_path / "folder"):
        pass
    mask = os.umask(0o022)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


def test_a_file_is_replaced_or_refused_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileExistsError, match="file"):
        atomic.write_text(path, "new", replace=False)
    with pytest.raises(FileExistsError), atomic.staged(path, replace=False):
        raise Crash  # nobody works for an hour on what will be refused
    assert path.read_text() == "old"
    atomic.write_text(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_a_link_to_nowhere_counts_as_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(FileExistsError):
        atomic.write_text(tmp_path / "link", "new", replace=False)


def test_one_that_came_meanwhile_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileExistsError), atomic.staged(path, replace=False) as temporary:  # noqa: PT012
        temporary.write_text("ours")
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    assert names(tmp_path) == ["file"]


def test_a_directory_appears_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "above" / "folder"
    with atomic.directory(path) as staged:
        (staged / "inner").mkdir()
        (staged / "inner" / "file").write_text("text")
        assert not path.exists()
    assert (path / "inner" / "file").read_text() == "text"
    assert names(path.parent) == ["folder"]


def test_a_directory_replaces_an_empty_one_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with atomic.directory(path) as staged:
        (staged / "first").touch()
    with pytest.raises(OSError, match="not empty"), atomic.directory(path) as staged:
        (staged / "second").touch()
    assert names(path) == ["first"]
    assert names(tmp_path) == ["folder"]


def test_a_crash_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(Crash), atomic.staged(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise Crash
    with pytest.raises(Crash), atomic.directory(tmp_path / "folder") as staged:  # noqa: PT012
        (staged / "file").write_text("half")
        raise Crash
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_before_the_rename_leaves_nothing(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os if call == "fsync" else Path, call, crash)
    with pytest.raises(Crash):
        atomic.write_text(tmp_path / "file", "text", durable=True)
    with pytest.raises(Crash), atomic.directory(tmp_path / "folder", durable=True) as staged:
        (staged / "file").touch()
    assert names(tmp_path) == []


def test_a_lasting_file_is_flushed_before_the_rename_and_its_directory_after(
    tmp_path: Path, flushed: list[str]
) -> None:
    atomic.write_text(tmp_path / "file", "text", durable=True)
    assert flushed == ["staged", "rename", tmp_path.name]


def test_a_lasting_directory_is_flushed_from_within(tmp_path: Path, flushed: list[str]) -> None:
    with atomic.directory(tmp_path / "folder", durable=True) as staged:
        (staged / "inner").mkdir()
        (staged / "inner" / "file").touch()
    assert flushed == ["file", "inner", "staged", "rename", tmp_path.name]


def test_nothing_is_flushed_unasked(tmp_path: Path, flushed: list[str]) -> None:
    atomic.write_text(tmp_path / "file", "text")
    with atomic.directory(tmp_path / "folder"):
        pass
    assert flushed == ["rename", "rename"]


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    for name in ("n" * 255, "\N{CLAPPER BOARD}" * 63):
        atomic.write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


def test_a_relative_name_means_the_directory_it_was_given_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    with atomic.staged(Path("file")) as temporary:
        temporary.write_text("text")
        monkeypatch.chdir(tmp_path / "other")
    assert (tmp_path / "file").read_text() == "text"
