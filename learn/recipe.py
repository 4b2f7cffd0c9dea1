"""Recipes: TOML that makes a published system out of plug-ins, and the changes `--set` makes to it.

[data]         which clips and features
[projection]   `name` and the settings of a plug-in of learn/projections, built for each modality
[objective]    `name` and the settings of a plug-in of learn/objectives
[optimiser]    how long and how fast
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from store import plugins
from store.errors import ConfigError, MissingFile, UnknownSetting, choices

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    split: str = ""  # trained on; empty: train where there are splits, else all
    val_split: str = "val"  # stops the training early, where the manifest has it
    label: str = "label"
    visual: str = ""  # a feature's name; empty: the only one; none: leave it out
    audio: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserSettings:
    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    patience: int = 10  # epochs without a lower validation loss; 0: never stop early
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {"epochs": 1, "batch_size": 2, "patience": 0, "seed": 0}
        for key, least in bounds.items():
            if getattr(self, key) < least:
                raise ConfigError(f"optimiser.{key}={getattr(self, key)} is less than {least}")
        if not 0 < self.learning_rate < float("inf") or not 0 <= self.weight_decay < float("inf"):
            raise ConfigError("optimiser: learning_rate is above 0 and weight_decay 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A complete training: every setting has its value."""

    data: DataSettings
    projection: plugins.Spec
    objective: plugins.Spec
    optimiser: OptimiserSettings

    def as_json(self) -> dict[str, Any]:
        """All settings; `from_tables` reads it back."""
        plain = {"data": asdict(self.data), "optimiser": asdict(self.optimiser)}
        of_plugins = {"projection": self.projection, "objective": self.objective}
        return plain | {k: {"name": s.name, **s.settings} for k, s in of_plugins.items()}


def recipes() -> list[dict[str, str]]:
    """Name, first line of the header and path of every recipe that comes with the package."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        header = path.read_text().splitlines()[0].lstrip("# ")
        found.append({"name": path.stem, "summary": header, "path": str(path)})
    return found


def load(recipe: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or in that file, with `section.key=value` changes.

    Raises:
        MissingFile: neither a recipe's name nor a file.
        ConfigError: not TOML, or a value of the wrong type.
        UnknownSetting, UnknownPlugin: says what exists and what was probably meant.
    """
    path = Path(recipe)
    if not path.is_file():
        known = {one["name"]: one["path"] for one in recipes()}
        if str(recipe) not in known:
            raise MissingFile(f"no recipe {str(recipe)!r}; there are {choices(str(recipe), known)}")
        path = Path(known[str(recipe)])
    try:
        tables = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{path} is not TOML: {fault}") from None
    for change in changes:
        section, key, value = _parse_change(change)
        if not isinstance(tables.setdefault(section, {}), dict):
            raise ConfigError(f"{path}: {section} is not a [section]")
        tables[section][key] = value
    return from_tables(tables, where=str(path))


def from_tables(tables: Mapping[str, Any], *, where: str) -> Recipe:
    """A recipe of its sections; what they leave out has its default."""
    known = [f.name for f in fields(Recipe)]
    for section, table in tables.items():
        if section not in known:
            raise UnknownSetting(
                f"{where} has no section {section!r}; there are {choices(section, known)}"
            )
        if not isinstance(table, dict):
            raise ConfigError(f"{where}: {section} is not a [section]")
    return Recipe(
        data=plugins.settle(DataSettings, "data", tables.get("data", {})),
        projection=_plugin("projection", tables.get("projection", {})),
        objective=_plugin("objective", tables.get("objective", {})),
        optimiser=plugins.settle(OptimiserSettings, "optimiser", tables.get("optimiser", {})),
    )


def _parse_change(change: str) -> tuple[str, str, str]:
    name, has_value, value = change.partition("=")
    section, has_key, key = name.strip().partition(".")
    if not (has_value and has_key and section and key):
        raise ConfigError(f"--set {change!r} is not SECTION.KEY=VALUE, such as optimiser.epochs=20")
    return section, key, value.strip()


def _plugin(section: str, table: Mapping[str, Any]) -> plugins.Spec:
    """The plug-in of a section, with all its defaults written out."""
    family = f"learn.{section}s"
    settings = dict(table)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"{section}.name is missing; there are {', '.join(plugins.names(family))}"
        )
    config = plugins.configure(family, plugins.Spec(name, settings))
    assert is_dataclass(config)
    return plugins.Spec(name, {f.name: getattr(config, f.name) for f in fields(config)})
