"""The rules of docs/architecture.md, enforced on the source tree."""

import ast
import builtins
import itertools
import subprocess
import symtable
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"cli", "extract", "learn", "store"}
MAY_IMPORT = {"store": {"store"}, "extract": {"extract", "store"}, "learn": {"learn", "store"}}
HEAVY = ("av", "dask", "faiss", "h5py", "numpy", "pyarrow", "sklearn", "torch", "zarr")

# Rooms of each package, floor by floor. A room knows the floors below it, and not its neighbours.
FLOORS = {
    "store": (
        ("atomic", "errors", "lock", "names", "pickles", "progress", "source"),
        (
            "cluster",
            "columns",
            "command_config",
            "grammar",
            "membership",
            "optional",
            "outside",
            "safe_pickle",
            "settings",
            "sizes",
            "spec",
        ),
        ("status", "storage"),
        ("plugins", "console", "manifest_rows"),
        ("manifest", "parts"),
        ("features", "kept"),
        ("store",),
        ("exchange", "upkeep"),
        ("tables", "testing"),
        ("commands",),
    ),
    "extract": (
        ("processes", "weights"),
        ("media", "encoders", "datasets"),
        ("texts",),
        ("pipeline",),
        ("trainable",),
        ("tables", "testing"),
        ("commands",),
    ),
    "learn": (
        ("data",),
        ("fewshot", "models"),
        ("training",),
        ("finetuning", "inference"),
        ("annotation", "evaluation"),
        ("reporting",),
        ("testing", "trial"),
        ("commands",),
    ),
}


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """Every module a file names in an import, at its top or inside a function."""
    package = ".".join(path.relative_to(root).parent.parts)
    return {home(name, root) for name in _imported(path.read_text(), package)}


@cache
def _imported(text: str, package: str) -> set[str]:
    found = set()
    tree = ast.parse(text)
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            block.body = []  # never run
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = f"{package}." if node.level else ""
            found.add(base + (node.module or ""))
            found |= {f"{base}{node.module}.{alias.name}" for alias in node.names}
    return found


def home(name: str, root: Path) -> str:
    """The module behind a name that a package hands on when it is asked for: `store.Feature`."""
    package, _, attribute = name.partition(".")
    init = root / package / "__init__.py"
    if not attribute or not init.is_file():
        return name
    homes = _homes(init.read_text())
    return (
        f"{package}.{homes[attribute].removeprefix(package + '.')}" if attribute in homes else name
    )


@cache
def _homes(text: str) -> dict[str, str]:
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
            return ast.literal_eval(node.value)
    return {}


def sources(package: str, root: Path = ROOT) -> list[Path]:
    return sorted((root / package).rglob("*.py"))


def module_name(path: Path, root: Path = ROOT) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


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
        door = path == ROOT / package / "__main__.py"  # `python -m PACKAGE` is the console script
        tops -= {"cli"} if door else set()
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


def floor_of(name: str) -> tuple[int, str] | None:
    """Floor and room of a module; None for a package's face and for what is not ours."""
    package, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    for floor, rooms in enumerate(FLOORS.get(package, ())):
        if room in rooms:
            return floor, room
    return None


def wrong_ways(package: str, root: Path = ROOT) -> list[str]:
    """Imports that run up, or sideways into another room; and modules without a room."""
    wrong = []
    for path in sources(package, root):
        name = module_name(path, root)
        here = floor_of(name)
        if here is None:
            doors = (package, f"{package}.__main__")
            wrong += [f"{name} stands in no room"] if name not in doors else []
            continue
        for other in sorted(imported(path, root)):
            there = floor_of(other) if other.startswith(f"{package}.") else None
            if there and there != here and there[0] >= here[0]:
                wrong.append(f"{name} imports {other}")
    return wrong


def circles(root: Path = ROOT) -> list[str]:
    """Modules that import each other in a ring, imports inside functions counted."""
    paths = {module_name(path, root): path for package in OURS for path in sources(package, root)}
    graph = {name: (imported(path, root) & paths.keys()) - {name} for name, path in paths.items()}
    state, found = dict.fromkeys(graph, "new"), []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if state[name] == "open":
            found.append(" → ".join((*trail[trail.index(name) :], name)))
        if state[name] == "new":
            state[name] = "open"
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            state[name] = "done"

    for name in graph:
        visit(name, ())
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_only_know_the_floors_below(package):
    assert wrong_ways(package) == []


def test_nothing_imports_in_a_ring():
    assert circles() == []


def test_every_room_is_there():
    """Guards the two rules above: a rename must not leave them without subjects."""
    for package, floors in FLOORS.items():
        rooms = [room for floor in floors for room in floor]
        there = {path.stem if path.is_file() else path.name for path in (ROOT / package).iterdir()}
        assert set(rooms) <= there


@pytest.fixture
def small_house(tmp_path):
    """A package with a module in every room, and nothing wrong."""
    for package, floors in FLOORS.items():
        for room in (room for floor in floors for room in floor):
            (tmp_path / package / room).mkdir(parents=True)
            (tmp_path / package / room / "__init__.py").touch()
        (tmp_path / package / "__init__.py").write_text('_HOME = {"Thing": "features.thing"}\n')
    return tmp_path


UPWARDS = [
    (package, low, high)
    for package, floors in FLOORS.items()
    for low, high in itertools.pairwise(floors)
]
SIDEWAYS = [
    (package, floor[:2]) for package, floors in FLOORS.items() for floor in floors if floor[1:]
]


@pytest.mark.parametrize(("package", "low", "high"), UPWARDS)
def test_a_way_up_is_seen(package, low, high, small_house):
    assert wrong_ways(package, small_house) == []
    file = small_house / package / low[0] / "new.py"
    file.write_text(f"def late():\n    from {package}.{high[0]}.thing import x\n    return x\n")
    assert f"{package}.{low[0]}.new imports {package}.{high[0]}.thing" in wrong_ways(
        package, small_house
    )


@pytest.mark.parametrize(("package", "rooms"), SIDEWAYS)
def test_a_way_into_a_neighbours_room_is_seen(package, rooms, small_house):
    file = small_house / package / rooms[0] / "new.py"
    file.write_text(f"import {package}.{rooms[1]}.thing\n")
    assert wrong_ways(package, small_house) == [
        f"{package}.{rooms[0]}.new imports {package}.{rooms[1]}.thing"
    ]


def test_a_module_outside_the_rooms_and_a_name_handed_on_are_seen(small_house):
    (small_house / "store" / "corridor.py").touch()
    (small_house / "store" / "names" / "new.py").write_text("from store import Thing\n")
    assert wrong_ways("store", small_house) == [
        "store.corridor stands in no room",
        "store.names.new imports store.features.thing",
    ]


def test_a_ring_through_a_function_is_seen_and_one_for_types_is_none(small_house):
    one, two = small_house / "learn" / "data" / "one.py", small_house / "learn" / "data" / "two.py"
    one.write_text("from learn.data.two import y\n")
    two.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from learn.data.one import x\n"
    )
    assert circles(small_house) == []
    two.write_text("def late():\n    from learn.data import one\n")
    assert circles(small_house) == ["learn.data.one → learn.data.two → learn.data.one"]


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
