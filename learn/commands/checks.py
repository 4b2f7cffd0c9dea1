"""Arguments of the `learn` commands, checked before torch is imported: a typo is told at once.

Those who do the work find the same out again. What takes long to know, as of stores and manifests
of more than some 10,000 clips, is left to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import store
from learn.annotation.asked import AnnotateSettings
from learn.data.clips import choose_split
from learn.data.device_names import check_device as check_device
from learn.data.features import MODALITIES, FeatureNames, choose_feature, names_of
from learn.evaluation.config import EpisodesConfig
from learn.evaluation.grid import combinations, parse_grid
from learn.evaluation.how_compared import check_comparison, check_scored
from learn.evaluation.wording import JOINED_BY
from learn.fewshot.mode_pairs import cells
from learn.finetuning import recipe as encoder_recipes
from learn.inference.settings import PredictSettings, check_words, parse_index
from learn.reporting.asked import check_map, check_report
from learn.training import recipe as recipes
from learn.training.run_files import check_finished, refuse_existing
from store import plugins
from store.errors import ConfigError, InputError, MissingFile, choices

if TYPE_CHECKING:
    from store import Manifest, Store

SMALL_BYTES = 4 << 20  # of a table of 10,000 clips, with room
NONE, OWN = "none", "own"
TASKS, HEADS, FUSIONS = "learn.fewshot.tasks", "learn.fewshot.heads", "learn.fewshot.fusions"
LOGGERS = "learn.training.loggers"
AUGMENTED = "learn.fewshot.augmentations"
PROTOCOLS, STRATEGIES = "learn.evaluation.protocols", "learn.annotation.strategies"
BENCHMARKS = ("3massiv-5k",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The clips, features, runs and modes that a call is about."""

    store: str
    manifest: str | Path | None
    split: str | None
    labels: Sequence[str]
    group: str | None
    visual: FeatureNames
    audio: FeatureNames
    text: FeatureNames
    projections: Sequence[str]
    support: Sequence[str]
    query: Sequence[str]


def check_episodes(config: EpisodesConfig, output: Path | None) -> None:
    """Refuse what `learn episodes` cannot be asked.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    _check_new(output)
    named = (HEADS, config.head_specs), (FUSIONS, config.fusions), (AUGMENTED, config.augments)
    for family, specs in named:
        for spec in specs:
            if (family, spec) != (HEADS, OWN):
                plugins.check(family, plugins.parse_spec(spec, family))
    _ = config.until  # refuses a width or a block that is none
    if config.episodes_file:
        _check_file(config.episodes_file, "episodes")
    else:
        _check_task(config)
    same = {f.name: getattr(config, f.name) for f in fields(Asked) if f.name != "labels"}
    fs = _check_asked(Asked(labels=[config.label], **same))
    if config.query_store:
        fs = store.open(config.query_store)
    if config.query_store or config.query_manifest:
        table = _table(fs, config.query_manifest)
        if table is not None:
            choose_split(table, config.query_split, "test")


def check_protocol(
    asked: Asked, protocol: str, output: Path | None, fusions: Sequence[str] = ()
) -> None:
    """Refuse what `learn evaluate` cannot be asked.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    _check_new(output)
    plugins.check(PROTOCOLS, plugins.parse_spec(protocol, PROTOCOLS))
    for way in fusions:
        if way not in JOINED_BY:
            raise ConfigError(f"probes join senses by {choices(way, JOINED_BY)}, not by {way!r}")
    _check_asked(asked)


def check_benchmark(name: str, output: Path, device: str) -> None:
    """Refuse what `learn benchmark` cannot be asked.

    Raises:
        InputError, ConfigError: one line that says what to do.
    """
    if name not in BENCHMARKS:
        raise InputError(f"no benchmark {name!r}; there are {choices(name, BENCHMARKS)}")
    check_device(device)
    refuse_existing(output)


