"""What the documents point at is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data_manifests/README.md"]
OURS = "extract|store|learn|tests|docs|benchmarks|data_manifests"
# A file or folder of ours in backticks; NAME and … stand for something, so such paths end before.
POINTER = re.compile(rf"`((?:{OURS})/[\w./-]*?)(?:NAME[^`]*|PACKAGE[^`]*|…[^`]*)?`")


def pointers(text: str) -> set[str]:
    return {found.rstrip("/") for found in POINTER.findall(text)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_in_a_document_exists(path):
    missing = [found for found in sorted(pointers(path.read_text())) if not (ROOT / found).exists()]
    assert not missing


def test_pointers_are_seen():
    text = "`learn/data/gone.py`, `store/parts/`, `tests/learn/references/NAME.py`, `learn train`"
    assert pointers(text) == {"learn/data/gone.py", "store/parts", "tests/learn/references"}


FOLDER_ROW = re.compile(r"\| `(\w+)/` \|")


def test_the_file_map_names_every_room():
    """The README's table, package by package, against the folders."""
    text = (ROOT / "README.md").read_text().split("## Where things are")[1]
    for package in ("store", "extract", "learn"):
        part = text.split(f"| **`{package}/`** |")[1].split("| **`")[0]
        rooms = {p.name for p in (ROOT / package).iterdir() if (p / "__init__.py").is_file()}
        assert rooms <= set(FOLDER_ROW.findall(part)) | {"commands"}, package
