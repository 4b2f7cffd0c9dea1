"""Recipes: TOML that makes a published system out of plug-ins, and the changes `--set` makes to it.

[data]         which clips and features
[projection]   `name` and the settings of a plug-in of learn/models/projections, for each modality;
               [projection.visual], [projection.audio], [projection.text] change it for one
[network]      instead of [projection]: a plug-in of learn/models/networks, for all modalities
[objective]    `name` and the settings of a plug-in of learn/training/objectives; none where the
               projection is solved at once
[optimiser]    how long and how fast
[views]        copies of each clip that differ, for objectives that compare a clip with itself
[[stages]]     one after another, each from where the last ended; none: one stage that learns all
  name         what it is called in talk and metrics
  train        the parts that learn: modalities (or "network", or "network.PART"), "objective"; the
               others are frozen
  rounds       how often it starts over with a fresh optimiser, such as after each re-clustering
  data         which of the clips: a `split`, and whether `labels` are required
  objective, optimiser, views    change those above; an objective with a `name` replaces it
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learn.data.features import MODALITIES, SENSED, names_of
from store import plugins
from store.errors import ConfigError, MissingFile, UnknownSetting, choices
from store.settings import Settings, setting
from store.sizes import parse_size

if TYPE_CHECKING:
    from learn.data.class_embeddings import ClassEmbeddings

FOLDER = Path(__file__).parent / "recipes"
OF_COMMANDS = {"learn train": FOLDER, "learn finetune": FOLDER.parents[1] / "finetuning/recipes"}
# Where the plug-ins that a section of a recipe names are found.
FAMILIES = {
    "projection": "learn.models.projections",
    "network": "learn.models.networks",
    "objective": "learn.training.objectives",
}
NONE = "none"
FACTS = ("command", "time", "expect", "source")  # of a recipe's header
# By section and plug-in, what its later settings were before there were any: the value, or what
# gives it from the run's other settings. Runs of then are read as what they are.
BEFORE: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("projection", "linear"): {"residual": False, "dropout": 0.0},
    ("projection", "mlp"): {"residual": False},
    ("network", "avca"): {"leave_dropout": lambda run: run["dropout"]},
    ("network", "tcaf"): {
        "head_dim": 0,
        "norms": 2,
        "encoder": 0,
        "encoder_dropout": lambda run: run["dropout"],
        "mark_dropout": 0.0,
        "out_hidden": 0,
        "out_dropout": 0.0,
        "fourier_scale": 0.0,
    },
    ("objective", "avca"): {"decoder": "linear"},
    ("objective", "avgzslnet"): {
        "decoder_hidden": lambda run: run["hidden"],
        "decoder_norm": False,
        "decoder_dropout": 0.0,
    },
    ("objective", "ccl"): {"teacher_weight": 0.0},
    ("objective", "cjme"): {"relu_out": False},
    ("objective", "cross_modal_probe"): {"unit_weights": True},
    ("objective", "distillation"): {"shared": True},
    ("objective", "tcaf"): {"decoders": 1},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings(Settings):
    """The clips and features to train on."""

    split: str = ""  # trained on; empty: train where there are splits, else all
    val_split: str = "val"  # stops the training early, where the manifest has it
    label: str = "label"  # for objectives of several labels, columns may be joined: A,B
    visual: str = ""  # names of features, as A,B; empty: the only one; none: leave it out
    audio: str = ""
    text: str = NONE  # most recipes are of sight and sound; a feature's name has it learnt too
    # clips without a modality; keep: masked, for objectives that allow it
    missing: str = setting("drop", among=("drop", "keep"))
    labels: str = ""  # a file with a vector for each class name: `learn labels`
    memory: str = "8GiB"  # rows of a larger split are streamed, see learn/data/streaming.py

    def check(self) -> None:
        """Refuse a memory that is no size."""
        parse_size(self.memory)

    def features(self, modality: str) -> tuple[str | None, ...]:
        """The names of a modality's features; None: the only one there is."""
        names = str(getattr(self, modality))
        if names == NONE:
            return ()
        return names_of([name.strip() for name in names.split(",") if name.strip()]) or (None,)

    @classmethod
    def prefix(cls) -> str:
        """The section, as `--set` and errors name its settings."""
        return "data."


