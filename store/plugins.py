"""A plug-in family is a package; a plug-in is one public module in it.

The module's name is the plug-in's name, so adding one means adding one file: there is no list to
extend and no decorator to forget. Each module offers

    Config                  a frozen dataclass over `store.settings.Settings`
    build(config, ...)      the only constructor; what follows `config` is fixed by the family
    TRAITS                  what the family must know before it builds one, in families that ask

A SPEC is how people write one down: `name` or `name:key=value,key=value` (`store/grammar.py`).
"""

import ast
import sys
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, get_type_hints

from store import grammar
from store.errors import ConfigError, UnknownPlugin, UnknownSetting, choices
from store.grammar import Spec as Spec
from store.settings import Bounds


def parse_spec(text: str, family: str | None = None) -> Spec:
    """Split a SPEC into name and settings; values stay text until `configure` types them.

    The `family` knows which setting the plug-in's main argument is; without one there is none.

    >>> parse_spec("fps:2", "extract.media.samplers")
    Spec(name='fps', settings={'rate': '2'})

    Raises:
        ConfigError: no name, a key that is empty or given twice, a quote that is not closed, or an
            argument for a plug-in that has no main one.
    """
    name, words = grammar.parse(text)
    config = config_type(family, name) if family and name in names(family) else None
    settings: dict[str, Any] = {}
    for place, word in enumerate(words):
        try:
            key, value = _meaning(word, config if place == 0 else None)
        except ConfigError as error:
            raise ConfigError(f"{text!r}: {error}") from None
        if key in settings:
            raise ConfigError(f"{text!r}: repeated key {key!r}")
        settings[key] = value
    return Spec(name, settings)


def _meaning(word: grammar.Word, config: Any) -> tuple[str, Any]:
    """The setting and value of a word; `config` is that of a plug-in whose first word it is."""
    if word.key is not None:
        return word.key, word.value
    main = main_setting(config)
    is_switch = not word.quoted and main and get_type_hints(config).get(word.value) is bool
    if main and not is_switch:
        return main, word.value
    if word.quoted:
        raise ConfigError(f"{word.value!r} is no main argument here; write KEY={word.value}")
    return word.value, True


def main_setting(config: Any) -> str | None:
    """The setting that a first word without `=` is the value of; None if there is none."""
    own = fields(config) if config is not None else ()
    return next((f.name for f in own if f.metadata.get("main")), None)


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
    loaded = sys.modules.get(f"{family}.{name}")
    if loaded is not None and name.isidentifier() and not name.startswith("_"):
        return loaded  # looking into the folder again would be most of the time of small calls
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


def check(family: str, spec: Spec) -> Any:
    """The settings of a plug-in, typed and within bounds, without importing what else it needs.

    An equal object, but not of the module's own class: for checks, not for `build`.

    Raises:
        UnknownPlugin, UnknownSetting: the name or key does not exist.
        ConfigError: a value that is not of the field's type, or out of bounds.
    """
    return settle(config_type(family, spec.name), spec.name, spec.settings)


def settle(config_type: Any, name: str, settings: Mapping[str, Any]) -> Any:
    """A settings dataclass from text or values, each converted to its field's type.

    Raises:
        UnknownSetting: `name` has no such key.
        ConfigError: a value that is not of the field's type.
    """
    types = get_type_hints(config_type)
    own = {f.name: f for f in fields(config_type)}
    known = list(own)
    for key in settings:
        if key not in known:
            raise UnknownSetting(f"{name} has no setting {key!r}; it has {choices(key, known)}")
    return config_type(
        **{
            key: _typed(name, key, _meant(own[key], value), types[key])
            for key, value in settings.items()
        }
    )


def build(family: str, spec: Spec | str, *args: Any, **kwargs: Any) -> Any:
    """Build a plug-in from its SPEC; further arguments go to its `build`."""
    spec = parse_spec(spec, family) if isinstance(spec, str) else spec
    config = configure(family, spec)
    return module(family, spec.name).build(config, *args, **kwargs)


def _meant(of: Field, value: Any) -> Any:
    """The value that a word of this setting stands for, or `value` itself."""
    bounds: Bounds | None = of.metadata.get("bounds")
    return bounds.words.get(value, value) if bounds and isinstance(value, str) else value


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
        settings = fields(parsed["Config"])
        bounds = {s.name: str(b) for s in settings if (b := s.metadata.get("bounds"))}
        rows.append(
            {
                "name": name,
                "summary": (parsed["__doc__"] or "").strip().splitlines()[0],
                "settings": {setting.name: setting.default for setting in settings},
                "bounds": bounds,
                "main": main_setting(parsed["Config"]),
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
    return glance(family, name, "Config")


def glance(family: str, name: str, wanted: str, *default: Any) -> Any:
    """One name of a plug-in's module, likewise: an equal value, without what else it imports.

    A `default` stands for what the module does not have.

    Raises:
        UnknownPlugin: says what exists and what was probably meant.
    """
    check_name(family, name)
    dotted = f"{family}.{name}"
    found = _glanced(dotted, wanted, _source(dotted))
    return found.get(wanted, *default) if default else found[wanted]


@cache
def _glanced(dotted: str, wanted: str, text: str) -> dict[str, Any]:
    """The name and what it rests on, read once for every text of the module."""
    return _read(dotted, (wanted,))


def _read(dotted: str, wanted: Iterable[str]) -> dict[str, Any]:
    """Some names of a module of ours: only the top-level statements that they rest on are run."""
    tree = ast.parse(_source(dotted))
    statements = {name: node for node in tree.body for name in _defined_by(node)}
    needed, ahead = set[str](), set(wanted)
    while ahead:
        needed |= ahead
        ahead = {n for key in ahead & statements.keys() for n in _used_by(statements[key])} - needed
    namespace: dict[str, Any] = {"__name__": dotted, "__doc__": ast.get_docstring(tree)}
    for node in tree.body:
        if not needed.intersection(_defined_by(node)):
            continue
        if isinstance(node, ast.ImportFrom) and _is_read(node.module):
            imported = {alias.asname or alias.name: alias.name for alias in node.names}
            names = imported.keys() & needed
            theirs = _read(node.module or "", [imported[name] for name in names])
            namespace |= {name: theirs[imported[name]] for name in names}
        else:
            exec(compile(ast.Module([node], []), dotted, "exec"), namespace)
    return namespace


def _is_read(module: str | None) -> bool:
    """Whether a module is read likewise, as one that may need heavy libraries. What all plug-ins
    share, the errors above all, is imported: its classes must be the ones that others know."""
    package = (module or "").split(".")
    return package[0] in ("extract", "learn") or package[:2] == ["store", "exchange"]


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
    """The names that a statement reads."""
    names = (name for name in ast.walk(node) if isinstance(name, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Load)}
