"""`learn episodes`: every head, projection, mode and number of shots on the same saved episodes.

Shapes: V = clips, D = size of a vector, E = episodes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from learn.data import devices
from learn.data.clips import Clips, choose_split, clips_of, group_names, splits
from learn.data.evaluation_set import EvaluationSet, load_evaluation_set
from learn.data.features import FeatureNames
from learn.data.group_file import manifest_of
from learn.data.other_classes import other_classes
from learn.evaluation import pools
from learn.evaluation.augmented import augmented, base_classes
from learn.evaluation.benchmark import (
    Benchmark,
    check_group_separation,
    leakage,
    makes_use,
    possible,
)
from learn.evaluation.compared import Fusions, fusions_of
from learn.evaluation.config import MOST, EpisodesConfig
from learn.evaluation.drop import OF_MODE
from learn.evaluation.feasible import nothing_left, remedies
from learn.evaluation.missing_modality import Drop, Missing, curves
from learn.evaluation.results import EpisodesResult, Result
from learn.evaluation.until_ci import draw_until
from learn.fewshot import episode_files, statistics
from learn.fewshot.fusions._shipped import encoders_of
from learn.fewshot.fusions.weighted import Weighted
from learn.fewshot.heads import Head
from learn.fewshot.modes import modality_of
from learn.fewshot.scoring import MEMORY
from learn.fewshot.tasks import CLASSIC, FAMILY, GROUPS, Episodes, traits_of
from learn.inference.selection import (
    NONE,
    Selection,
    absolute,
    runs_of,
    same_feature,
    select,
)
from learn.training import own_head
from learn.training.runs import Run
from store import open as open_store
from store import plugins, read_manifest
from store.errors import ConfigError, InputError, NotEnoughClips

if TYPE_CHECKING:
    from store import Manifest, Store

Progress = Callable[[int, int, str], None]


def run_episodes(
    store_path: str | Path,
    *,
    manifest: str | Path | None = None,
    split: str | None = None,
    label: str = "label",
    group: str | None = None,
    group_file: str | Path | None = None,
    groups: str = "within",
    inflation: bool = False,
    task: str = CLASSIC,
    ways: int = 5,
    shots: Sequence[int] = (1,),
    queries: int = 15,
    episodes: int | None = None,
    until_ci: float | None = None,
    max_episodes: int = MOST,
    seed: int = 0,
    visual: FeatureNames = None,
    audio: FeatureNames = None,
    text: FeatureNames = None,
    heads: Sequence[str] = (),
    fusions: Sequence[str] = (),
    augments: Sequence[str] = (),
    projections: Sequence[str | Path] = (),
    guard: str = "on",
    names: str = "on",
    support: Sequence[str] = (),
    query: Sequence[str] = (),
    save_episodes: str | Path | None = None,
    episodes_file: str | Path | None = None,
    drop: Drop | None = None,
    query_store: str | Path | None = None,
    query_manifest: str | Path | None = None,
    query_split: str | None = None,
    ci: str = statistics.METHODS[0],
    memory: int = MEMORY,
    device: str = "auto",
    progress: Progress | None = None,
) -> EpisodesResult:
    """Accuracy of every head × projection × mode × shots on the same episodes and clips.

    All arguments but `save_episodes`, `device` and `progress` are settings of
    `EpisodesConfig`, which says what each means. Where several projections are asked about a
    matrix of modes, each gives those cells that it can, and any cell one at least. With
    `query_store`, `query_manifest` or both, classes are those that have one name in both sets of
    clips, features the same in both.

    >>> result = learn.run_episodes(
    ...     "my_store", split="all", heads=["ridge"], shots=[1], queries=3, support=["v"]
    ... )
    >>> result.to_pandas()[["head", "shots", "episodes"]].values.tolist()
    [['ridge', 1, 10000]]

    Raises:
        NotEnoughClips: the episodes asked for cannot be drawn.
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    config = EpisodesConfig.of(locals())
    question = pose(config, devices.chosen(device))
    drawing = draw(config, question)
    if save_episodes:
        episode_files.save(Path(save_episodes), drawing.clips, drawing.draws)
    return score(config, question, drawing, progress)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """The heads, projections and modes to compare, and the clips to compare them on."""

    heads: Mapping[str, Mapping[str, Head]]  # by projection
    selection: Selection
    manifest: "Manifest"
    split: str
    pool: str  # what the task's clips are told apart by; see `learn.fewshot.tasks`
    scored: EvaluationSet
    val: EvaluationSet | None  # of the same kind as `scored`, to choose settings on
    query_split: str | None = None  # of the other collection, where queries come from one
    groups_in_both: int = 0  # that have one name in two stores: perhaps one source
    device: torch.device = devices.CPU  # where heads answer

    @property
    def every_head(self) -> list[Head]:
        """The heads of all projections."""
        return [head for of_run in self.heads.values() for head in of_run.values()]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing:
    """The episodes, and the benchmark that is ready to score them."""

    benchmark: Benchmark
    reached: bool | None  # are intervals as narrow as asked for? None: nobody asked

    @property
    def clips(self) -> Clips:
        """The clips that the episodes index."""
        return self.benchmark.scored.clips

    @property
    def draws(self) -> Sequence[Episodes]:
        """The episodes of each number of shots."""
        return self.benchmark.draws


