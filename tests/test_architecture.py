"""The rules of docs/architecture.md, enforced on the source tree."""

import ast
import builtins
import subprocess
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"cli", "extract", "learn", "store"}
MAY_IMPORT = {"store": {"store"}, "extract": {"extract", "store"}, "learn": {"learn", "store"}}
HEAVY = ("av", "dask", "faiss", "h5py", "numpy", "pyarrow", "sklearn", "torch", "zarr")


def imported(path: Path) -> set[str]:
    """Every module a file names in an import, at its top or inside a function."""
    found = set()
    package = ".".join(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = f"{package}." if node.level else ""
            found.add(base + (node.module or ""))
            found |= {f"{base}{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def families() -> list[str]:
    """Packages whose modules export `Config` and `build`."""
    plugins = {
        path.parent
        for package in MAY_IMPORT
        for path in sources(package)
        if "\ndef build(" in path.read_text() and "\nclass Config" in path.read_text()
    }
    return sorted(".".join(folder.relative_to(ROOT).parts) for folder in plugins)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_only_import_downwards(package):
    for path in sources(package):
        tops = {module.split(".")[0] for module in imported(path)} & OURS
        assert tops <= MAY_IMPORT[package], f"{path} imports {tops - MAY_IMPORT[package]}"


def test_the_store_never_imports_torch():
    for path in sources("store"):
        assert not {m for m in imported(path) if m.split(".")[0] in ("torch", "torchaudio")}, path


def test_the_families_are_found():
    """Guards the two tests below: a rename must not leave them without subjects."""
    assert {"extract.encoders", "learn.fewshot.heads"} <= set(families())


@pytest.mark.parametrize("family", families())
def test_plugins_do_not_know_their_siblings(family):
    folder = ROOT / family.replace(".", "/")
    public = {f"{family}.{path.stem}" for path in folder.glob("[!_]*.py")}
    for path in folder.glob("*.py"):
        siblings = imported(path) & (public - {f"{family}.{path.stem}"})
        assert not siblings, f"{path} imports {siblings}"


@pytest.mark.parametrize("family", families())
def test_plugins_keep_the_mechanics(family):
    """A frozen `Config` that can be built from nothing, and one `build`."""
    from dataclasses import is_dataclass

    from store import plugins

    for name in plugins.names(family):
        module = plugins.module(family, name)
        assert is_dataclass(module.Config), name
        assert module.Config.__dataclass_params__.frozen, name
        module.Config()
        assert callable(module.build), name


@pytest.mark.parametrize(
    "code",
    [
        "import cli",
        "import extract, learn, store",
        "from store import plugins; plugins.names('extract.encoders')",
    ],
)
def test_help_and_listing_do_not_import_the_heavy_libraries(code):
    code += f"; import sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def wrong_shape_in_store() -> None:
    import numpy as np

    from store.features.packed import offsets_of

    offsets_of(np.zeros((2, 2), np.int64))


def wrong_shape_in_extract() -> None:
    import numpy as np

    from extract.media.sound import mono

    mono(np.zeros(3, np.float32))


def wrong_shape_in_learn() -> None:
    import torch

    from learn.models.projections import mean_of_rows

    mean_of_rows(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    "call", [wrong_shape_in_store, wrong_shape_in_extract, wrong_shape_in_learn]
)
def test_the_shape_checker_is_switched_on(call):
    """Each package's annotations are checked in every test run: this is nobody's own error."""
    with pytest.raises(Exception, match="Type-check error"):
        call()


def test_no_import_cycles_inside_a_package():
    """Modules of one package, followed through their top-level imports, form no ring."""
    graph = {}
    for package in MAY_IMPORT:
        for path in sources(package):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            body = ast.parse(path.read_text()).body
            graph[name] = {found for node in body for found in _top_level_names(node)}
    graph = {name: {m for m in found if m in graph} - {name} for name, found in graph.items()}
    state = dict.fromkeys(graph, "new")

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state[name] != "open", " → ".join((*trail, name))
        if state[name] == "new":
            state[name] = "open"
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            state[name] = "done"

    for name in graph:
        visit(name, ())


def _top_level_names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module:
        return {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def undefined(source: str, path: str) -> set[str]:
    """Names that code reads from its module although neither it nor Python defines them."""
    module = symtable.symtable(source, path, "exec")
    given = {s.get_name() for s in module.get_symbols() if s.is_assigned() or s.is_imported()}
    given |= set(dir(builtins)) | {"__file__", "__name__", "__doc__", "__path__", "__package__"}

    def used(table: symtable.SymbolTable) -> Iterator[str]:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table is module):
                yield symbol.get_name()
            elif symbol.is_global() and symbol.is_assigned():  # `global x; x = …`
                given.add(symbol.get_name())
        for child in table.get_children():
            yield from used(child)

    return set(used(module)) - given


def test_every_name_is_defined():
    """The linter's own rule takes the shapes of jaxtyping for names and had to be switched off."""
    wrong = "import os\ndef size():\n    x = 1\n    return [os, x, len, forgotten]\n"
    assert undefined(wrong, "wrong.py") == {"forgotten"}
    for path in [ROOT / "cli.py", *(p for package in MAY_IMPORT for p in sources(package))]:
        assert not undefined(path.read_text(), str(path)), path


@pytest.mark.parametrize("family", families())
def test_settings_are_read_without_what_plugins_import(family):
    """Equal to those of the imported module, and torch, av and their like stay out."""
    from dataclasses import fields

    from store import plugins

    names = plugins.names(family)
    code = (
        "import sys; from store import plugins\n"
        f"for n in {names}: plugins.config_type({family!r}, n)()\n"
        f"plugins.describe({family!r}); print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    for name in names:
        read, own = plugins.config_type(family, name), plugins.module(family, name).Config
        assert read.__module__ == own.__module__
        assert [(f.name, f.type, f.default, f.metadata) for f in fields(read)] == [
            (f.name, f.type, f.default, f.metadata) for f in fields(own)
        ], name
