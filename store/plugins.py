"""A plug-in family is a package; a plug-in is one public module in it.

The module's name is the plug-in's name, so adding one means adding one file: there is no list to
extend and no decorator to forget. Each module offers

    Config                  a frozen dataclass, every field with a default
    build(config, ...)      the only constructor; what follows `config` is fixed by the family

A SPEC is how people write one down: `name` or `name:key=value,key=value`. A key without a value
is a switch (`simclrv2:untrained`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, get_type_hints

from store.errors import ConfigError, UnknownPlugin, UnknownSetting, choices


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
    found = find_spec(family)
    places = found.submodule_search_locations if found else None
    return sorted(m.name for m in iter_modules(places) if not m.name.startswith("_"))


def module(family: str, name: str) -> ModuleType:
    """The module of plug-in `name`.

    Raises:
        UnknownPlugin: says what exists and what was probably meant.
    """
    if name not in (known := names(family)):
        noun = family.rpartition(".")[2].removesuffix("s")
        raise UnknownPlugin(f"no {noun} {name!r}; there are {choices(name, known)}")
    return import_module(f"{family}.{name}")


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
    """Name, first docstring line and settings of every plug-in of a family."""
    rows = []
    for name in names(family):
        plugin = module(family, name)
        summary = (plugin.__doc__ or "").strip().splitlines()[0]
        settings = {f.name: f.default for f in fields(plugin.Config)}
        rows.append({"name": name, "summary": summary, "settings": settings})
    return rows