@dataclass(frozen=True, slots=True, kw_only=True)
class StageData(Settings):
    """The clips of a stage, among those with the rows that training needs."""

    split: str = ""  # empty: that of [data]
    # auto: the clips that have one, if the stage's objective needs it; any: with or without
    labels: str = setting("auto", among=("auto", "required", "any"))

    @classmethod
    def prefix(cls) -> str:
        """The section, as `--set` and errors name its settings."""
        return "stages: data."


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserSettings(Settings):
    """The optimiser, batches and length of a stage."""

    method: str = setting("adamw", among=("adamw", "adam", "sgd"))
    epochs: int = setting(50, at_least=1)
    batch_size: int = setting(128, at_least=2)
    # batches among whose clips those of like length meet; 0: any clips meet
    bucket: int = setting(0, at_least=0)
    # classes of a batch, as many clips of each; 0: any clips meet
    ways: int = setting(0, at_least=0)
    learning_rate: float = setting(1e-3, above=0)
    weight_decay: float = setting(1e-4, at_least=0)
    momentum: float = setting(0.9, at_least=0, below=1)  # of sgd, Nesterov's
    # cosine: down to 0 at the end of the stage's round
    schedule: str = setting("constant", among=("constant", "cosine"))
    warmup_epochs: float = setting(0.0, at_least=0)
    # what tells the best epoch. unseen: episodes of classes that training lacks, and nothing but a
    # sure gain takes the place of the state before training; split: loss on the validation split if
    # it has one, else its episodes; auto: unseen where it can be had, else split
    watch: str = setting("auto", among=("auto", "unseen", "split", "loss", "episodes", "none"))
    # epochs without a better validation; 0: never stop early
    patience: int = setting(10, at_least=0)
    seed: int = setting(0, at_least=0)

    def check(self) -> None:
        """Refuse batches that settings make in two ways, or too small for their classes."""
        if 2 * self.ways > self.batch_size:
            raise ConfigError(
                f"optimiser.ways={self.ways} leaves less than two clips of a class in batches of "
                f"{self.batch_size}; lower it or raise optimiser.batch_size"
            )
        if self.ways and self.bucket:
            raise ConfigError("optimiser: ways and bucket both say who meets; set one of them")

    @classmethod
    def prefix(cls) -> str:
        """The section, as `--set` and errors name its settings."""
        return "optimiser."


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSettings(Settings):
    """The settings of random copies (`learn/training/augment.py`); by default none differ."""

    copies: int = setting(1, among=(1, 2))
    # share of a clip's rows in each copy, in one piece
    subclip: float = setting(1.0, above=0, at_most=1)
    # share of stored dimensions set to their mean
    feature_dropout: float = setting(0.0, at_least=0, below=1)
    noise: float = setting(0.0, at_least=0)  # in deviations of the stored dimensions

    @property
    def differ(self) -> bool:
        """True if copies differ from the clips they are of."""
        return self.subclip < 1 or self.feature_dropout > 0 or self.noise > 0

    @classmethod
    def prefix(cls) -> str:
        """The section, as `--set` and errors name its settings."""
        return "views."


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a training with one objective."""

    name: str
    objective: plugins.Spec
    optimiser: OptimiserSettings
    views: ViewSettings
    train: tuple[str, ...]  # empty: everything
    rounds: int
    data: StageData = StageData()

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"stage {self.name}: rounds={self.rounds} is less than 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A complete training: every setting has its value."""

    data: DataSettings
    projection: Mapping[str, plugins.Spec]  # by modality; empty where there is a network
    network: plugins.Spec | None
    stages: tuple[Stage, ...]  # none: the projections are solved at once
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """All settings; `from_tables` reads it back."""
        stages = [
            {
                "name": stage.name,
                "train": list(stage.train),
                "rounds": stage.rounds,
                "objective": flat(stage.objective),
                "optimiser": asdict(stage.optimiser),
                "views": asdict(stage.views),
                **({} if stage.data == StageData() else {"data": asdict(stage.data)}),
            }
            for stage in self.stages
        ]
        data = asdict(self.data)
        if self.data.text == NONE:  # as recipes were before there was text
            del data["text"]
        embedding: dict[str, Any] = {"projection": {m: flat(s) for m, s in self.projection.items()}}
        if self.network:
            embedding = {"network": flat(self.network)}
        if not stages:
            embedding["optimiser"] = {"seed": self.seed}
        return {"data": data, **embedding, "stages": stages}


