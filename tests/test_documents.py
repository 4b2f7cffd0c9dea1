"""What the documents point at is there."""

import re
import tomllib
from pathlib import Path

import pytest

from extract.weights.catalogue import CATALOGUE
from store import plugins

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "data_manifests/README.md"]
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


PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def python_blocks(path: Path) -> list[tuple[int, str]]:
    """The line before each block of Python, and its text."""
    text = path.read_text()
    return [(text[: m.start(1)].count("\n"), m[1]) for m in PYTHON.finditer(text)]


@pytest.mark.parametrize("page", ["docs/learn.md", "docs/python.md"])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """From top to bottom, in one directory, as a reader would paste it."""
    path = ROOT / page
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for line, block in python_blocks(path):
        exec(compile("\n" * line + block, str(path), "exec"), names)


def test_blocks_of_python_are_seen_with_their_lines(tmp_path):
    (tmp_path / "x.md").write_text("a\n\n```python\nx = 1\n```\n```sh\ny\n```\n```python\nx\n```\n")
    assert python_blocks(tmp_path / "x.md") == [(3, "x = 1\n"), (9, "x\n")]


# ── licences ─────────────────────────────────────────────────────────────────────────────────────

LICENCES = (ROOT / "docs/licences.md").read_text()


def test_the_table_of_licences_names_every_package():
    """Of a run and of the extras that users have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [needs for name, needs in project["optional-dependencies"].items() if name != "dev"]
    wanted = {re.match(r"[\w-]+", one)[0] for one in sum(extras, project["dependencies"])}
    table = LICENCES.split("## Weights")[0]
    assert [name for name in sorted(wanted) if f"`{name}`" not in table] == []


@pytest.mark.parametrize("name", plugins.names("extract.encoders"))
def test_the_table_of_licences_says_what_each_encoder_says(name):
    table = LICENCES.split("## Weights")[1]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| `{name}`")]
    licence = plugins.glance("extract.encoders", name, "DESCRIPTION").licence
    assert licence.partition(" (")[0] in line
    assert licence.rpartition("trained on ")[2] in line


def test_the_table_of_licences_agrees_with_the_catalogue():
    table = LICENCES.split("## Weights")[1]
    for entry in CATALOGUE.values():
        name = plugins.parse_spec(entry.encoder).name
        (line,) = [line for line in table.splitlines() if line.startswith(f"| `{name}`")]
        assert entry.licence in line, entry.name
