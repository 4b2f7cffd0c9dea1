"""The promises of `Layout`, as tests of any layout, on a small example of its dataset.

The fixture `example` is a folder with

lists/        lists as the dataset has them, made up
files.txt     the files that are there; the lists name one more, but for those without lists
manifest.csv  what comes of it
"""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

import store
from extract.datasets import manifest
from extract.datasets.media_files import MediaFiles
from store.errors import InputError, MicroshotError, MissingFile


def source_of(dataset: Any) -> Any:
    """The folder of lists, or the only one, or the folder itself where there are none."""
    lists = dataset / "its lists"
    files = [path for path in lists.rglob("*") if path.is_file()]
    return dataset if not files else files[0] if len(files) == 1 else lists


def made(name: str, dataset: Any, output: Any, **options: Any) -> Any:
    return manifest.write(name, source_of(dataset), output, media=dataset, **options)


def table(path: Any) -> Any:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class LayoutContract:
    """Lists become a manifest; what they cannot be, or name, is refused."""

    names_one_more: bool = True  # the lists name a file that is not there

    @pytest.fixture
    def example(self) -> Path:
        """The folder of the example."""
        raise NotImplementedError("define the fixture `example`: a folder with lists, files.txt, …")

    @pytest.fixture
    def dataset(self, example: Path, name: str, tmp_path: Path) -> Any:
        """Media and lists in a folder, and what is the source of that layout there."""
        for file in (example / "files.txt").read_text().splitlines():
            (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / file).write_bytes(b"")
        if (example / "lists").is_dir():
            shutil.copytree(example / "lists", tmp_path / "data" / "its lists")
        return tmp_path / "data"

    def test_its_lists_become_the_manifest_beside_them(
        self, example: Path, name: str, dataset: Any
    ) -> None:
        facts = made(name, dataset, dataset / "m.csv")
        assert table(dataset / "m.csv") == table(example / "manifest.csv")
        assert facts["clips"] == len(table(dataset / "m.csv"))
        store.read_manifest(dataset / "m.csv")

    def test_a_clip_without_a_file_is_counted_and_left_out(
        self, example: Path, name: str, dataset: Any
    ) -> None:
        files = MediaFiles(dataset)
        facts = made(name, dataset, dataset / "m.csv")
        paths = {row["path"] for row in table(dataset / "m.csv")}
        assert paths <= {path.as_posix() for path in files.paths}
        if (example / "lists").is_dir() and self.names_one_more:
            assert facts["missing"] == 1
            everything = made(name, dataset, dataset / "all.csv", keep_missing=True)
            assert everything["clips"] == facts["clips"] + 1
            store.read_manifest(dataset / "all.csv")
        assert facts["files_not_listed"] == len(files) - len(paths)

    def test_the_order_is_that_of_the_lists_and_not_of_the_disk(
        self, name: str, dataset: Any, tmp_path: Path
    ) -> None:
        made(name, dataset, dataset / "m.csv")
        before = (dataset / "m.csv").read_bytes()
        (dataset / "m.csv").unlink()
        twin = tmp_path / "twin"
        for path in sorted(dataset.rglob("*"), reverse=True):
            if path.is_file():
                (twin / path.relative_to(dataset)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, twin / path.relative_to(dataset))
        made(name, twin, twin / "m.csv")
        assert (twin / "m.csv").read_bytes() == before

    def test_splits_share_no_group(self, name: str, dataset: Any) -> None:
        """Or what is learned of a source is asked about."""
        made(name, dataset, dataset / "m.csv")
        groups: dict[str, set[str]] = {}
        for row in table(dataset / "m.csv"):
            if row.get("group") and row.get("split"):
                groups.setdefault(row["group"], set()).add(row["split"])
        assert all(len(splits) == 1 for splits in groups.values())

    def test_lists_of_something_else_are_our_errors(self, name: str, dataset: Any) -> None:
        lists = dataset / "its lists"
        if not lists.is_dir():
            pytest.skip("it has no lists")
        texts = {
            "nothing": b"", "binary": bytes(range(256)), "prose": b"to be, or not\nto be\n",
            "object": b"{}", "list": b"[1, [2]]", "deep": b"[" * 100_000, "header": b"a,b\n1\n",
            "quote": b'"never closed\n',
        }  # fmt: skip
        for k, (what, text) in enumerate(texts.items()):
            for path in lists.rglob("*"):
                if path.is_file():
                    path.write_bytes(text)
            with pytest.raises(MicroshotError):
                made(name, dataset, dataset / f"{k}.csv")
            assert not (dataset / f"{k}.csv").exists(), what
            assert not list(dataset.glob("*.unfinished")), what

    def test_lists_cannot_name_what_lies_outside(
        self, example: Path, name: str, dataset: Any, tmp_path: Path
    ) -> None:
        """Whatever name a list gives is replaced by that of a file elsewhere on the disk."""
        lists = dataset / "its lists"
        if not lists.is_dir():
            pytest.skip("it has no lists")
        secret = tmp_path / "secret.mp4"
        secret.write_bytes(b"")
        for path in lists.rglob("*"):
            if path.is_file():
                text = path.read_text()
                for file in (example / "files.txt").read_text().splitlines():
                    for known in (file, file.rpartition(".")[0], Path(file).name):
                        text = text.replace(known, str(secret))
                path.write_text(text)
        for options in ({}, {"keep_missing": True}):
            output = dataset / f"{len(options)}.csv"
            try:
                made(name, dataset, output, **options)
            except MicroshotError:
                continue
            store.read_manifest(output)  # refuses paths that leave the folder
            assert not any(
                ".." in row["path"] or row["path"].startswith("/") for row in table(output)
            )

    def test_nothing_of_it_is_there(self, name: str, dataset: Any, tmp_path: Path) -> None:
        with pytest.raises(MissingFile):
            manifest.write(name, tmp_path / "none", tmp_path / "m.csv")
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises((InputError, MissingFile)):
            manifest.write(name, source_of(dataset), empty / "m.csv", media=empty)
        assert list(empty.iterdir()) == []