def recipes(folder: Path = FOLDER) -> list[dict[str, str]]:
    """Name, path and header of every recipe that comes with the package: a summary, its command,
    its time, the number to expect and its source.

    >>> "infonce" in [recipe["name"] for recipe in learn.recipes()]
    True
    """
    return [
        {"name": path.stem, **_header(path.read_text()), "path": str(path)}
        for path in sorted(folder.glob("*.toml"))
    ]


def _header(text: str) -> dict[str, str]:
    """The summary and the facts in the comment that a recipe begins with.

    A fact is `# Word    what it says`, and goes on in lines that are indented as far.
    """
    comment = list(takewhile(lambda line: line.startswith("#"), text.splitlines()))
    facts = {"summary": comment[0].lstrip("# ")} | dict.fromkeys(FACTS, "")
    key = ""
    for line in comment[1:]:
        word, _, rest = line.lstrip("# ").partition(" ")
        if line[2:3].strip():  # a new fact begins at the margin
            key = word.lower() if word.lower() in FACTS else ""
        else:
            rest = line.lstrip("# ")
        if key:
            facts[key] = f"{facts[key]} {rest.strip()}".strip()
    return facts


def load(recipe: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or in that file, with `section.key=value` changes.

    A change of a section holds for every stage; `stages.NAME.section.key=value` for one.

    Raises:
        MissingFile: neither a recipe's name nor a file.
        ConfigError: not TOML, or a value of the wrong type.
        UnknownSetting, UnknownPlugin: says what exists and what was probably meant.
    """
    tables, source = read_tables(recipe, changes)
    return from_tables(tables, source=source)


def read_tables(
    recipe: str | Path, changes: Sequence[str], folder: Path = FOLDER
) -> tuple[dict[str, Any], str]:
    """The sections of a recipe with the changes made, and where it is from; see `load`."""
    path = Path(recipe)
    if not path.is_file():
        known = {entry["name"]: entry["path"] for entry in recipes(folder)}
        if str(recipe) not in known:
            raise MissingFile(
                f"no recipe {str(recipe)!r}{_elsewhere(str(recipe))}; there are "
                f"{choices(str(recipe), known)}"
            )
        path = Path(known[str(recipe)])
    try:
        tables = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise ConfigError(f"{path} is not TOML: {fault}") from None
    # Names come first: a plug-in that replaces another one is changed, not the one replaced.
    for change in sorted(changes, key=lambda change: not _is_name(change)):
        _apply(tables, change, source=str(path))
    return tables, str(path)


def _elsewhere(name: str) -> str:
    """Which command has a recipe of that name; "" if none has."""
    for command, folder in OF_COMMANDS.items():
        if any(path.stem == name for path in folder.glob("*.toml")):
            return f" here, it is one of `{command}`"
    return ""


def from_tables(tables: Mapping[str, Any], *, source: str) -> Recipe:
    """A recipe of its sections; what they leave out has its default."""
    known = ("data", "projection", "network", "objective", "optimiser", "views", "stages")
    for section, table in tables.items():
        if section not in known:
            raise UnknownSetting(
                f"{source} has no section {section!r}; there are {choices(section, known)}"
            )
        if section != "stages" and not isinstance(table, dict):
            raise ConfigError(f"{source}: {section} is not a [section]")
    solved = _closed_form(tables, source)
    stages = [{}] if solved else tables.get("stages", [{}])
    if not stages or not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise ConfigError(f"{source}: stages are [[stages]] sections, one at least")
    data = plugins.settle(DataSettings, "data", tables.get("data", {}))
    if "network" in tables and "projection" in tables:
        raise ConfigError(f"{source}: it is either [network] or [projection]")
    network = plugin_of("network", tables["network"]) if "network" in tables else None
    if solved:
        seed = plugins.settle(OptimiserSettings, "optimiser", tables.get("optimiser", {})).seed
        projections = _projections(tables)
        return Recipe(data=data, projection=projections, network=None, stages=(), seed=seed)
    built = tuple(_stage(number, table, tables) for number, table in enumerate(stages))
    if len(seeds := {stage.optimiser.seed for stage in built}) > 1:
        raise ConfigError(f"{source}: stages have different seeds; name one in [optimiser]")
    return Recipe(
        data=data,
        projection={} if network else _projections(tables),
        network=network,
        stages=built,
        seed=seeds.pop(),
    )


def _closed_form(tables: Mapping[str, Any], source: str) -> bool:
    """Whether the projections are solved rather than learnt.

    Raises:
        ConfigError: some are and some are not, or there is an objective for them too.
    """
    if not tables.get("projection"):
        return False
    projections = _projections(tables).values()
    solved = {is_solved(spec) for spec in projections}
    if solved == {False}:
        return False
    if solved != {True}:
        raise ConfigError(f"{source}: a projection that is solved goes with no other kind")
    if tables.get("objective") or tables.get("stages"):
        raise ConfigError(
            f"{source}: {next(iter(projections)).name} is solved at once: leave out [objective] "
            "and [[stages]]"
        )
    return True


def is_solved(projection: plugins.Spec) -> bool:
    """Whether this projection has a closed form, and no use for an objective."""
    return _is(projection, "closed_form")


def _is(projection: plugins.Spec, trait: str) -> bool:
    traits = plugins.glance(FAMILIES["projection"], projection.name, "TRAITS", None)
    return traits is not None and bool(getattr(traits, trait))


def knows_names(recipe: Recipe) -> bool:
    """Whether its projections are solved into the space of class names' vectors."""
    return any(_is(spec, "texts") for spec in recipe.projection.values())


def sized(recipe: Recipe, labels: "ClassEmbeddings | None") -> Recipe:
    """The recipe with projections into the space of class names as large as the vectors of these.

    Raises:
        ConfigError: another size was asked for.
    """
    if labels is None or not knows_names(recipe):
        return recipe
    width, projections = labels.vectors.shape[1], dict[str, plugins.Spec]()
    for modality, spec in recipe.projection.items():
        if spec.settings["dim_out"] not in (0, width):
            raise ConfigError(
                f"projection.dim_out={spec.settings['dim_out']}, and vectors of class names have "
                f"{width} numbers; use same"
            )
        projections[modality] = plugins.Spec(spec.name, {**spec.settings, "dim_out": width})
    return replace(recipe, projection=projections)


def saved(tables: Mapping[str, Any], *, source: str) -> Recipe:
    """The recipe of a run's `config.json`, which may be older than some settings."""
    known = dict(tables)
    if "projection" in tables:
        known["projection"] = {
            modality: _of_then("projection", table)
            for modality, table in tables["projection"].items()
        }
    if "network" in tables:
        known["network"] = _of_then("network", tables["network"])
    if "stages" in tables:
        known["stages"] = [
            {**stage, "objective": _of_then("objective", stage["objective"])}
            for stage in tables["stages"]
        ]
    return from_tables(known, source=source)


def _of_then(section: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """A plug-in's settings in a run, and for those that came later what it did before."""
    before = BEFORE.get((section, str(table.get("name"))), {})
    return {
        **{key: value(table) if callable(value) else value for key, value in before.items()},
        **table,
    }


def _stage(number: int, table: Mapping[str, Any], base: Mapping[str, Any]) -> Stage:
    known = ("name", "train", "rounds", "data", "objective", "optimiser", "views")
    section = f"stage {table.get('name', number)}"
    for key in table:
        if key not in known:
            raise UnknownSetting(f"{section} has no setting {key!r}; it has {choices(key, known)}")
    train = table.get("train", [])
    train = train.split(",") if isinstance(train, str) else train
    objective = dict(table.get("objective", {}))
    if "name" not in objective:
        objective = {**base.get("objective", {}), **objective}
    merged = {k: {**base.get(k, {}), **table.get(k, {})} for k in ("optimiser", "views")}
    try:
        rounds = int(table.get("rounds", 1))
    except ValueError:
        raise ConfigError(f"{section}: rounds={table['rounds']!r} is not a number") from None
    return Stage(
        name=str(table.get("name", "main" if number == 0 else f"stage{number}")),
        objective=plugin_of("objective", objective),
        optimiser=plugins.settle(OptimiserSettings, "optimiser", merged["optimiser"]),
        views=plugins.settle(ViewSettings, "views", merged["views"]),
        train=tuple(train),
        rounds=rounds,
        data=plugins.settle(StageData, "data", table.get("data", {})),
    )


def _apply(tables: dict[str, Any], change: str, *, source: str) -> None:
    """Make one change of `--set` in the tables of a recipe."""
    name, has_value, value = change.partition("=")
    path = [part.strip() for part in name.split(".")]
    if not has_value or len(path) < 2 or not all(path):
        raise ConfigError(
            f"`setting` {change!r} is not SECTION.KEY=VALUE, such as optimiser.epochs=20"
        )
    stages = tables.get("stages", [])
    if path[0] == "stages":
        names = [str(stage.get("name", number)) for number, stage in enumerate(stages)]
        if len(path) < 3 or path[1] not in names:
            known = choices(path[1], names) if names else "none"
            raise ConfigError(f"`setting` {change!r}: {source} has the stages {known}")
        _put(stages[names.index(path[1])], path[2:], value.strip(), change)
        return
    if _is_name(change):
        _replace(tables, path[0], path[1:-1], value.strip())
    for stage in stages:  # what is said now holds for every stage
        section = stage.get(path[0]) if path[0] in ("optimiser", "views", "objective") else None
        if isinstance(section, dict) and not (path[0] == "objective" and "name" in section):
            section.pop(path[1], None)
    _put(tables, path, value.strip(), change)


def _is_name(change: str) -> bool:
    """True if a change names the plug-in of a section."""
    path = [part.strip() for part in change.partition("=")[0].split(".")]
    return path[0] in FAMILIES and path[-1] == "name" and len(path) in (2, 3)


def _replace(tables: dict[str, Any], section: str, modality: Sequence[str], name: str) -> None:
    """Drop the settings of the plug-in that another one is to replace, and where a network takes
    the place of projections, or they that of a network, those."""
    for other in {"network", "projection"} - {section} if section != "objective" else ():
        tables.pop(other, None)
    table = tables.get(section, {})
    if modality:
        table = table.get(modality[0], {}) if isinstance(table, dict) else {}
    if not isinstance(table, dict) or table.get("name", name) == name:
        return
    table.clear()
    if section == "objective":
        for stage in tables.get("stages", []):
            if "name" not in stage.get("objective", {"name": ""}):
                del stage["objective"]


def _put(table: dict[str, Any], path: Sequence[str], value: str, change: str) -> None:
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"`setting` {change!r}: {part} is not a [section]")
    table[path[-1]] = value


def _projections(tables: Mapping[str, Any]) -> dict[str, plugins.Spec]:
    """A projection for each modality: the section's, with that modality's own changes."""
    table: Mapping[str, Any] = tables.get("projection", {})
    trained = SENSED if tables.get("data", {}).get("text", NONE) == NONE else MODALITIES
    base = {key: value for key, value in table.items() if key not in MODALITIES}
    projections = {}
    for modality in trained:
        section = table.get(modality, {})
        if not isinstance(section, dict):
            raise ConfigError(f"projection: {modality} is not a [section]")
        projections[modality] = plugin_of(
            "projection", section if "name" in section else {**base, **section}
        )
    return projections


def plugin_of(section: str, table: Mapping[str, Any]) -> plugins.Spec:
    """The plug-in of a section, with all its defaults written out."""
    family = FAMILIES[section]
    settings = dict(table)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"{section}.name is missing; there are {', '.join(plugins.known(family))}"
        )
    config = plugins.check(family, plugins.Spec(name, settings))
    assert is_dataclass(config)
    return plugins.Spec(name, {f.name: getattr(config, f.name) for f in fields(config)})


def flat(spec: plugins.Spec) -> dict[str, Any]:
    return {"name": spec.name, **spec.settings}