def pose(config: EpisodesConfig, device: torch.device = devices.CPU) -> Question:
    """Load runs, heads and clips; the device is where vectors are made and heads answer.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    runs = runs_of(config.projections, device)
    heads = {name: {h: _head(h, run) for h in config.head_specs} for name, run in runs.items()}
    every_head = [head for of_run in heads.values() for head in of_run.values()]
    store = open_store(config.store)
    manifest = manifest_of(store, config.manifest, config.group_file, config.group)
    split = choose_split(manifest, config.split, "test")
    pool = traits_of(_task_of(config)).pool
    drops_text = config.drop is not None and "t" in config.drop.modes
    selection = select(
        store, runs, visual=config.visual, audio=config.audio, text=config.text,
        support=config.support, query=config.query, extra_shots=makes_use(every_head, "other"),
        asked_about=None if drops_text
        else lambda: _asked_about(config, manifest, "all" if pool == "base" else split),
    )  # fmt: skip
    scored = load_evaluation_set(
        manifest, selection.features, split="all" if pool == "base" else split,
        label=config.label, group=config.group, several=pool == "targets",
    )  # fmt: skip
    if not len(scored.clips):
        raise InputError(nothing_left(scored, split))
    question = Question(
        heads=heads, selection=selection, manifest=manifest, split=split, pool=pool,
        scored=scored, val=None, device=device,
    )  # fmt: skip
    if pool == "base":
        val = pools.of_val(scored, manifest, split)
        question = replace(question, val=val, scored=pools.generalised(scored, manifest, split))
    if config.query_store or config.query_manifest:
        question = _crossed(config, question)
    return question


def _asked_about(
    config: EpisodesConfig, manifest: "Manifest", split: str
) -> "Iterator[tuple[Store | None, Sequence[str]]]":
    """The clips of the episodes, and those of another collection that queries come from."""
    yield None, clips_of(manifest, split)
    if config.query_store or config.query_manifest:
        other = open_store(config.query_store or config.store)
        table = read_manifest(config.query_manifest) if config.query_manifest else other.manifest()
        yield other, clips_of(table, choose_split(table, config.query_split, "test"))


def _crossed(config: EpisodesConfig, question: Question) -> Question:
    """The same question with queries from another collection of clips."""
    store = open_store(config.query_store or config.store)
    manifest = read_manifest(config.query_manifest) if config.query_manifest else store.manifest()
    split = choose_split(manifest, config.query_split, "test")
    shot_features = question.selection.features
    features = {m: same_feature(store, feature.name) for m, feature in shot_features.items()}
    queries = load_evaluation_set(
        manifest, features, split=split, label=config.label, group=config.group
    )
    if question.pool != "split":
        raise ConfigError(
            f"`task` {config.task} has no queries from elsewhere; leave `query_store`, "
            "`query_manifest` and `query_split` out"
        )
    same = config.query_store in (None, config.store)
    names = group_names(question.manifest, config.group), group_names(manifest, config.group)
    scored = pools.crossed(question.scored, queries, same_store=same, groups_of=names)
    twice = 0 if same else len(_named_twice(scored.clips, *names))
    return replace(question, scored=scored, query_split=split, groups_in_both=twice)


def _named_twice(
    clips: Clips, support: Mapping[str, str] | None, query: Mapping[str, str] | None
) -> set[str]:
    """The groups that have one name in both collections, where clips of both are left."""
    if support is None or query is None:
        return set()
    sides = {"support": support, "query": query}
    parts = [clip.partition("/") for clip in clips.ids]
    found = {
        side: {of[clip] for name, _, clip in parts if name == side} for side, of in sides.items()
    }
    return {name for name in found["support"] & found["query"] if not name.startswith("alone ")}


def draw(config: EpisodesConfig, question: Question) -> Drawing:
    """Draw or load the episodes, as many as it takes.

    Raises:
        NotEnoughClips: the episodes asked for cannot be drawn.
    """
    scored = question.scored
    if config.episodes_file:
        clips, draws = episode_files.load(Path(config.episodes_file), scored.clips)
        scored = scored.keep(np.isin(scored.clips.ids, clips.ids))
    else:
        draws = _draws_or_remedies(config, scored)
    if config.inflation:
        check_group_separation(scored.clips, draws[0])
    base = None
    if config.drop or any(head.centred_by == "base" for head in question.every_head):
        base = _base(question)
    runs, crossed = question.selection.runs, question.query_split is not None
    cells = possible(runs, question.selection.cells, scored)
    fusions = fusions_of(config.fusions, runs, cells, scored)
    benchmark = Benchmark(
        heads=question.heads, runs=runs, cells=cells,
        fusions=fusions, apart=_apart(config, question, fusions),
        features=question.selection.features, scored=scored, base=base, draws=draws,
        memory=config.memory, val=question.val, guard=config.guard, device=question.device,
        named=_named(config, runs, scored),
        ids=frozenset(clip.partition("/")[2] if crossed else clip for clip in scored.clips.ids),
    )  # fmt: skip
    if config.until is None:
        return Drawing(benchmark=benchmark, reached=None)
    draws, reached = draw_until(
        config.until, seed=config.seed, ci=config.ci,
        draw=lambda seed: _draws(config, scored.clips, seed),
        score=lambda new: replace(benchmark, draws=new).results(config.ci),
    )  # fmt: skip
    return Drawing(benchmark=replace(benchmark, draws=draws), reached=reached)


def score(
    config: EpisodesConfig, question: Question, drawing: Drawing, progress: Progress | None
) -> EpisodesResult:
    """Score every head, projection, pair of modes and draw, row by row."""
    benchmark = drawing.benchmark
    points = _points(config, benchmark) if config.drop else None
    base = _augmented_from(config, question) if config.augments else None
    results: list[Result] = []
    for result in benchmark.results(config.ci):
        results.append(result)
        if progress:
            progress(len(results), benchmark.size, "")
    return EpisodesResult(
        sampling=_sampling(config, question, drawing),
        clips=drawing.clips,
        draws=drawing.draws,
        results=results,
        inflation=leakage(benchmark, results, config.ci) if config.inflation else None,
        missing=None if points is None else list(points),
        augmented=None
        if base is None
        else list(augmented(benchmark, config.augments, base, seed=config.seed, ci=config.ci)),
        config=config,
    )


def _points(config: EpisodesConfig, benchmark: Benchmark) -> Iterator[Missing]:
    """The curves over missing modalities; what cannot be is refused before anything is scored."""
    measure = benchmark.draws[0].measure
    if measure != "accuracy":
        raise ConfigError(f"`drop` is about accuracy, and these episodes: {measure}")
    assert config.drop is not None
    senses = list(benchmark.scored.rows)
    if any(modality_of(sense) != sense for sense in senses):
        raise InputError("`drop` is about one feature of each modality; name one")
    if missing := [OF_MODE[mode] for mode in config.drop.modes if OF_MODE[mode] not in senses]:
        raise InputError(f"`drop` needs {missing[0]} features in play, and there are none")
    if len(senses) < 2:
        raise InputError(f"`drop` needs features of two modalities in play; {senses[0]} is alone")
    return curves(
        config.drop, heads=benchmark.heads, runs=benchmark.runs, scored=benchmark.scored,
        base=benchmark.base, draws=benchmark.draws, ci=config.ci,
        encoders=encoders_of(benchmark.features, senses),
    )  # fmt: skip


def _sampling(config: EpisodesConfig, question: Question, drawing: Drawing) -> dict[str, Any]:
    """The clips and settings that the episodes were drawn from, as the result's JSON has them."""
    clips, first = drawing.clips, drawing.draws[0]
    elsewhere = {}
    if question.query_split is not None:
        elsewhere = {
            "query_store": absolute(config.query_store or config.store),
            "query_manifest": absolute(config.query_manifest) if config.query_manifest else None,
            "query_split": question.query_split,
            **({"groups_in_both": question.groups_in_both} if question.groups_in_both else {}),
        }
    return {
        "store": absolute(config.store),
        **elsewhere,
        "manifest": absolute(config.manifest) if config.manifest else None,
        "task": CLASSIC,
        "groups": GROUPS[0] if clips.groups is not None else "mixed",
        **{key: value for key, value in first.sampling().items() if key != "shots"},
        **({"groups": "mixed"} if clips.groups is None else {}),  # whatever the task was told
        **({} if drawing.reached is None else {"until_ci_reached": drawing.reached}),
        "split": question.split,
        "label": config.label,
        "group": None if clips.groups is None else config.group or "group",
        **({"group_file": absolute(config.group_file)} if config.group_file else {}),
        "classes": len(clips.classes),
        "clips": len(clips),
        "clips_sha256": clips.sha256,
        "dropped": drawing.benchmark.scored.dropped,
        **({"scarce_text": scarce.to_dict()} if (scarce := question.selection.scarce) else {}),
        "features": {m: feature.name for m, feature in question.selection.features.items()},
    }