def check_compare(runs: Sequence[Path], *, against: str, margin: float, ci: str) -> None:
    """Refuse what `learn compare` cannot be asked.

    Raises:
        InputError, ConfigError: one line that says what to do.
    """
    check_comparison(against, margin, ci)
    for run in runs:
        check_scored(run)


def check_train(
    directory: str, recipe: str, changes: Sequence[str], output: Path, *, manifest: Path | None,
    resume: bool, device: str, init: Path | None = None, loggers: Sequence[str] = (),
) -> None:  # fmt: skip
    """Refuse what `learn train` cannot be asked.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    check_device(device)
    if not resume:
        refuse_existing(output)
    if init is not None:
        check_finished(init)
    for spec in loggers:
        plugins.check(LOGGERS, plugins.parse_spec(spec, LOGGERS))
    _check_recipe(store.open(directory), recipes.load(recipe, changes), manifest)


def check_finetune(
    recipe: str, changes: Sequence[str], output: Path, modalities: Sequence[str], *, resume: bool
) -> None:
    """Refuse what `learn finetune` cannot be asked.

    Raises:
        InputError, ConfigError: one line that says what to do.
    """
    if not resume:
        refuse_existing(output)
    loaded = encoder_recipes.load(recipe, changes)
    encoder_recipes.check_encoders(recipe, loaded, modalities)


def check_sweep(
    directory: str, recipe: str, changes: Sequence[str], grid: Sequence[str], *,
    manifest: Path | None, device: str, scheduler: str | None, insecure_tcp: bool,
) -> None:  # fmt: skip
    """Refuse what `learn sweep` cannot be asked.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    check_device(device)
    if scheduler is not None:
        from store.cluster import check_url

        check_url(scheduler, insecure_tcp)
    loaded = [
        recipes.load(recipe, (*changes, *(f"{key}={value}" for key, value in chosen.items())))
        for chosen in combinations(parse_grid(grid))
    ]
    _check_recipe(store.open(directory), loaded[0], manifest)


def check_predict(
    directory: str, settings: PredictSettings, *, mode: str | None, projection: Path | None,
    visual: FeatureNames, audio: FeatureNames, text: FeatureNames,
) -> None:  # fmt: skip
    """Refuse what `learn predict` cannot be asked.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    parse_index(settings.index)
    for family, spec in ((HEADS, settings.head_spec), (FUSIONS, settings.fusion)):
        if spec is not None:
            plugins.check(family, plugins.parse_spec(spec, family))
    _check_place(directory, [mode], projection, visual, audio, text)
    for path, columns in ((settings.support, settings.labels), (settings.query, ())):
        if path is None or not _is_small(Path(path)):
            continue
        table = store.read_manifest(path, ids_suffice=True)
        _check_columns(table, columns, None)


def check_search(
    directory: str, *, clip: str, words: str, top: int, modes: Sequence[str | None],
    projection: Path | None, visual: FeatureNames, audio: FeatureNames, text: FeatureNames,
) -> None:  # fmt: skip
    """Refuse what `learn search` cannot be asked.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    if top < 1:
        raise ConfigError(f"top={top}: ask for at least one clip")
    check_words(clip, words, modes[0])
    _check_place(directory, modes, projection, visual, audio, text)


