"""A plug-in family is a package; a plug-in is one public module in it.

The module's name is the plug-in's name, so adding one means adding one file: there is no list to
extend and no decorator to forget. Each module offers

    Config                  a frozen dataclass over `store.settings.Settings`
    build(config, ...)      the only constructor; what follows `config` is fixed by the family
    TRAITS                  what the family must know before it builds one, in families that ask

Other packages offer more, by entry points or as `module.path/attr` (`store/outside.py`): they are
found and read without importing anything, like our own, and never hide one of ours.

A SPEC is how people write one down: `name` or `name:key=value,key=value` (`store/grammar.py`).
"""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, get_type_hints

from store import grammar, source
from store import outside as elsewhere
from store.errors import ConfigError, MicroshotError, UnknownPlugin, UnknownSetting, choices
from store.grammar import Spec as Spec
from store.outside import Place
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
    config = _config_if_any(family, name) if family and words else None
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


def _config_if_any(family: str, name: str) -> Any:
    """The settings of a plug-in; None if there is none, which whoever builds it says."""
    try:
        return config_type(family, name)
    except ConfigError:
        return None


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


def outside(family: str) -> dict[str, Place]:
    """What installed distributions offer a family, by the NAME that a SPEC has for it.

    A name that is one of ours, or that two distributions have, is nobody's: the place stands in
    for it.
    """
    offered = elsewhere.offered(family)
    own, times = names(family), Counter(place.name for place in offered)
    return {
        place.name if place.name not in own and times[place.name] == 1 else str(place): place
        for place in offered
    }


def known(family: str) -> list[str]:
    """The names of a family: its own, and those that installed distributions offer."""
    return sorted((*names(family), *outside(family)))


def module(family: str, name: str) -> Any:
    """The module of plug-in `name`, or what stands for one: it has `Config` and `build`.

    Raises:
        UnknownPlugin: says what exists and what was probably meant.
        ConfigError: a plug-in from outside that is none, or cannot be imported.
    """
    loaded = sys.modules.get(f"{family}.{name}")
    if loaded is not None and name.isidentifier() and not name.startswith("_"):
        return loaded  # looking into the folder again would be most of the time of small calls
    place = find(family, name)
    if place.module == f"{family}.{name}":
        return import_module(place.module)
    try:
        found = import_module(place.module)
        found = getattr(found, place.attribute) if place.attribute else found
        _refuse_other(found.Config)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{_noun(family)} {name!r} of {place.distribution or place.module} cannot be "
            f"imported: {_why(error)}"
        ) from error
    return found


def find(family: str, name: str) -> Place:
    """Where plug-in `name` stands, found without importing it.

    Raises:
        UnknownPlugin: says what exists and what was probably meant.
        ConfigError: what stands there is no plug-in.
    """
    if name in names(family):
        return Place(f"{family}.{name}")
    if elsewhere.is_place(name):
        place: Place | None = elsewhere.located(name)
    else:
        place = outside(family).get(name)
    noun = _noun(family)
    if place is None:
        if rivals := [p for p in elsewhere.offered(family) if p.name == name]:
            who = " and ".join(f"{place} of {place.distribution}" for place in rivals)
            raise UnknownPlugin(f"{_noun(family)} {name!r} may be {who}; name one of the two")
        raise UnknownPlugin(
            f"no {_noun(family)} {name!r}; there are {choices(name, known(family))}"
        )
    if not source.exists(place.module):
        raise UnknownPlugin(
            f"no {noun} {name!r}: there is no module {place.module} on Python's path"
        )
    wanted = {place.attribute} if place.attribute else {"Config", "build"}
    try:
        defined = source.names_of(place.module)
    except (SyntaxError, RecursionError, MemoryError) as error:
        who = place.distribution or place.module
        raise ConfigError(f"{noun} {name!r} of {who} cannot be read: {_why(error)}") from error
    if missing := wanted - defined:  # what is no plug-in is never run
        raise ConfigError(
            f"{name} is no {noun}: {place.module} defines no {' and no '.join(sorted(missing))}"
        )
    return place


def check_name(family: str, name: str) -> None:
    """Refuse a plug-in that does not exist.

    Raises:
        UnknownPlugin: says what exists and what was probably meant.
    """
    find(family, name)


def _noun(family: str) -> str:
    return family.rpartition(".")[2].removesuffix("s")


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
    for key, of in own.items():
        if key not in settings and of.default is MISSING and of.default_factory is MISSING:
            raise ConfigError(f"{name} has no default for {key}; write {name}:{key}=…")
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
    places = {name: Place(f"{family}.{name}") for name in names(family)} | outside(family)
    return [_described(name, place) for name, place in places.items()]


def _described(name: str, place: Place) -> dict[str, Any]:
    """A row of a listing; of a plug-in from outside that cannot be read, why not."""
    row: dict[str, Any] = {"name": name, "summary": "", "settings": {}, "bounds": {}, "main": None}
    try:
        config, doc = _seen(place, "Config"), _seen(place, "__doc__")
    except (Exception, SystemExit) as error:
        if place.distribution is None:
            raise
        why = f"cannot be read: {_why(error)}"
        return row | {"summary": why, "distribution": place.distribution}
    settings = fields(config)
    return row | {
        "summary": ((doc or "").strip().splitlines() or [""])[0],
        "settings": {setting.name: _default(setting) for setting in settings},
        "bounds": {s.name: str(b) for s in settings if (b := s.metadata.get("bounds"))},
        "main": main_setting(config),
        "distribution": place.distribution,
    }


def _default(of: Field) -> Any:
    """A default as a listing shows it, JSON included; None where there is none."""
    if of.default is MISSING:
        return None if of.default_factory is MISSING else str(of.default_factory())
    return of.default if isinstance(of.default, str | int | float | None) else str(of.default)


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
    place = find(family, name)
    try:
        return _seen(place, wanted, *default)
    except MicroshotError:
        raise
    except (Exception, SystemExit) as error:
        if place.module == f"{family}.{name}":
            raise
        raise ConfigError(
            f"{_noun(family)} {name!r} of {place.distribution or place.module}: its {wanted} "
            f"cannot be read: {_why(error)}"
        ) from error


def _seen(place: Place, wanted: str, *default: Any) -> Any:
    """One name of a plug-in, read from its source."""
    if place.attribute:
        found = getattr(source.value_of(place.module, place.attribute), wanted, *default)
    else:
        found = source.value_of(place.module, wanted, *default)
    if wanted == "Config":
        _refuse_other(found)
    return found


def _refuse_other(config: Any) -> None:
    """Refuse a `Config` that says nothing about settings."""
    if not (isinstance(config, type) and is_dataclass(config)):
        raise TypeError("Config is no dataclass; see CONTRIBUTING.md")


def _why(error: BaseException) -> str:
    """What somebody else's module did, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