def _augmented_from(config: EpisodesConfig, question: Question) -> EvaluationSet:
    """The classes that augmentations learn from; what cannot be is refused before scoring."""
    if question.query_split is not None or question.pool != "split":
        raise ConfigError("`augment` is about plain episodes of one collection; leave out the rest")
    return base_classes(
        question.manifest, question.selection.features, question.scored, split=question.split,
        label=config.label,
    )  # fmt: skip


def _task_of(config: EpisodesConfig) -> str:
    """The name of the task; of episodes from a file, the file's."""
    if config.episodes_file:
        return episode_files.task_of(Path(config.episodes_file))
    return plugins.parse_spec(config.task, FAMILY).name


def _head(spec: str, run: Run | None) -> Head:
    if spec == own_head.NAME:
        return own_head.of_episodes(run)
    return plugins.build("learn.fewshot.heads", spec)


def _base(question: Question) -> EvaluationSet | None:
    """The clips of the split `train`, unless they are among those scored."""
    if question.split in ("all", "train") or "train" not in splits(question.manifest):
        return None
    base = load_evaluation_set(
        question.manifest, question.selection.features, split="train", label=None, group=NONE
    )
    return base if len(base.clips) else None


def _named(
    config: EpisodesConfig, runs: Mapping[str, Run | None], scored: EvaluationSet
) -> dict[str, str]:
    """Projections that know a way from names of classes, and why these are no sense of theirs, or
    ""."""
    if config.names == "off" or config.guard == "off" or scored.clips.targets is not None:
        return {}
    found = {}
    for projection, run in runs.items():
        if run is not None and run.knows_names:
            lacking = [name for name in scored.clips.classes if not run.has_name(name)]
            found[projection] = (
                f"{len(lacking)} of {len(scored.clips.classes)} names have no vector in "
                f"{projection}, {lacking[0]!r} for one"
                if lacking
                else ""
            )
    return found


