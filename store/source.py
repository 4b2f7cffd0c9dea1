"""Names of a module, read from its source without importing what else the module needs.

Only the top-level statements that a name rests on are run, so settings of a plug-in can be listed
and checked without torch, and nothing of a module that is no plug-in is run at all.
"""

import ast
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def exists(dotted: str) -> bool:
    """Whether there is such a module, found without importing it or a package around it."""
    return _file(dotted) is not None


def is_package(dotted: str) -> bool:
    """Whether a module is the face of a package."""
    file = _file(dotted)
    return file is not None and file.name == "__init__.py"


def _file(dotted: str) -> Path | None:
    top, *inner = dotted.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # of a module that was made by hand
        return None
    if spec is None:
        return None
    roots = spec.submodule_search_locations
    if not roots:
        alone = None if inner or not spec.origin else Path(spec.origin)
        return alone if alone and alone.suffix == ".py" else None
    for path in (Path(root, *inner) for root in roots):
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return file
    return None


def names_of(dotted: str) -> set[str]:
    """The names that a module defines at its top, none of it being run.

    Raises:
        SyntaxError: it is no Python.
    """
    return {name for node in ast.parse(_text(dotted)).body for name in defined_by(node)}


def value_of(dotted: str, wanted: str, *default: Any) -> Any:
    """One name of a module: an equal value, but not the module's own.

    A `default` stands for what the module does not have.
    """
    found = _once(dotted, wanted, _text(dotted))
    return found.get(wanted, *default) if default else found[wanted]


def _text(dotted: str) -> str:
    file = _file(dotted)
    assert file is not None, dotted
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SyntaxError(f"{file} is not UTF-8") from error


@cache
def _once(dotted: str, wanted: str, text: str) -> dict[str, Any]:
    """The name and what it rests on, read once for every text of the module."""
    return _read(dotted, (wanted,))


def _read(dotted: str, wanted: Iterable[str]) -> dict[str, Any]:
    """Some names of a module of ours: only the top-level statements that they rest on are run."""
    tree = ast.parse(_text(dotted))
    statements = {name: node for node in tree.body for name in defined_by(node)}
    needed, ahead = set[str](), set(wanted)
    while ahead:
        needed |= ahead
        ahead = {n for key in ahead & statements.keys() for n in _used_by(statements[key])} - needed
    package = dotted if is_package(dotted) else dotted.rpartition(".")[0]
    namespace: dict[str, Any] = {
        "__name__": dotted, "__package__": package, "__doc__": ast.get_docstring(tree),
    }  # fmt: skip
    for node in tree.body:
        if not needed.intersection(defined_by(node)):
            continue
        theirs = _theirs(node, dotted, needed) if isinstance(node, ast.ImportFrom) else None
        if theirs is None:
            exec(compile(ast.Module([node], []), dotted, "exec"), namespace)
        namespace |= theirs or {}
    return namespace


def _theirs(node: ast.ImportFrom, dotted: str, needed: set[str]) -> dict[str, Any] | None:
    """What an import brings of `needed`, read likewise; None if it is to be imported."""
    module = _imported(node, dotted)
    imported = {alias.asname or alias.name: alias.name for alias in node.names}
    names = imported.keys() & needed
    if not _is_read(module, dotted) or not {imported[name] for name in names} <= names_of(module):
        return None
    found = _read(module, [imported[name] for name in names])
    return {name: found[imported[name]] for name in names}


def _imported(node: ast.ImportFrom, dotted: str) -> str:
    """The full name of the module that an import of module `dotted` is from."""
    if not node.level:
        return node.module or ""
    path = dotted.split(".")
    around = path[: len(path) - node.level + is_package(dotted)]
    return ".".join((*around, *filter(None, (node.module,))))


def _is_read(module: str, by: str) -> bool:
    """Whether a module is read likewise, as one that may need heavy libraries. What all plug-ins
    share, the errors above all, is imported: its classes must be the ones that others know."""
    package = module.split(".")
    if package[0] == "store":
        return package[:2] == ["store", "exchange"]
    return package[0] in ("extract", "learn", by.partition(".")[0])


def defined_by(node: ast.stmt) -> set[str]:
    """The names that a top-level statement gives its module."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        names = (name for name in ast.walk(node) if isinstance(name, ast.Name))
        return {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return set()


def _used_by(node: ast.stmt) -> set[str]:
    """The names that a statement reads."""
    names = (name for name in ast.walk(node) if isinstance(name, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Load)}
