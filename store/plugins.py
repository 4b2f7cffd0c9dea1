"""A plug-in family is a package; a plug-in is one public module in it.

The module's name is the plug-in's name, so adding one means adding one file: there is no list to
extend and no decorator to forget. Each module offers

    Config                  a frozen dataclass over `store.settings.Settings`
    build(config, ...)      the only constructor; what follows `config` is fixed by the family
    TRAITS                  what the family must know before it builds one, in families that ask

A SPEC is how people write one down: `name` or `name:key=value,key=value`. A key without a value
is a switch (`simclrv2:untrained`).
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, get_type_hints

from store.errors import ConfigError, UnknownPlugin, UnknownSetting, choices

_LIGHT = {"store.errors", "store.settings"}  # imported as they are, whoever asks


@dataclass(frozen=True, slots=True)
class Spec:
    """One plug-in and its settings, as text from a command line or a recipe."""

    name: str
    settings: Mapping[str, Any]


def parse_spec(text: str) -> Spec:
    """Split `name:key=value,…` into its parts; values stay text until `configure` types them.

    Raises:
        ConfigError: an empty name, an empty key or a key given twice.
    """
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, has_value, value = item.partition("=")
        if not key or key in settings:
            raise ConfigError(f"{text!r}: {'empty' if not key else 'repeated'} key at {item!r}")
        settings[key] = value if has_value else True
    if not name:
        raise ConfigError(f"{text!r} names nothing; write NAME or NAME:key=value,…")
    return Spec(name.replace("-", "_"), settings)  # as their files are called


def names(family: str) -> list[str]:
    """The public modules of package `family`, sorted, without importing any of them."""
    spec = find_spec(family)
    folders = spec.submodule_search_locations if spec else None
    return sorted(m.name for m in iter_modules(folders) if not m.name.startswith("_"))


def module(family: str, name: str) -> ModuleType:
    """The module of plug-in `name`.

    Raises:
        UnknownPlugin: says what exists and what was probably meant.
    """
    check_name(family, name)
    return import_module(f"{family}.{name}")


def check_name(family: str, name: str) -> None:
    """Refuse a plug-in that does not exist.

    Raises:
        UnknownPlugin: says what exists and what was probably meant.
    """
    if name not in (known := names(family)):
        noun = family.rpartition(".")[2].removesuffix("s")
        raise UnknownPlugin(f"no {noun} {name!r}; there are {choices(name, known)}")


def configure(family: str, spec: Spec) -> Any:
    """The frozen `Config` of a plug-in, each setting converted to its field's type.

    Raises:
        UnknownPlugin, UnknownSetting: the name or key does not exist.
        ConfigError: a value that is not of the field's type.
    """
    return settle(module(family, spec.name).Config, spec.name, spec.settings)


def settle(config_type: Any, name: str, settings: Mapping[str, Any]) -> Any:
    """A settings dataclass from text or values, each converted to its field's type.

    Raises:
        UnknownSetting: `name` has no such key.
        ConfigError: a value that is not of the field's type.
    """
    types = get_type_hints(config_type)
    known = [f.name for f in fields(config_type)]
    for key in settings:
        if key not in known:
            raise UnknownSetting(f"{name} has no setting {key!r}; it has {choices(key, known)}")
    return config_type(
        **{key: _typed(name, key, value, types[key]) for key, value in settings.items()}
    )


def build(family: str, spec: Spec | str, *args: Any, **kwargs: Any) -> Any:
    """Build a plug-in from its SPEC; further arguments go to its `build`."""
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    config = configure(family, spec)
    return module(family, spec.name).build(config, *args, **kwargs)


def _typed(name: str, key: str, value: Any, wanted: Any) -> Any:
    """`value` as `wanted`: text is parsed, everything else must already fit."""
    if not isinstance(value, str):
        if wanted is float and type(value) is int:
            return float(value)
        if wanted in (bool, int, float, str) and type(value) is not wanted:
            raise ConfigError(f"{name}: {key}={value!r} is not of type {wanted.__name__}")
        return value
    if wanted is bool:
        if value.lower() not in {"true", "false"}:
            raise ConfigError(f"{name}: {key}={value!r} is neither true nor false")
        return value.lower() == "true"
    if wanted in (int, float):
        try:
            return wanted(value)
        except ValueError:
            raise ConfigError(
                f"{name}: {key}={value!r} is not a number of type {wanted.__name__}"
            ) from None
    return value


def describe(family: str) -> list[dict[str, Any]]:
    """Name, first docstring line, settings and their bounds of every plug-in of a family."""
    rows = []
    for name in names(family):
        parsed = _read(f"{family}.{name}", ("__doc__", "Config"))
        own = fields(parsed["Config"])
        bounds = {field.name: str(b) for field in own if (b := field.metadata.get("bounds"))}
        rows.append(
            {
                "name": name,
                "summary": (parsed["__doc__"] or "").strip().splitlines()[0],
                "settings": {field.name: field.default for field in own},
                "bounds": bounds,
            }
        )
    return rows


# ── reading settings without what else their module imports ──────────────────────────────────────


def config_type(family: str, name: str) -> Any:
    """The `Config` of a plug-in, without importing torch or whatever else its module needs.

    An equal class, but not the module's own: for checks and listings, not for `build`.

    Raises:
        UnknownPlugin: says what exists and what was probably meant.
    """
    check_name(family, name)
    return _read(f"{family}.{name}", ("Config",))["Config"]


def _read(dotted: str, wanted: Iterable[str]) -> dict[str, Any]:
    """Some names of a module of ours: only the top-level statements that they rest on are run."""
    tree = ast.parse(_source(dotted))
    statements = {name: node for node in tree.body for name in _defined_by(node)}
    needed, ahead = set[str](), set(wanted)
    while ahead:
        needed |= ahead
        ahead = {n for key in ahead & statements.keys() for n in _used_by(statements[key])} - needed
    found: dict[str, Any] = {"__name__": dotted, "__doc__": ast.get_docstring(tree)}
    for node in tree.body:
        if not needed.intersection(_defined_by(node)):
            continue
        if _is_read(node, dotted):
            assert isinstance(node, ast.ImportFrom)
            source = str(node.module)
            imported = {alias.asname or alias.name: alias.name for alias in node.names}
            theirs = _read(source, [imported[name] for name in imported.keys() & needed])
            found |= {name: theirs[imported[name]] for name in imported.keys() & needed}
        else:
            exec(compile(ast.Module([node], []), dotted, "exec"), found)
    return found


def _is_read(node: ast.stmt, dotted: str) -> bool:
    """Whether a statement imports from a module of the same package, which may import anything."""
    if not isinstance(node, ast.ImportFrom) or not node.module or node.module in _LIGHT:
        return False
    return node.module.split(".")[0] == dotted.split(".")[0]


def _source(dotted: str) -> str:
    """The text of a module, found without importing the packages around it."""
    top, *inner = dotted.split(".")
    spec = find_spec(top)
    roots = spec.submodule_search_locations if spec else None
    assert roots, dotted
    path = Path(roots[0], *inner)
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def _defined_by(node: ast.stmt) -> set[str]:
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
    names = (name for name in ast.walk(node) if isinstance(name, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Load)}