def check_annotate(settings: AnnotateSettings) -> None:
    """Refuse what `learn annotate` cannot be asked.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    for family, spec in ((HEADS, settings.head_spec), (STRATEGIES, settings.strategy)):
        plugins.check(family, plugins.parse_spec(spec, family))
    _check_place(
        settings.store,
        [settings.mode],
        settings.projection,
        settings.visual,
        settings.audio,
        settings.text,
    )


def check_page(
    runs: Sequence[Path], output: Path, media: Sequence[Path], map_by: str,
    figures: Path | None = None,
) -> None:  # fmt: skip
    """Refuse what `learn report` cannot be asked.

    Raises:
        InputError, ConfigError: one line that says what to do.
    """
    check_map(map_by)
    check_report(runs, output, media, figures)


def _check_asked(asked: Asked) -> "Store":
    cells(asked.support, asked.query, ())
    fs = _check_runs_and_store(asked.projections, asked.store)
    _check_features(fs, asked.projections, asked.visual, asked.audio, asked.text)
    table = _table(fs, asked.manifest)
    if table is not None:
        choose_split(table, asked.split, "test")
        _check_columns(table, asked.labels, asked.group)
    return fs


def _check_new(output: Path | None) -> None:
    if output:
        refuse_existing(output)


def _check_file(path: str | Path, what: str) -> None:
    if not Path(path).is_file():
        raise MissingFile(f"no {what} {path}; check the path")


def _check_task(config: EpisodesConfig) -> None:
    """The task with the settings of every draw; see `learn/evaluation/episodes.py`."""
    if not config.shots:
        raise ConfigError("no number of shots; name one at least")
    spec = plugins.parse_spec(config.task, TASKS)
    known = {field.name for field in fields(plugins.config_type(TASKS, spec.name))}
    given = {key: value for key, value in config.drawn.items() if key in known}
    given |= dict(spec.settings)
    for shots in config.shots:
        count = {"shots": shots} if "shots" in known and "shots" not in spec.settings else {}
        plugins.check(TASKS, plugins.Spec(spec.name, given | count))


def _check_runs_and_store(projections: Sequence[str], directory: str) -> "Store":
    for path in projections:
        if path != NONE:
            check_finished(Path(path))
    return store.open(directory)


def _check_place(
    directory: str, modes: Sequence[str | None], projection: Path | None, visual: FeatureNames,
    audio: FeatureNames, text: FeatureNames,
) -> None:  # fmt: skip
    """A store, the modes and features of it, and a run."""
    cells([mode for mode in modes if mode], (), ())
    named = [str(projection)] if projection else []
    _check_features(_check_runs_and_store(named, directory), named, visual, audio, text)


def _check_features(
    fs: "Store",
    projections: Sequence[str],
    visual: FeatureNames,
    audio: FeatureNames,
    text: FeatureNames,
) -> None:
    """The features named; which one is meant where none is, a run may say."""
    for modality, asked in zip(MODALITIES, (visual, audio, text), strict=True):
        for name in names_of(asked):
            if not (set(projections) - {NONE}):
                choose_feature(fs, modality, name)
    if not fs.features:
        raise InputError("no feature to score; run: extract run MANIFEST")


def _check_recipe(fs: "Store", recipe: recipes.Recipe, manifest: Path | None) -> None:
    """The features, columns and splits that a recipe names."""
    for modality in MODALITIES:
        for name in recipe.data.features(modality):
            choose_feature(fs, modality, name)
    if recipe.data.labels:
        _check_file(recipe.data.labels, "vectors of class names")
    table = _table(fs, manifest)
    if table is not None:
        choose_split(table, recipe.data.split or None, "train")


def _table(fs: "Store", manifest: str | Path | None) -> "Manifest | None":
    """The manifest, if it is small: those kept in the store, or a file."""
    if manifest is not None:
        path = Path(manifest)
        return store.read_manifest(path) if _is_small(path) else None
    folder = fs.storage.local_path
    if folder is None:
        return None
    kept = [folder / f"manifests/{stamp}-{digest}.parquet" for stamp, digest in fs.manifest_names()]
    small = sum(path.stat().st_size for path in kept if path.is_file()) <= SMALL_BYTES // 4
    return fs.manifest() if small else None


def _is_small(path: Path) -> bool:
    """True for a file worth reading twice, and for one that is not there, which is to be told."""
    return not path.is_file() or path.stat().st_size <= SMALL_BYTES


def _check_columns(table: "Manifest", labels: Sequence[str], group: str | None) -> None:
    for name in labels:
        table.column(name)
    if group not in (None, NONE):
        table.column(str(group))