def _apart(config: EpisodesConfig, question: Question, fusions: Fusions) -> EvaluationSet | None:
    """The clips of classes that nobody asks about, where a fusion learns from them."""
    kinds = [fusion for of_run in fusions.values() for fusion in of_run.values()]
    wanted = any(isinstance(kind, Weighted) and kind.prior == "auto" for kind in kinds)
    wanted |= config.guard != "off" and any(question.selection.runs.values())
    if not wanted or question.query_split is not None:
        return None
    scored = question.scored.clips
    if question.split == "all" or scored.targets is not None:
        return None
    return other_classes(
        question.manifest, question.selection.features, asked=scored.classes, label=config.label,
        group=config.group, scored_split=question.split,
    )  # fmt: skip


def _draws_or_remedies(config: EpisodesConfig, scored: EvaluationSet) -> list[Episodes]:
    """The draws; a refusal says which classes vanished, and what numbers would work.

    Raises:
        NotEnoughClips: the episodes asked for cannot be drawn.
    """
    try:
        return _draws(config, scored.clips, config.seed)
    except NotEnoughClips as error:
        numbered = {f.name for f in fields(plugins.module(FAMILY, _task_of(config)).Config)}
        if not {"ways", "shots", "queries"} <= numbered or "base_ways" in numbered:
            raise
        if scored.clips.targets is not None:
            raise
        spec = plugins.parse_spec(config.task, FAMILY).settings
        asked = {key: int(spec.get(key, getattr(config, key))) for key in ("ways", "queries")}
        shots = (int(spec["shots"]),) if "shots" in spec else config.shots
        groups = str(spec.get("groups", config.groups))
        raise NotEnoughClips(
            str(error).rstrip(".") + remedies(scored, **asked, shots=shots, groups=groups)
        ) from None


def _draws(config: EpisodesConfig, clips: Clips, seed: int) -> list[Episodes]:
    """A draw for each number of shots, or one where the task draws that itself."""
    if not config.shots:
        raise ConfigError("no number of shots; name one at least")
    spec = plugins.parse_spec(config.task, FAMILY)
    known = {field.name for field in fields(plugins.module(FAMILY, spec.name).Config)}
    given = {key: value for key, value in config.drawn.items() if key in known}
    given |= dict(spec.settings)
    counts = [{"shots": k} for k in dict.fromkeys(config.shots)]
    if "shots" in spec.settings or "shots" not in known:
        counts = [{}]
    tasks = [plugins.build(FAMILY, plugins.Spec(spec.name, given | count)) for count in counts]
    return [task(clips, seed=seed) for task in tasks]
